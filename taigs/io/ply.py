"""PLY in the convention of 3D Gaussian splatting: for its viewers, and back.

Properties, all float32, little endian: x y z, nx ny nz (0), f_dc_0..2 (grey), opacity (logit), scale_0..2 (log
sigma), rot_0..3 (w x y z), mass. Lengths are in Angstrom from the volume centre, as in model.npz, whose values (float32
too) come back unchanged; a comment holds its header. Opacity and colour are for the eye only: taigs reads `mass`.
"""

import json
import os
import warnings

import numpy as np

from taigs import __version__
from taigs.errors import InputError, InputWarning
from taigs.io.clouds import FORMAT, VERSION, check_header, checked_cloud
from taigs.io.files import existing_file, reading
from taigs.io.mrc import atomic_file

POSITION = ("x", "y", "z")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
PROPERTIES = (*POSITION, "nx", "ny", "nz", *COLOUR, "opacity", *SCALE, *ROTATION, "mass")
TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float": "f4", "double": "f8", "float32": "f4", "float64": "f8",
}  # fmt: skip
LARGEST_HEADER = 1 << 16
MARK = "comment taigs-model "
GREY, DARK = 0.8, 0.2  # of positive and of negative masses
SH_ZERO = 0.28209479177387814  # the constant spherical harmonic: colour = 1/2 + SH_ZERO f_dc
DEPTH = 3.0  # optical depth through the middle of the cloud: solid, but not a wall
DEPTHS = (1e-4, 5.0)  # of one Gaussian: opacity 0.0001 to 0.993


def write_ply(path, cloud, header, overwrite=False):
    """Write a cloud with the header of its model as a PLY; as `taigs.io.mrc.atomic_file`."""
    header = {**header, "signed": cloud.signed}
    check_header(path, header)
    rows = np.zeros(len(cloud), [(name, "<f4") for name in PROPERTIES])
    for names, values in ((POSITION, cloud.positions), (SCALE, cloud.log_sigmas), (ROTATION, cloud.quaternions)):
        for name, column in zip(names, values.T, strict=True):
            rows[name] = column
    rows["mass"] = cloud.masses
    rows["opacity"] = np.log(np.expm1(optical_depths(cloud)))
    for name in COLOUR:
        rows[name] = (np.where(cloud.masses < 0, DARK, GREY) - 0.5) / SH_ZERO
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment taigs {__version__}: x y z and exp(scale) in Angstrom, relative to the volume centre",
        "comment mass: integral of the Gaussian's density; opacity and colour are for viewers only",
        MARK + json.dumps(header),
        f"element vertex {len(cloud)}",
        *(f"property float {name}" for name in PROPERTIES),
        "end_header\n",
    ]
    with atomic_file(path, overwrite) as file:
        file.write("\n".join(lines).encode("ascii"))
        file.write(rows.tobytes())


def optical_depths(cloud):
    """(N,) optical depth at each Gaussian's peak, in proportion to its line integral there, mean of all directions.

    The scale makes the line through the middle of the whole cloud, taken as one Gaussian, `DEPTH` deep.
    """
    weights = np.abs(cloud.masses)
    total = weights.sum()
    if not total > 0:
        return np.full(len(cloud), DEPTHS[0])
    share = weights / total
    centred = cloud.positions - share @ cloud.positions
    covariance = (centred.T * share) @ centred + np.tensordot(share, cloud.covariances(), 1)
    # Both line integrals are 2 pi times smaller; the cloud is seen along its shortest axis.
    middle = total / np.sqrt(np.prod(np.linalg.eigvalsh(covariance)[1:]))
    peaks = weights / np.exp(2 * cloud.log_sigmas.mean(axis=1))
    return np.clip(DEPTH * peaks / middle, *DEPTHS)


def read_ply(path):
    """(`taigs.cloud.GaussianCloud`, header dict) from a PLY of taigs or of any 3D Gaussian splatting program.

    Without the property `mass` the file is taken to be in Angstrom, and a mass is what gives the Gaussian's peak the
    optical depth -log(1 - opacity); colours are ignored. The header then names neither pixel size nor box.

    Raises
    ------
    InputError
        Not a binary little-endian PLY of Gaussians, damaged, or written by a newer version.

    Warns
    -----
    InputWarning
        If masses had to be made up.
    """
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        start = file.read(LARGEST_HEADER)
        available = os.fstat(file.fileno()).st_size
        try:
            lines, at = _split(path, start)
            count, dtype = _vertices(path, lines, available - at)
            file.seek(at)
            rows = np.fromfile(file, dtype, count)
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused
                return _read_cloud(path, lines, rows)
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a readable PLY ({error}); expected one of 3D Gaussians") from None


def _read_cloud(path, lines, rows):
    found = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    header = json.loads(found[0]) if found else {"format": FORMAT, "version": VERSION, "pixel_size_A": None}
    check_header(path, header)
    positions, scales, rotations = (_columns(path, rows, names) for names in (POSITION, SCALE, ROTATION))
    if "mass" in rows.dtype.names:
        masses = rows["mass"].astype(np.float64)
        signed = header.setdefault("signed", bool((masses < 0).any()))
    else:
        (opacity,) = _columns(path, rows, ("opacity",)).T
        # -log(1 - o) of an opacity o, which stands in the file as its logit
        masses = 2 * np.pi * np.exp(2 * scales.mean(axis=1)) * np.logaddexp(0, opacity)
        signed = header["signed"] = False
        message = f"{path}: no masses in it: taken from the opacities, lengths as Angstrom, colours ignored"
        warnings.warn(message, InputWarning, stacklevel=4)
    return checked_cloud(path, positions, scales, rotations, masses, signed), header


def _split(path, content):
    """(lines of the header, offset of the data)."""
    end = content.find(b"end_header")
    newline = content.find(b"\n", max(end, 0))
    if content[:3] != b"ply" or end < 0 or newline < 0:
        raise InputError(f"{path}: not a PLY file; expected ply ... end_header")
    return [line.strip() for line in content[:end].decode("latin-1").splitlines()], newline + 1


def _vertices(path, lines, available):
    """(number, structured dtype) of the element `vertex`, of which there are `available` bytes at most."""
    words = [line.split() for line in lines]
    form = next((w[1] for w in words if w[:1] == ["format"]), None)
    if form != "binary_little_endian":
        raise InputError(f"{path}: PLY format {form}; expected binary_little_endian")
    elements = [i for i, w in enumerate(words) if w[:1] == ["element"]]
    if not elements or words[elements[0]][1] != "vertex":
        raise InputError(f"{path}: the first element is no vertex; expected a PLY of 3D Gaussians")
    count = int(words[elements[0]][2])
    end = elements[1] if len(elements) > 1 else len(words)
    properties = [w for w in words[elements[0] : end] if w[:1] == ["property"]]
    dtype = np.dtype([(name, "<" + TYPES[kind]) for _, kind, name in properties])  # a list has more words
    if count < 0 or available < count * dtype.itemsize:
        raise InputError(f"{path}: {count} vertices of {dtype.itemsize} bytes, file has {available}: truncated copy?")
    return count, dtype


def _columns(path, rows, names):
    """(N, len(names)) float64 array of some properties."""
    missing = [name for name in names if name not in rows.dtype.names]
    if missing:
        raise InputError(f"{path}: no property {missing[0]}; expected a PLY of 3D Gaussians (uncompressed)")
    return np.stack([rows[name].astype(np.float64) for name in names], axis=1)
