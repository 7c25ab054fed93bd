"""What is simulated: a model, a map or atoms, made into a cloud of Gaussians about the origin."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from taigs.atoms import SIGMA_PER_RESOLUTION, atom_cloud, is_atomic_model, read_atoms
from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.io.clouds import read_cloud
from taigs.io.mrc import read_volume

MODELS, MAPS = (".npz", ".ply"), (".mrc", ".map", ".rec", ".ccp4")
VOXEL_SIGMA = 0.6  # voxels
CONTOUR = 3.0  # standard deviations above the mean
MOST_VOXELS = 500_000
FINEST = 2.0  # pixels: atoms sharper than Nyquist cannot be drawn
DEFAULT_RESOLUTION = 3.0  # pixels
INSIDE = 0.99  # of the mass lies within the radius


@dataclass(frozen=True)
class Source:
    """A cloud, the pixel size (A) it was made for, the shape (nz, ny, nx) if there is one, and what was done.

    ``frame`` is where the cloud's origin lies in the atoms' frame (x, y, z; A).
    """

    cloud: GaussianCloud
    pixel_size: float
    shape: tuple | None
    note: str
    frame: tuple = (0.0, 0.0, 0.0)


def read_source(path, pixel_size=None, resolution=None, contour=None, bfactors=False, relion_centre=True):
    """Read a model (.npz, .ply), a map (.mrc, .map) or atoms (.pdb, .cif) as a cloud.

    A map becomes one Gaussian per voxel above the contour, of sigma 0.6 voxels. Atoms become one each, of sigma
    0.225 times the resolution (and B / (8 pi^2) in the variance, with `bfactors`), about their centre of mass.

    Parameters
    ----------
    pixel_size : float, optional
        Angstrom, of the images; default: the source's, which atoms do not have.
    resolution : float, optional
        Angstrom, for atoms; default three pixels.
    contour : float, optional
        For maps; default three standard deviations above the mean.
    relion_centre : bool
        The centre of a map is voxel n // 2, not (n - 1) / 2.

    Raises
    ------
    InputError
        The file cannot be used, or an option does not fit its kind.
    """
    atomic = is_atomic_model(path)
    kind = Path(path).suffix.lower()
    if not atomic and kind not in MODELS + MAPS:
        raise InputError(f'{path}: unknown extension "{kind}"; expected .npz, .mrc, .map, .pdb or .cif')
    for name, value, fits in (
        ("--resolution", resolution, atomic), ("--contour", contour, kind in MAPS), ("--bfactors", bfactors, atomic)
    ):  # fmt: skip
        if value and not fits:
            raise InputError(f"{path}: {name} has no meaning for this kind of source")
    if atomic:
        return _from_atoms(path, pixel_size, resolution, bfactors)
    return _from_map(path, pixel_size, contour, relion_centre) if kind in MAPS else _from_model(path, pixel_size)


def _from_model(path, pixel_size):
    cloud, header = read_cloud(path)
    pixel_size = pixel_size or header.get("pixel_size_A")
    if not pixel_size:
        raise InputError(f"{path}: names no pixel size; try --pixel-size")
    same = pixel_size == header.get("pixel_size_A")
    shape = tuple(header["shape_zyx"]) if same and header.get("shape_zyx") else None
    return Source(_not_empty(path, cloud), float(pixel_size), shape, f"{len(cloud):,} Gaussians")


def _from_map(path, pixel_size, contour, relion_centre):
    volume, header = read_volume(path)
    if not np.isfinite(volume).all():
        raise InputError(f"{path}: {np.count_nonzero(~np.isfinite(volume))} NaN or infinite voxels; expected none")
    voxel_size = header.voxel_size[0] if header.voxel_size else pixel_size
    if not voxel_size:
        raise InputError(f"{path}: no voxel size in the header; try --pixel-size")
    if header.voxel_size and np.ptp(header.voxel_size) > 0.01 * voxel_size:
        raise InputError(f"{path}: voxels of {header.voxel_size} Å; expected cubes")
    contour = float(volume.mean(dtype=float) + CONTOUR * volume.std(dtype=float)) if contour is None else contour
    dense = np.argwhere(volume > max(contour, 0))
    if not 0 < len(dense) <= MOST_VOXELS:
        raise InputError(
            f"{path}: {len(dense):,} voxels above the contour {max(contour, 0):.4g}, maximum {volume.max():.4g}; "
            f"expected 1 to {MOST_VOXELS:,}; try another --contour, or taigs fit and its model"
        )
    sizes = np.array(volume.shape)
    centre = sizes // 2 if relion_centre else (sizes - 1) / 2
    n = len(dense)
    cloud = GaussianCloud(
        ((dense - centre) * voxel_size)[:, ::-1],
        np.full((n, 3), np.log(VOXEL_SIGMA * voxel_size)),
        np.tile([1.0, 0, 0, 0], (n, 1)),
        volume[tuple(dense.T)] * voxel_size**3.0,
    )
    same = pixel_size is None or pixel_size == voxel_size
    note = f"{n:,} voxels above {max(contour, 0):.4g} as Gaussians of sigma {VOXEL_SIGMA * voxel_size:.2f} Å"
    return Source(cloud, float(pixel_size or voxel_size), volume.shape if same else None, note)


def _from_atoms(path, pixel_size, resolution, bfactors):
    if not pixel_size:
        raise InputError(f"{path}: atoms have no pixel size; try --pixel-size")
    resolution = DEFAULT_RESOLUTION * pixel_size if resolution is None else resolution
    if not resolution >= FINEST * pixel_size:
        raise InputError(
            f"resolution {resolution:g} Å with pixels of {pixel_size:g} Å; expected at least {FINEST:g} pixels"
        )
    sigma = SIGMA_PER_RESOLUTION * resolution
    atoms = read_atoms(path)
    cloud = atom_cloud(atoms, sigma, bfactors)
    centre = np.average(cloud.positions, axis=0, weights=cloud.masses)
    cloud = replace(cloud, positions=cloud.positions - centre)
    extra = " and B factors" if bfactors else ""
    note = f"{len(cloud):,} atoms as Gaussians of sigma {sigma:.2f} Å (resolution {resolution:g} Å{extra})"
    return Source(cloud, float(pixel_size), None, note, tuple(centre))


def _not_empty(path, cloud):
    if not np.any(cloud.masses):
        raise InputError(f"{path}: holds no mass; expected a model with Gaussians")
    return cloud


def radius(cloud):
    """Distance from the origin (A) within which 99 % of the mass lies."""
    distance = np.linalg.norm(cloud.positions, axis=1)
    order = np.argsort(distance)
    mass = np.cumsum(np.abs(cloud.masses)[order])
    return float(distance[order][np.searchsorted(mass, INSIDE * mass[-1])])


def extent(cloud, margin=3.0):
    """Full widths (x, y, z; A) about the origin that hold the cloud, x under any tilt, with a margin of sigmas."""
    x, y, z = np.abs(cloud.positions).T
    sigma = np.exp(cloud.log_sigmas.max(axis=1))
    return [2 * float((reach + margin * sigma).max()) for reach in (np.hypot(x, z), y, z)]
