"""MRC2014 files: a strict reader that reads the header itself, and an atomic writer."""

import bz2
import contextlib
import gzip
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taigs.errors import InputError, InputWarning, NumericalError, RefusedError, ResourceError
from taigs.io.files import existing_file, reading
from taigs.io.sections import READ_BYTES, Sections, stamp

HEADER_BYTES = 1024
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
OTHER_MODES = {3: "complex 16-bit integers", 4: "complex", 16: "RGB", 101: "4-bit integers"}
SIGNS = {"signed": "i1", "unsigned": "u1"}  # of mode 0
IMOD_STAMP = 1146047817
SURPLUS_BYTES = 1 << 16  # that are counted after compressed data
LARGEST_SIZE = 2**20  # of one axis, for telling the byte order; a swapped small number is >= 2^16

_FIELDS = [
    ("size", "i4", 3), ("mode", "i4"), ("start", "i4", 3), ("sampling", "i4", 3), ("cell", "f4", 3),
    ("cell_angles", "f4", 3), ("axes", "i4", 3), ("minimum", "f4"), ("maximum", "f4"), ("mean", "f4"),
    ("ispg", "i4"), ("nsymbt", "i4"), ("extra", "V8"), ("exttyp", "S4"), ("nversion", "i4"),
    ("extra2", "V40"), ("imod_stamp", "i4"), ("imod_flags", "i4"), ("extra3", "V36"),
    ("origin", "f4", 3), ("map", "S4"), ("stamp", "V4"), ("rms", "f4"), ("nlabl", "i4"),
    ("labels", "S80", 10),
]  # fmt: skip
_HEADER = np.dtype(_FIELDS)


@dataclass(frozen=True)
class MrcHeader:
    """What an MRC header says, checked against the file.

    ``shape`` is that of the data as stored (sections, rows, columns); ``axes`` names which of x, y,
    z (1, 2, 3) columns, rows and sections are. ``voxel_size`` is (x, y, z) in Angstrom, or None where
    the header leaves it unset (0, exactly 1, not finite). ``dtype`` includes the byte order; of mode 0
    ``is_sign_guessed`` if neither the file nor the user told its sign. The file holds the first ``whole``
    sections; fewer than all only where a truncated file is allowed. ``start`` (voxels) and
    ``origin`` (Angstrom) are in the order x, y, z; see `first_voxel`.
    """

    shape: tuple
    mode: int
    dtype: np.dtype
    voxel_size: tuple | None
    axes: tuple
    start: tuple
    origin: tuple
    ispg: int
    offset: int
    is_imod: bool
    labels: tuple
    file_size: int
    whole: int
    is_sign_guessed: bool

    def first_voxel(self, voxel_size):
        """Where voxel 0 lies (x, y, z; Angstrom): the header's origin or else, as ChimeraX reads it, its nstart."""
        if np.any(self.origin) and np.isfinite(self.origin).all():
            return np.array(self.origin)
        return voxel_size * np.array(self.start, float)


# --- reading -------------------------------------------------------------------------------------


def read_header(path, mode0=None, allow_truncated=False):
    """Read and check the header (`MrcHeader`) of an MRC file, plain or compressed (gzip, bzip2).

    Parameters
    ----------
    path : path-like
    mode0 : {"signed", "unsigned"}, optional
        What bytes are; default: as IMOD's flag says, else signed, as MRC2014 says.
    allow_truncated : bool
        Make do with the whole sections of a file that is shorter than its header says.

    Raises
    ------
    InputError
        If the file is missing, is no MRC file, cannot hold images or is shorter than its header says.
    ResourceError
        If it may not be read, or does not fit into memory decompressed.

    Warns
    -----
    InputWarning
        On bytes after the data, missing sections, a wrong machine stamp or unset axis numbers.
    """
    return _open(path, mode0, allow_truncated)[0]


def open_stack(path, mode0=None, allow_truncated=False):
    """Open an image stack: (header, `Sections`), of which the sections are read when they are indexed.

    Parameters and errors as of `read_header`; also InputError if the axes are not x, y, z.
    """
    header, images = _open(path, mode0, allow_truncated)
    if header.axes != (1, 2, 3):
        raise InputError(f"{path}: axis order {header.axes} in an image stack; expected (1, 2, 3)")
    return header, images


def open_sections(path, mode0=None, allow_truncated=False):
    """As `open_stack`, but whatever the axes are: sections as they are stored."""
    return _open(path, mode0, allow_truncated)


def read_volume(path):
    """Read a volume: (float32 array [z, y, x], header). Raises as `read_header`.

    The axes are turned to z, y, x whatever their order in the file; the header keeps the file's.
    """
    header, sections = _open(path)
    runs_along = header.axes[::-1]  # the axis (1 x, 2 y, 3 z) of each dimension of the stored array
    order = [runs_along.index(axis) for axis in (3, 2, 1)]
    try:
        volume = np.empty([header.shape[i] for i in order], np.float32)
    except MemoryError:
        raise ResourceError(f"{path}: needs {sections.size * 4 / 1e9:.1f} GB of memory; try binning it first") from None
    stored = volume.transpose(np.argsort(order))
    for places, data in sections.runs(np.arange(len(sections))):
        stored[places[0] : places[-1] + 1] = data
    if header.is_sign_guessed and volume.min() < 0:
        warn_of_sign(path, "convert it to 16 bit first")
    return volume, header


def warn_of_sign(path, remedy="try --mode0 unsigned (or signed, if it is right)"):
    """Mode 0 is signed by the standard, but old programs meant 0..255; to be said where a value is negative."""
    meant = f"if the program that wrote it meant 0..255, {remedy}"
    _warn(f"{path}: 8-bit data read as signed (-128..127), as MRC2014 says; {meant}")


def _open(path, mode0=None, allow_truncated=False):
    """(header, Sections)."""
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        head, found = file.read(HEADER_BYTES), stamp(file)
    opener = gzip.open if head[:2] == b"\x1f\x8b" else bz2.open if head[:3] == b"BZh" else None
    if opener is None:
        header = _parse(path, head, found[0], mode0, allow_truncated)
        return header, Sections(path, header, found)
    content = _decompress(path, opener)
    header = _parse(path, bytes(content[:HEADER_BYTES]), len(content), mode0, allow_truncated)
    return header, Sections(path, header, found, content)


def _decompress(path, opener):
    """The bytes of a compressed file, few beyond those that its header accounts for: it may be a bomb."""
    try:
        with opener(path) as file:
            content = bytearray(file.read(HEADER_BYTES))
            most = _claimed_bytes(path, bytes(content)) + SURPLUS_BYTES
            while len(content) < most and (part := file.read(min(READ_BYTES, most - len(content)))):
                content += part
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: the compressed file is damaged ({error}); fetch it again") from error
    except MemoryError:
        raise ResourceError(f"{path}: does not fit into memory decompressed; try decompressing it to disk") from None
    return content


def _claimed_bytes(path, head):
    """Size of the file that a header describes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the header is read for good
        h, _ = _fields(path, head, len(head))
    nsymbt, itemsize = max(0, int(h["nsymbt"])), np.dtype(MODES[int(h["mode"])]).itemsize
    return HEADER_BYTES + nsymbt + int(np.prod(h["size"].astype(object))) * itemsize


def _fields(path, head, size):
    """(fields of a header that can be one of images, byte order); `size` is that of the file."""
    if len(head) < HEADER_BYTES:
        raise InputError(f"{path}: {size} bytes, an MRC header is {HEADER_BYTES}")
    if head[208:211] != b"MAP" or head[211:212] not in (b" ", b"\0"):
        raise InputError(f'{path}: not an MRC file (no "MAP " at byte 208)')
    order = _byte_order(path, head)
    h = np.frombuffer(head, _HEADER.newbyteorder(order), 1)[0]
    nx, ny, nz = (int(n) for n in h["size"])
    for name, n in (("nx", nx), ("ny", ny), ("nz", nz)):
        if n <= 0:
            raise InputError(f"{path}: {name} = {n} is not a size")
    mode, ispg, mz = int(h["mode"]), int(h["ispg"]), int(h["sampling"][2])
    if mode not in MODES:
        meaning = f" ({OTHER_MODES[mode]})" if mode in OTHER_MODES else ""
        raise InputError(f"{path}: mode {mode}{meaning} is not an image; supported 0 1 2 6 12")
    if 401 <= ispg <= 630 and (mz <= 0 or nz % mz):
        raise InputError(f"{path}: volume stack with nz={nz}, mz={mz}; expected nz to be a multiple of mz")
    return h, order


def _parse(path, head, size, mode0=None, allow_truncated=False):
    h, order = _fields(path, head, size)
    mode, shape = int(h["mode"]), tuple(int(n) for n in h["size"][::-1])
    is_imod = int(h["imod_stamp"]) == IMOD_STAMP
    # IMOD wrote unsigned bytes before it knew the standard; its flag 1 says that they are signed.
    kind = "u1" if mode == 0 and is_imod and not int(h["imod_flags"]) & 1 else MODES[mode]
    dtype = np.dtype(order + (SIGNS[mode0] if mode == 0 and mode0 else kind))
    axes = _axes(path, h)
    return MrcHeader(
        shape=shape,
        mode=mode,
        dtype=dtype,
        voxel_size=_voxel_size(h),
        axes=axes,
        start=tuple(int(h["start"][axes.index(axis)]) for axis in (1, 2, 3)),  # stored along the axes of the file
        origin=tuple(float(o) for o in h["origin"]),
        ispg=int(h["ispg"]),
        offset=HEADER_BYTES + int(h["nsymbt"]),
        is_imod=is_imod,
        labels=tuple(b.decode("latin-1").strip(" \0") for b in h["labels"][: max(0, int(h["nlabl"]))]),
        file_size=size,
        whole=_whole_sections(path, shape, dtype, size - HEADER_BYTES, int(h["nsymbt"]), allow_truncated),
        is_sign_guessed=mode == 0 and not is_imod and mode0 is None,
    )


def _byte_order(path, head):
    """'<' or '>': what the machine stamp says, unless mode and nx make sense only the other way."""

    def plausible(order):
        nx, mode = (int(np.frombuffer(head, order + "i4", 1, at)[0]) for at in (0, 12))
        return 0 < nx < LARGEST_SIZE and (mode in MODES or mode in OTHER_MODES)

    marked = head[212:214]
    claimed = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}.get(marked)
    order = claimed or "<"
    swapped = "<" if order == ">" else ">"
    if not plausible(order) and plausible(swapped):
        order = swapped
    if order != claimed:
        name = {"<": "little", ">": "big"}[order]
        _warn(f"{path}: machine stamp {marked.hex(' ')} is wrong; mode and nx say {name}-endian")
    return order


def _voxel_size(h):
    with np.errstate(divide="ignore", invalid="ignore"):
        size = h["cell"].astype(np.float64) / h["sampling"]
    valid = np.isfinite(size) & (size > 0)
    if h["ispg"] == 0 and not valid[2]:  # an image stack has no z: many writers leave it at 0
        size[2], valid[2] = size[0], valid[0]
    if not valid.all() or np.all(size == 1.0):
        return None
    return tuple(float(f"{s:.6g}") for s in size)  # float32 holds no more: 1.35 stays 1.35


def _axes(path, h):
    axes = tuple(int(a) for a in h["axes"])
    if axes == (0, 0, 0):
        _warn(f"{path}: mapc, mapr, maps are unset; 1, 2, 3 assumed")
        return (1, 2, 3)
    if sorted(axes) != [1, 2, 3]:
        raise InputError(f"{path}: mapc, mapr, maps = {axes}; expected 1, 2, 3 in some order")
    return axes


def _whole_sections(path, shape, dtype, available, nsymbt, allow_truncated):
    """Number of sections that the file holds in full, of `available` bytes after its header: all, unless allowed."""
    if nsymbt < 0 or nsymbt > available:
        raise InputError(
            f"{path}: extended header of nsymbt = {nsymbt} bytes; the file has {available} after the header"
        )
    nz, ny, nx = shape
    section = ny * nx * dtype.itemsize
    expected, found = nz * section, available - nsymbt
    whole = min(nz, found // section)
    if whole < nz:
        sizes = f"{nz} x {ny} x {nx} {dtype.name} = {_spaced(expected)} bytes, file has {_spaced(found)}"
        if not (allow_truncated and whole):
            raise InputError(f"{path}: header says {sizes}: truncated copy?")
        _warn(f"{path}: header says {sizes}; the first {whole} of {nz} sections are whole and are used")
    elif found > expected:
        _warn(f"{path}: {_spaced(found - expected)} bytes after the data are ignored")
    return whole


def _warn(message):
    warnings.warn(message, InputWarning, stacklevel=5)


def _spaced(number):
    return f"{number:,}".replace(",", " ")


# --- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path, overwrite=False):
    """Open a binary file that takes the name `path` only once it is complete and on disk.

    Until then an older file of that name is untouched, whatever happens.

    Raises
    ------
    RefusedError
        If `path` exists and `overwrite` is False.
    ResourceError
        If the disk is full, the folder is missing or may not be written.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise RefusedError(f"{path}: exists already; try another name, or --overwrite for a file")
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)  # or the new name could be lost in a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_volume(path, array, voxel_size, overwrite=False, label=None):
    """Write a volume (nz, ny, nx) as float32, atomically.

    Parameters
    ----------
    voxel_size : float or (x, y, z)
        Angstrom.
    overwrite : bool
        Replace an existing file.
    label : str, optional
        First label of the header, at most 80 ASCII characters.

    Raises
    ------
    RefusedError, ResourceError
        As `atomic_file`.
    InputError, NumericalError
        If there is nothing to write, or a voxel is not finite.
    """
    _write(path, array, np.shape(array), voxel_size, overwrite, label, ispg=1)


def write_sections(path, sections, shape, voxel_size, overwrite=False, label=None, origin=(0.0, 0.0, 0.0)):
    """Write a volume that need not fit into memory; otherwise as `write_volume`.

    Parameters
    ----------
    sections : iterable of (ny, nx) arrays
        nz of them, made while they are written.
    shape : (nz, ny, nx)
    origin : (x, y, z)
        Angstrom; where voxel 0 lies in the frame of the full map. 0 unless the volume is a part of one.
    """
    _write(path, sections, shape, voxel_size, overwrite, label, ispg=1, origin=origin)


def write_stack(path, array, pixel_size, overwrite=False, label=None):
    """Write an image stack (V, H, W) as float32, atomically; otherwise as `write_volume`."""
    _write(path, array, np.shape(array), pixel_size, overwrite, label, ispg=0)


def _write(path, sections, shape, voxel_size, overwrite, label, ispg, origin=(0.0, 0.0, 0.0)):
    if len(shape) != 3 or 0 in shape:
        raise InputError(f"{path}: array of shape {tuple(shape)}; expected three sizes of at least 1")
    header = _new_header(shape, voxel_size, label, ispg)
    header["origin"] = origin
    count = np.prod(shape, dtype=float)
    with atomic_file(path, overwrite) as file:
        file.write(header.tobytes())
        total, squares, low, high = 0.0, 0.0, np.inf, -np.inf
        # One section at a time: the array may not fit twice, or not at all.
        for number, section in zip(range(shape[0]), sections, strict=True):
            section = np.ascontiguousarray(section, dtype="<f4")
            if not np.isfinite(section).all():
                raise NumericalError(f"{path}: section {number} holds NaN or infinite values; not written")
            file.write(section.tobytes())
            low, high = min(low, section.min()), max(high, section.max())
            values = section.astype(np.float64)
            total, squares = total + values.sum(), squares + np.vdot(values, values)
        mean = total / count
        header["minimum"], header["maximum"], header["mean"] = low, high, mean
        header["rms"] = np.sqrt(max(0.0, squares / count - mean**2))
        file.seek(0)
        file.write(header.tobytes())


def _new_header(shape, voxel_size, label, ispg):
    voxel_size = np.broadcast_to(np.asarray(voxel_size, float), 3)
    if not np.all((voxel_size > 0) & np.isfinite(voxel_size)):
        raise InputError(f"voxel size {voxel_size.tolist()}; expected positive numbers of Angstrom")
    h = np.zeros((), _HEADER.newbyteorder("<"))
    h["size"] = shape[::-1]
    h["mode"] = 2
    h["sampling"] = (shape[2], shape[1], shape[0] if ispg else 1)  # MRC2014: mz = 1 in an image stack
    h["cell"] = voxel_size * h["sampling"]
    h["cell_angles"] = 90
    h["axes"] = 1, 2, 3
    h["ispg"], h["nversion"], h["map"] = ispg, 20141, b"MAP "
    h["stamp"] = np.void(b"\x44\x44\0\0")
    h["nlabl"] = 1
    h["labels"][0] = (label or "Written by taigs").encode("ascii", "replace")[:80].ljust(80)
    return h
