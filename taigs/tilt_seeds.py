"""Seeds of a tilt series: SIRT from coarse to fine, the surroundings that only tilted views see included."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from taigs.baseline import TiltGeometry
from taigs.checkpoint import storable
from taigs.cloud import GaussianCloud
from taigs.geometry import imod_views_geometry
from taigs.progress import NoProgress
from taigs.seeds import cloud_from_volume
from taigs.sirt import Sirt
from taigs.views import Grid, Views

SIRT_STEPS = (5, 60)  # fewest and most iterations at full size
COARSE_STEPS = 30
WIDEST = 2.0  # images: how far the surroundings reach
GAIN = 1e-4  # relative fall of the held-out score that is worth another iteration


@storable
@dataclass(frozen=True)
class Seed:
    """SIRT of some of the views: `volume` on `grid`, `outside` on the wider and coarser `wide` (zero on `grid`)."""

    volume: np.ndarray
    grid: Grid
    outside: np.ndarray
    wide: Grid
    iterations: int

    def cloud(self, n, sigma, rng, signed):
        """n Gaussians of standard deviation sigma (A) for the volume, and wider ones for its surroundings."""
        beside = np.abs(self.outside).sum() * self.wide.voxel_size**3
        inside = np.abs(self.volume).sum() * self.grid.voxel_size**3
        n_beside = int(n * beside / (8 * inside + beside)) if inside > 0 else 0  # coarser by 2 on each axis
        clouds = [cloud_from_volume(self.volume, self.grid, n - n_beside, sigma, rng, signed)]
        if n_beside:
            clouds.append(cloud_from_volume(self.outside, self.wide, n_beside, 2 * sigma, rng, signed))
        return GaussianCloud.merge(clouds)


def make_seed(views: Views, grid: Grid, images, unused=(), iterations=None, signed=False, progress=None):
    """SIRT (with positivity unless signed) of the views that are not in `unused`.

    Tilted views also see matter beside the volume. A coarse SIRT in a wider volume finds it; its
    projections are taken off the images before the SIRT at full size, which starts from the coarse one.

    Parameters
    ----------
    images : (V, H, W) array
        `align_images(views)`.
    unused : sequence of int
        Held-out views. Without `iterations` their score decides when to stop.
    iterations : int, optional
        At full size.
    progress : Progress, optional

    Returns
    -------
    Seed
    """
    progress = progress or NoProgress()
    coarse = aligned_views(views, images).binned(2)
    nz, _, nx = grid.shape
    h, w = coarse.image_shape
    steepest = np.radians(np.abs(views.tilt_angles).max())
    reach = min(WIDEST, (1 + nz / nx * np.sin(steepest)) / max(np.cos(steepest), 1e-3))
    side = int(np.ceil((reach - 1) * nx / 4))
    wide = Grid((max(1, round(nz / 2)), h, w + 2 * side), coarse.pixel_size)
    most = iterations or SIRT_STEPS[1]
    run = Sirt(coarse, wide, not signed, unused=unused)
    for i in range(COARSE_STEPS):
        run.compare()
        run.step()
        progress.update(i + 1, COARSE_STEPS + most)
    outside = run.volume()
    start = enlarged(outside[:, :, side : side + w], grid.shape, (0, 1, 2))
    outside[:, :, side : side + w] = 0
    shadow = TiltGeometry(views.tilt_angles, (h, w), wide.shape).project(outside) * np.float32(wide.voxel_size)
    remaining = images - enlarged(shadow, images.shape, (1, 2))
    run, best = Sirt(views, grid, not signed, remaining, unused, start), np.inf
    for i in range(most):
        score = run.compare()
        progress.update(COARSE_STEPS + i, COARSE_STEPS + most)
        if not iterations and i > SIRT_STEPS[0] and score > best * (1 - GAIN):
            return Seed(run.volume(), grid, outside, wide, i)
        best = min(best, score)
        run.step()
    progress.update(COARSE_STEPS + most, COARSE_STEPS + most)
    return Seed(run.volume(), grid, outside, wide, most)


def enlarged(array, shape, axes):
    """An array interpolated linearly to twice the sampling along `axes`, centre on centre, edges extended."""
    step = np.array([0.5 if axis in axes else 1.0 for axis in range(array.ndim)])
    first = (np.array(array.shape) - 1) / 2 - step * (np.array(shape) - 1) / 2
    return ndimage.affine_transform(array, step, first, shape, order=1, mode="nearest")


def aligned_views(views, images):
    """Views of aligned images: vertical tilt axis, no shifts, centre (n - 1) / 2."""
    projections, shifts = imod_views_geometry(views.tilt_angles)
    h, w = images.shape[1:]
    return replace(views, images=images, projections=projections, shifts=shifts, centre=np.array([w - 1, h - 1]) / 2)


def project_volume(views, grid, volume):
    """(V, H, W) line integrals through a volume (image units per A) on aligned axes, in image units."""
    geometry = TiltGeometry(views.tilt_angles, views.image_shape, grid.shape)
    return geometry.project(volume) * np.float32(grid.voxel_size)
