"""Tilt series as a tomograms.star lists them (RELION 4 and 5, Warp): rotation, CTF and dose of every tilt."""

import numpy as np

from taigs.errors import InputError
from taigs.geometry import check_rotations, tilt_rotation
from taigs.io.optics import NO_CTF, vector
from taigs.io.stacks import find_stack
from taigs.io.star import read_star

DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
ANGLES = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXTilt")
MATRIX = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")


def tomograms_path(particles, given=None):
    """The tomograms.star of a particles' STAR file: the given one, or the one beside it."""
    if given is not None:
        return given
    names = [particles.with_name(name) for name in ("tomograms.star", f"{particles.stem}_tomograms.star")]
    found = [name for name in names if name.is_file()]
    if not found:
        raise InputError(
            f"{particles}: no tomograms.star beside it; expected the tilts' geometry; try --tomograms FILE"
        )
    return found[0]


class TiltSeries:
    """The tilts of some tilt series, one series after the other.

    Parameters
    ----------
    path : path-like
        tomograms.star.
    names : sequence of str
        The series wanted (rlnTomoName).
    datadir : path-like, optional
        Folder that names of files are relative to.
    no_ctf : bool
        Do without defocus.

    Attributes
    ----------
    first, count : (S,) int arrays
        First tilt of each series, and how many it has.
    rotations : (T, 3, 3) array
        Tomogram -> image.
    defocus : (T, 3) array or None
        U, V (Angstrom), angle (degrees), for matter at the tomogram's centre.
    scale, dose : (T,) arrays
        Factor of the CTF; e/A^2 before the tilt.
    hand : (S,) array
        Change of defocus with depth.
    size : (S, 3) array
        Tomogram (x, y, z) in Angstrom; NaN where unknown.
    pixel_size : (S,) array
        Of the tilt series, Angstrom; NaN where unknown.
    by_warp : (S,) bool array
        Projection matrices without translation, as only Warp writes them.
    """

    def __init__(self, path, names, datadir=None, no_ctf=False):
        self.path, tables = path, read_star(path)
        if "global" not in tables:
            raise InputError(f"{path}: no block global; found: {', '.join(f'data_{name}' for name in tables)}")
        series = tables["global"]
        row_of = {name: row for row, name in enumerate(series.strings("rlnTomoName").tolist())}
        unknown = [name for name in names if name not in row_of]
        if unknown:
            raise InputError(
                f"{path}: no tilt series {unknown[0]} ({len(unknown)} missing); found: {', '.join(row_of)}"
            )
        rows = [row_of[name] for name in names]
        tilts = [self._table(tables, series, row, name, datadir) for row, name in zip(rows, names, strict=True)]
        self.count = np.array([len(table) for table in tilts])
        self.first = np.cumsum(self.count) - self.count
        self.rotations = np.concatenate([_rotations(table) for table in tilts])
        self.defocus = None if no_ctf else np.concatenate([_defocus(table) for table in tilts])
        self.scale = np.concatenate([_column(table, "rlnCtfScalefactor", 1.0) for table in tilts])
        self.dose = np.concatenate([_column(table, "rlnMicrographPreExposure", 0.0) for table in tilts])
        slope = _column(series, "rlnTomoDefocusSlope", 1.0)
        self.hand = (_column(series, "rlnTomoHand", -1.0) * slope)[rows]
        self.pixel_size = _column(series, "rlnTomoTiltSeriesPixelSize", np.nan)[rows]
        voxels = [_column(series, f"rlnTomoSize{axis}", np.nan)[rows] for axis in "XYZ"]
        self.size = np.stack(voxels, axis=1) * self.pixel_size[:, None]
        self.by_warp = np.array([_lacks_translation(table) for table in tilts])

    def _table(self, tables, series, row, name, datadir):
        """Table with a row per tilt: a block of the same file, or a file of its own."""
        if name in tables:
            return tables[name]
        label = "rlnTomoTiltSeriesStarFile"
        if label not in series:
            raise InputError(f"{self.path}: neither a block data_{name} nor a column {label}")
        file = series.strings(label)[row]
        found, tried = find_stack(file, self.path, datadir)
        if found is None:
            raise InputError(
                f"{series.where(row)}: no tilt series {file} (tried {', '.join(tried)}); try --datadir DIR to rebase"
            )
        tables = read_star(found)
        if name not in tables and len(tables) != 1:
            raise InputError(f"{found}: no block data_{name}; found: {', '.join(f'data_{other}' for other in tables)}")
        return tables.get(name) or next(iter(tables.values()))


def _column(table, label, default):
    return table.floats(label) if label in table else np.full(len(table), default)


def _rotations(table):
    if any(label in table for label in MATRIX):
        table.require(*MATRIX)
        rows = [_vectors(table, label, 4)[:, :3] for label in MATRIX]
        rotations = np.stack(rows, axis=1)
    else:
        table.require(*ANGLES)
        rotations = tilt_rotation(*(table.floats(label) for label in ANGLES))
    for row, rotation in enumerate(rotations):
        try:
            check_rotations(rotation)
        except InputError as error:
            raise InputError(f"{table.where(row)}: {', '.join(MATRIX)}: {error}") from error
    return rotations


def _vectors(table, label, length):
    """(n, length) array of a column of "[a,b,c]"."""
    table.require(label)
    values = [vector(text) for text in table.columns[label].tolist()]
    for row, value in enumerate(values):
        if value is None or len(value) != length or not np.isfinite(value).all():
            shown = table.columns[label][row].decode()[:60]
            raise InputError(f'{table.where(row)}: {label} "{shown}"; expected {length} numbers in brackets')
    return np.array(values)


def _lacks_translation(table):
    return MATRIX[0] in table and not any(_vectors(table, label, 4)[:, 3].any() for label in MATRIX[:2])


def _defocus(table):
    try:
        table.require(*DEFOCUS)
    except InputError as error:
        raise InputError(f"{error}; {NO_CTF}") from error
    return np.stack([table.floats(label) for label in DEFOCUS], axis=1)
