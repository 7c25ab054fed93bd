"""MRC2014 files: a strict reader that reads the header itself, and an atomic writer."""

import bz2
import contextlib
import difflib
import gzip
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taigs.errors import InputError, InputWarning, NumericalError, RefusedError, ResourceError

HEADER_BYTES = 1024
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
OTHER_MODES = {3: "complex 16-bit integers", 4: "complex", 16: "RGB", 101: "4-bit integers"}
IMOD_STAMP = 1146047817
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
    the header leaves it unset (0, exactly 1, not finite). ``dtype`` includes the byte order. ``start``
    (voxels) and ``origin`` (Angstrom) are in the order x, y, z; see `first_voxel`.
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

    def first_voxel(self, voxel_size):
        """Where voxel 0 lies (x, y, z; Angstrom): the header's origin or else, as ChimeraX reads it, its nstart."""
        if np.any(self.origin) and np.isfinite(self.origin).all():
            return np.array(self.origin)
        return voxel_size * np.array(self.start, float)


def existing_file(path):
    """`path` as a Path, once it is known to be a file.

    Raises
    ------
    InputError
        If there is no such file (the nearest name in its folder is offered) or it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; expected a file")
    if not path.exists():
        names = os.listdir(path.parent) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise InputError(f"{path}: no such file{hint}")
    return path


@contextlib.contextmanager
def reading(path):
    """Turn the operating system's refusal to read `path` into a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror or error})") from error


# --- reading -------------------------------------------------------------------------------------


def read_header(path):
    """Read and check the header (`MrcHeader`) of an MRC file, plain or compressed (gzip, bzip2).

    Raises
    ------
    InputError
        If the file is missing, is no MRC file, cannot hold images or is shorter than its header says.
    ResourceError
        If it may not be read.

    Warns
    -----
    InputWarning
        On bytes after the data, a wrong machine stamp or unset axis numbers.
    """
    return _open(path)[0]


def open_stack(path):
    """Open an image stack: (header, images).

    The images are a read-only (V, H, W) array of the file's own type: a memory map, or in memory if
    the file is compressed. Raises as `read_header`, and InputError if the axes are not x, y, z.
    """
    header, images = _open(path)
    if header.axes != (1, 2, 3):
        raise InputError(f"{path}: axis order {header.axes} in an image stack; expected (1, 2, 3)")
    return header, images


def read_volume(path):
    """Read a volume: (float32 array [z, y, x], header). Raises as `read_header`.

    The axes are turned to z, y, x whatever their order in the file; the header keeps the file's.
    """
    header, stored = _open(path)
    warn_if_sign_is_guessed(path, header, stored)
    runs_along = header.axes[::-1]  # the axis (1 x, 2 y, 3 z) of each dimension of the stored array
    volume = stored.transpose([runs_along.index(axis) for axis in (3, 2, 1)])
    return np.array(volume, dtype=np.float32, order="C"), header


def warn_if_sign_is_guessed(path, header, data):
    """Mode 0 is signed by the standard, but old programs meant 0..255; say so where it matters."""
    if header.mode == 0 and not header.is_imod and data.min() < 0:
        warnings.warn(
            f"{path}: 8-bit data read as signed (-128..127), as MRC2014 says; if the program that wrote "
            "it meant 0..255, convert it to 16 bit first",
            InputWarning,
            stacklevel=3,
        )


def _open(path):
    """(header, read-only array as stored)."""
    path = existing_file(path)
    head, size, content = _read_start(path)
    header = _parse(path, head, size)
    if content is None:
        with reading(path):
            return header, np.memmap(path, header.dtype, "r", header.offset, header.shape)
    count = int(np.prod(header.shape))
    return header, np.frombuffer(content, header.dtype, count, header.offset).reshape(header.shape)


def _read_start(path):
    """(first 1024 bytes, size in bytes, whole content if it had to be decompressed)."""
    with reading(path), open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
    opener = gzip.open if head[:2] == b"\x1f\x8b" else bz2.open if head[:3] == b"BZh" else None
    if opener is None:
        return head, size, None
    try:
        with opener(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: the compressed file is damaged ({error}); fetch it again") from error
    return content[:HEADER_BYTES], len(content), content


def _parse(path, head, size):
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
    is_imod = int(h["imod_stamp"]) == IMOD_STAMP
    # IMOD wrote unsigned bytes before it knew the standard; its flag 1 says that they are signed.
    kind = "u1" if mode == 0 and is_imod and not int(h["imod_flags"]) & 1 else MODES[mode]
    dtype = np.dtype(order + kind)
    axes = _axes(path, h)
    header = MrcHeader(
        shape=(nz, ny, nx),
        mode=mode,
        dtype=dtype,
        voxel_size=_voxel_size(h),
        axes=axes,
        start=tuple(int(h["start"][axes.index(axis)]) for axis in (1, 2, 3)),  # stored along the axes of the file
        origin=tuple(float(o) for o in h["origin"]),
        ispg=ispg,
        offset=HEADER_BYTES + int(h["nsymbt"]),
        is_imod=is_imod,
        labels=tuple(b.decode("latin-1").strip(" \0") for b in h["labels"][: max(0, int(h["nlabl"]))]),
        file_size=size,
    )
    _check_length(path, header, int(h["nsymbt"]))
    return header


def _byte_order(path, head):
    """'<' or '>': what the machine stamp says, unless mode and nx make sense only the other way."""

    def plausible(order):
        nx, mode = (int(np.frombuffer(head, order + "i4", 1, at)[0]) for at in (0, 12))
        return 0 < nx < LARGEST_SIZE and (mode in MODES or mode in OTHER_MODES)

    stamp = head[212:214]
    claimed = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}.get(stamp)
    order = claimed or "<"
    swapped = "<" if order == ">" else ">"
    if not plausible(order) and plausible(swapped):
        order = swapped
    if order != claimed:
        name = {"<": "little", ">": "big"}[order]
        message = f"{path}: machine stamp {stamp.hex(' ')} is wrong; mode and nx say {name}-endian"
        warnings.warn(message, InputWarning, stacklevel=4)
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
        warnings.warn(f"{path}: mapc, mapr, maps are unset; 1, 2, 3 assumed", InputWarning, stacklevel=4)
        return (1, 2, 3)
    if sorted(axes) != [1, 2, 3]:
        raise InputError(f"{path}: mapc, mapr, maps = {axes}; expected 1, 2, 3 in some order")
    return axes


def _check_length(path, header, nsymbt):
    available = header.file_size - HEADER_BYTES
    if nsymbt < 0 or nsymbt > available:
        raise InputError(
            f"{path}: extended header of nsymbt = {nsymbt} bytes; the file has {available} after the header"
        )
    nz, ny, nx = header.shape
    expected = nz * ny * nx * header.dtype.itemsize
    found = available - nsymbt
    if found < expected:
        raise InputError(
            f"{path}: header says {nz} x {ny} x {nx} {header.dtype.name} = {_spaced(expected)} bytes, "
            f"file has {_spaced(found)}: truncated copy?"
        )
    if found > expected:
        extra = _spaced(found - expected)
        warnings.warn(f"{path}: {extra} bytes after the data are ignored", InputWarning, stacklevel=4)


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
