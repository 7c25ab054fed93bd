"""Stacks of projections on disk, drawn while they are written, and the .tlt or .star beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taigs.errors import InputError, RefusedError
from taigs.geometry import euler_to_matrix, matrix_to_euler, ry, tilt_rotation
from taigs.imaging.ctf import Ctf
from taigs.io.imod import read_angles, write_angles
from taigs.io.mrc import write_stack
from taigs.io.particles import list_relion
from taigs.io.star import Table, read_star, write_star
from taigs.io.subtomograms import are_subtomograms
from taigs.projector import Projector

STACKS = (".mrcs", ".mrc", ".st", ".ali")


@dataclass(frozen=True)
class Poses:
    """V views, and how to write them down.

    ``sidecar(path, stack_name, shape, pixel_size)`` writes the file beside the stack, which ends on `suffix`.
    """

    rotations: np.ndarray  # (V, 3, 3)
    sidecar: Callable
    suffix: str = ".star"
    shifts: np.ndarray | None = None  # (V, 2) pixels
    ctf: Ctf | None = None
    premultiplied: bool = False
    box: int | None = None  # pixels, as the file says
    pixel_size: float | None = None  # Angstrom, likewise
    source: Path | None = None

    def centre(self, shape):
        """Pixel (x, y) of the volume centre: (n - 1) / 2 for tilt series, as IMOD; n // 2 else, as RELION."""
        return [(n - 1) / 2 if self.suffix == ".tlt" else n // 2 for n in shape[::-1]]


def tilt_poses(path):
    """Poses of a file of tilt angles about y; a .tlt beside the stack."""
    angles = read_angles(path)

    def sidecar(path, stack_name, shape, pixel_size):
        write_angles(path, angles, overwrite=True)

    return Poses(tilt_rotation(angles), sidecar, ".tlt", source=Path(path))


def euler_poses(rot, tilt, psi):
    """Poses of RELION's Euler angles, degrees: lists of one length, or of one number, which counts for all."""
    try:
        rotations = np.atleast_3d(euler_to_matrix(*np.broadcast_arrays(*map(np.atleast_1d, (rot, tilt, psi)))))
    except ValueError:
        counts = ", ".join(str(np.size(a)) for a in (rot, tilt, psi))
        raise InputError(f"rot, tilt and psi are {counts} angles; expected as many of each, or one") from None
    return Poses(rotations, _star_of(rotations))


def movie_poses(n, first=(0.0, 0.0, 0.0)):
    """Poses of n views along a great circle: the first, whose Euler angles are given, turned about the image's y."""
    rotations = ry(np.arange(n) * 360 / n) @ euler_to_matrix(*first)
    return Poses(rotations, _star_of(rotations))


def _star_of(rotations):
    def sidecar(path, stack_name, shape, pixel_size):
        write_star(path, particle_tables(stack_name, rotations, np.zeros((len(rotations), 2)), shape, pixel_size), True)

    return sidecar


def star_poses(path, with_ctf=True):
    """Poses of RELION's particles; beside the stack the same tables with the new images' names.

    Raises
    ------
    InputError
        As `taigs.io.particles.read_particles`; also if pixel sizes differ or the images are sub-tomograms.
    """
    tables = read_star(path)
    if are_subtomograms(tables):
        raise InputError(f"{path}: sub-tomograms; expected single particles")
    listing = list_relion(Path(path), tables, no_ctf=not with_ctf)
    if listing.rotations is None:
        raise InputError(f"{path}: no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); try a file of a refinement")
    for name, values in (("pixel sizes", listing.pixel_sizes), ("boxes", listing.boxes)):
        if values is not None and np.ptp(values) > 0:
            raise InputError(f"{path}: {name} from {values.min():g} to {values.max():g}; expected one for all")
    premultiplied = with_ctf and listing.premultiplied is not None and listing.premultiplied
    if np.any(premultiplied) and not np.all(premultiplied):
        raise InputError(f"{path}: some images are premultiplied by their CTF, others not; expected one kind")

    def sidecar(output, stack_name, shape, pixel_size):
        write_star(output, [_renamed(table, stack_name, shape) for table in tables.values()], overwrite=True)

    return Poses(
        listing.rotations, sidecar, ".star", listing.shifts, listing.ctf, bool(np.any(premultiplied)),
        None if listing.boxes is None else int(listing.boxes[0]), float(listing.pixel_sizes[0]), Path(path),
    )  # fmt: skip


def _renamed(table, stack_name, shape):
    columns = dict(table.columns)
    if "rlnImageName" in columns:
        columns["rlnImageName"] = image_names(stack_name, len(table))
    if "rlnImageSize" in columns:
        columns["rlnImageSize"] = np.full(len(table), shape[1])
    return Table(table.name, columns, table.is_loop)


def image_names(stack_name, n):
    """RELION's names of the n images of a stack."""
    return [f"{i + 1:06d}@{stack_name}" for i in range(n)]


def particle_tables(stack_name, rotations, shifts, shape, pixel_size, ctf=None, half_sets=None):
    """Tables of a RELION 3.1 star file: optics and particles.

    Parameters
    ----------
    shifts : (V, 2) array
        Pixels.
    ctf : Ctf, optional
        Of one voltage, spherical aberration and amplitude contrast.
    half_sets : (V,) array of 1 and 2, optional
    """
    # Numbers close to 0 would fill the file with digits that mean nothing; + 0.0 turns -0.0 into 0.0.
    angles, origins = (np.round(v, 6) + 0.0 for v in (matrix_to_euler(rotations), -np.asarray(shifts) * pixel_size))
    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["simulated"]}
    optics |= {"rlnImagePixelSize": [float(pixel_size)], "rlnMicrographOriginalPixelSize": [float(pixel_size)]}
    optics |= {"rlnImageDimensionality": [2]} | ({"rlnImageSize": [shape[0]]} if shape[0] == shape[1] else {})
    particles = {"rlnImageName": image_names(stack_name, len(angles)), "rlnOpticsGroup": np.ones(len(angles), int)}
    particles |= dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True))
    particles |= dict(zip(("rlnOriginXAngst", "rlnOriginYAngst"), origins.T, strict=True))
    if ctf is not None:
        optics |= {"rlnVoltage": ctf.voltage_kv[:1], "rlnSphericalAberration": ctf.cs_mm[:1]}
        optics |= {"rlnAmplitudeContrast": ctf.amplitude_contrast[:1]}
        particles |= {"rlnDefocusU": ctf.defocus_u, "rlnDefocusV": ctf.defocus_v, "rlnDefocusAngle": ctf.defocus_angle}
    if half_sets is not None:
        particles["rlnRandomSubset"] = half_sets
    return [Table("optics", optics), Table("particles", particles)]


# --- writing -------------------------------------------------------------------------------------


class Projections:
    """A (V, H, W) stack of which some views exist at a time: those that are being written.

    Parameters
    ----------
    projector : Projector
    rotations, shifts, ctf, premultiplied
        As `Projector.project`.
    finish : callable, optional
        Image of one view -> the image that is written, called in the order of the views.
    progress : Progress, optional
    """

    def __init__(self, projector, rotations, shifts=None, ctf=None, premultiplied=False, finish=None, progress=None):
        self.projector, self.rotations, self.shifts, self.ctf = projector, rotations, shifts, ctf
        self.premultiplied, self.finish, self.progress = premultiplied, finish, progress
        self.shape = (len(rotations), *projector.shape)
        self.ndim, self.size = 3, int(np.prod(self.shape))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, part):
        """Images of a slice or index array, not finished."""
        shifts, ctf = (None if values is None else values[part] for values in (self.shifts, self.ctf))
        return self.projector.project(self.rotations[part], shifts, ctf, self.premultiplied)

    def __iter__(self):
        for start in range(0, len(self), self.projector.batch):
            images = self[start : start + self.projector.batch]
            yield from images if self.finish is None else map(self.finish, images)
            if self.progress:
                self.progress.update(start + len(images), len(self))


def check_stack_name(path, suffix, source=None, overwrite=False):
    """Path of the file beside a new stack; refuses what must not be written.

    Raises
    ------
    InputError
        The stack's extension is unknown.
    RefusedError
        The stack or its companion exists, or is one of the inputs.
    """
    path = Path(path)
    if path.suffix.lower() not in STACKS:
        raise InputError(f'{path}: unknown extension "{path.suffix}"; expected {", ".join(STACKS)}')
    beside = path.with_suffix(suffix)
    for output in (path, beside):
        if source is not None and output.exists() and output.samefile(source):
            raise RefusedError(f"{output}: is an input and would be overwritten; try another name")
        if output.exists() and not overwrite:
            raise RefusedError(f"{output}: exists already; try another name or --overwrite")
    return beside


def write_projections(path, cloud, poses, shape, pixel_size, overwrite=False, progress=None):
    """Write the projections of a cloud as a stack, view by view, and the file of poses beside it.

    Parameters
    ----------
    path : path-like
    cloud : GaussianCloud
    poses : Poses
    shape : (H, W)
    pixel_size : float
        Angstrom.

    Returns
    -------
    Path
        Of the file beside the stack.
    """
    beside = check_stack_name(path, poses.suffix, poses.source, overwrite)
    projector = Projector(cloud, shape, pixel_size, centre=poses.centre(shape))
    images = Projections(projector, poses.rotations, poses.shifts, poses.ctf, poses.premultiplied, progress=progress)
    write_stack(path, images, pixel_size, overwrite, label="taigs: projections, dense = bright")
    poses.sidecar(beside, Path(path).name, tuple(shape), pixel_size)
    return beside
