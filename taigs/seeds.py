"""Seeds of a cloud, drawn from a volume in proportion to its density."""

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.errors import InputError


def cloud_from_volume(volume, grid, n, sigma, rng, signed=False):
    """n Gaussians at places drawn from a volume, masses summing to the volume's.

    Systematic sampling: voxels are picked at even steps of the cumulated density, so that the
    number in any region is proportional to its mass to within one. With `signed`, the negative
    part is sampled too, in proportion.

    Parameters
    ----------
    volume : (nz, ny, nx) array
        Density per cubic Angstrom.
    grid : Grid
    n : int
    sigma : float
        Standard deviation in A, the same in all directions.

    Raises
    ------
    InputError
        Nothing to sample.
    """
    density = np.abs(volume) if signed else np.maximum(volume, 0)
    cumulated = np.cumsum(density, dtype=np.float64)
    if n < 1:
        raise InputError(f"{n} seeds; expected at least 1")
    if not 0 < cumulated[-1] < np.inf:
        raise InputError(
            f"no density to start from: {np.count_nonzero(density > 0):,} of {density.size:,} voxels are above 0, "
            f"their sum is {cumulated[-1]:g}; try another --contrast, or --signed"
        )
    picked = np.searchsorted(cumulated, (np.arange(n) + rng.random()) / n * cumulated[-1], side="right")
    picked = np.minimum(picked, volume.size - 1)
    zyx = np.stack(np.unravel_index(picked, volume.shape), axis=1)
    inside = rng.uniform(-0.5, 0.5, (n, 3))
    positions = (zyx[:, ::-1] + inside - np.asarray(grid.centre)) * grid.voxel_size
    masses = np.full(n, cumulated[-1] * grid.voxel_size**3 / n)
    if signed:
        masses *= np.sign(volume.ravel()[picked])
    return GaussianCloud(positions, np.full((n, 3), np.log(sigma)), np.tile([1.0, 0, 0, 0], (n, 1)), masses, signed)


def random_cloud(n, spread, sigma, rng):
    """n Gaussians of mass 1 about the origin, normally distributed with standard deviation `spread` (A)."""
    positions = rng.normal(0, spread, (n, 3))
    return GaussianCloud(positions, np.full((n, 3), np.log(sigma)), np.tile([1.0, 0, 0, 0], (n, 1)), np.ones(n))
