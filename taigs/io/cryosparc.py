"""cryoSPARC's particles (.cs): a structured NumPy array with a row per particle."""

import warnings

import numpy as np
from scipy.spatial.transform import Rotation

from taigs.errors import InputError, InputWarning
from taigs.imaging.ctf import Ctf
from taigs.io.files import existing_file, reading
from taigs.io.listing import Listing
from taigs.io.npy import MAGIC, read_npy

IMAGES = ("blob/path", "blob/idx", "blob/shape", "blob/psize_A")
POSES = ("alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A")
CTF = {
    "voltage_kv": "ctf/accel_kv", "cs_mm": "ctf/cs_mm", "amplitude_contrast": "ctf/amp_contrast",
    "defocus_u": "ctf/df1_A", "defocus_v": "ctf/df2_A", "defocus_angle": "ctf/df_angle_rad",
    "phase_shift": "ctf/phase_shift_rad",
}  # fmt: skip
OPTIONAL = ("blob/sign", "alignments3D/split", "alignments3D/class", "ctf/bfactor")
SHAPES = {"blob/shape": (2,), "alignments3D/pose": (3,), "alignments3D/shift": (2,)}  # of a row
ABERRATIONS = ("ctf/tilt_A", "ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")


def list_cryosparc(path, passthrough=None, no_ctf=False):
    """Listing of a .cs file; columns that it lacks are taken from a passthrough .cs file, joined by uid.

    Raises
    ------
    InputError
        If a file is no such array, or columns are missing or hold what cannot be used.
    """
    columns = _columns(path, _load(path), passthrough)
    _require(path, columns, IMAGES, passthrough)
    _require(path, columns, POSES, passthrough)
    if not no_ctf:
        _require(path, columns, CTF.values(), passthrough, "; or --no-ctf if the images are projections without one")
    _check_kinds(path, columns)
    for name in (*IMAGES[3:], *POSES, *(() if no_ctf else CTF.values())):
        bad = np.flatnonzero(~np.isfinite(columns[name]).reshape(len(columns[name]), -1).all(axis=1))
        if len(bad):
            raise InputError(f"{path}: row {bad[0] + 1}: {name} is {columns[name][bad[0]]}; expected finite numbers")
    for name in ("blob/psize_A", "alignments3D/psize_A"):
        bad = np.flatnonzero(~(columns[name] > 0))
        if len(bad):
            raise InputError(f"{path}: row {bad[0] + 1}: {name} is {columns[name][bad[0]]}; expected more than 0")
    apix = columns["blob/psize_A"].astype(float)
    stacks, files = np.unique(columns["blob/path"].astype("S"), return_inverse=True)
    # A pose turns the image onto the volume; shifts are in pixels of the refinement, which may have been coarser.
    scale = columns["alignments3D/psize_A"] / apix
    notes = [f"cryoSPARC: {len(files)} particles, {apix[0]:g} A per pixel from blob/psize_A"]
    values = {}
    if "blob/sign" in columns:
        values["signs"] = np.sign(columns["blob/sign"])
        dark = int((values["signs"] < 0).sum())
        notes.append(f"images negated where blob/sign is -1: {dark} of {len(files)}")
    if "alignments3D/split" in columns:
        values["half_sets"] = columns["alignments3D/split"].astype(int) + 1
    if "alignments3D/class" in columns:
        values["classes"] = columns["alignments3D/class"].astype(int) + 1
    return Listing(
        source=path,
        stacks=[_decoded(path, stack).lstrip(">") for stack in stacks.tolist()],
        files=files,
        slices=columns["blob/idx"].astype(int),
        where=lambda i: f"{path}: row {i + 1}",
        pixel_sizes=apix,
        rotations=Rotation.from_rotvec(columns["alignments3D/pose"]).inv().as_matrix(),
        shifts=-columns["alignments3D/shift"] * scale[:, None],
        ctf=None if no_ctf else _ctf(path, columns),
        boxes=columns["blob/shape"][:, 0].astype(int),
        notes=notes,
        **values,
    )


def _decoded(path, name):
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: blob/path {name[:60]!r} is not UTF-8; expected the name of a stack") from None


def _load(path):
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        start = file.read(len(MAGIC))
    if start != MAGIC:
        raise InputError(f"{path}: no NumPy array, as cryoSPARC writes up to version 4; try exporting the job again")
    table = read_npy(path)
    if table.ndim != 1 or table.dtype.names is None or not len(table):
        raise InputError(f"{path}: array of shape {table.shape}, type {table.dtype}; expected a table of particles")
    return table


def _columns(path, table, passthrough):
    """Columns by name: those of the table, and those that only the passthrough file has, in the table's order."""
    columns = {name: table[name] for name in table.dtype.names}
    if passthrough is None:
        return columns
    other = _load(passthrough)
    for file, names in ((path, columns), (passthrough, other.dtype.names)):
        if "uid" not in names:
            raise InputError(f"{file}: no column uid; expected one to join {path} and {passthrough} by")
    order = np.argsort(other["uid"])
    place = np.searchsorted(other["uid"], table["uid"], sorter=order)
    rows = order[np.minimum(place, len(other) - 1)]
    lacking = np.flatnonzero(other["uid"][rows] != table["uid"])
    if len(lacking):
        raise InputError(
            f"{path}: {len(lacking)} of {len(table)} particles are not in {passthrough}, first uid "
            f"{table['uid'][lacking[0]]}; expected the passthrough file of the same job"
        )
    return {name: other[name][rows] for name in other.dtype.names} | columns


def _require(path, columns, names, passthrough, otherwise=""):
    missing = [name for name in names if name not in columns]
    if missing:
        try_ = "" if passthrough else f"; try --poses FILE (the job's passthrough .cs){otherwise}"
        raise InputError(f"{path}: no {', '.join(missing)}; found: {', '.join(columns)}{try_}")


def _check_kinds(path, columns):
    """Refuse columns of other kinds or shapes than cryoSPARC's."""
    for name in {*IMAGES, *POSES, *CTF.values(), *OPTIONAL} & columns.keys():
        kinds, shape = ("S", ()) if name == "blob/path" else ("fiu", SHAPES.get(name, ()))
        column = columns[name]
        if column.dtype.kind not in kinds or column.shape[1:] != shape:
            what = "text" if kinds == "S" else f"numbers of shape {shape}" if shape else "numbers"
            raise InputError(f"{path}: {name} is {column.dtype} of shape {column.shape[1:]}; expected {what}")


def _ctf(path, columns):
    found = [name for name in ABERRATIONS if name in columns and np.any(np.abs(columns[name]) > 1e-6)]
    if found:
        warnings.warn(
            f"{path}: {', '.join(found)} are not applied; expect less at the highest resolution",
            InputWarning,
            stacklevel=4,
        )
    values = {name: columns[label].astype(float) for name, label in CTF.items()}
    values["defocus_angle"] = np.rad2deg(values["defocus_angle"])
    values["phase_shift"] = np.rad2deg(values["phase_shift"])
    if "ctf/bfactor" in columns:
        values["bfactor"] = columns["ctf/bfactor"].astype(float)
    return Ctf(**values)
