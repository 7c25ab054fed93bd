"""Seeds of a tilt series: SIRT with positivity, the surroundings that only tilted views see included."""

from dataclasses import replace

import numpy as np

from taigs.baseline import TiltGeometry, align_images, sirt_steps
from taigs.cloud import GaussianCloud
from taigs.seeds import cloud_from_volume
from taigs.views import Grid

SIRT_STEPS = (10, 60)  # fewest and most iterations
COARSE_STEPS = 30
WIDEST = 2.0  # images: how far the surroundings reach


class Seeds:
    """SIRT with positivity at full size, for any subset of the views, after the steps that held-out views favour.

    Tilted views also see matter beside the volume. A coarse SIRT in a wider volume finds it; its
    projections are taken off the images before the fine SIRT, and seeds of its own stand for it.
    """

    def __init__(self, views, grid, held_out, signed):
        self.views, self.grid, self.signed = views, grid, signed
        self.images = align_images(views)
        self.geometry = TiltGeometry(views.tilt_angles, self.images.shape[1:], grid.shape)
        self._surroundings()
        self.known = {}
        best = np.inf
        for i, (volume, score) in enumerate(sirt_steps(views, grid, not signed, self.inside_images, held_out)):
            # the score is that of the volume before this step
            if i >= SIRT_STEPS[0] and (score > best * (1 - 1e-4) or i == SIRT_STEPS[1]):
                break
            best, kept = min(best, score), volume
        self.iterations = i
        self.known[len(views) - len(held_out)] = kept

    def _surroundings(self):
        """Coarse volume beside the grid, and the images without its projections."""
        views, (nz, _, nx) = self.views, self.grid.shape
        steepest = np.radians(np.abs(views.tilt_angles).max())
        reach = min(WIDEST, (1 + nz / nx * np.sin(steepest)) / max(np.cos(steepest), 1e-3))
        coarse = aligned_views(views, self.images).binned(2)
        side = int(np.ceil((reach - 1) * nx / 4))
        h, w = coarse.image_shape
        self.wide = Grid((max(1, round(nz / 2)), h, w + 2 * side), coarse.pixel_size)
        steps = sirt_steps(coarse, self.wide, not self.signed)
        for _ in range(COARSE_STEPS):
            volume, _ = next(steps)
        volume[:, :, side : side + w] = 0
        self.outside = volume
        geometry = TiltGeometry(views.tilt_angles, coarse.image_shape, self.wide.shape)
        shadow = geometry.project(volume) * np.float32(coarse.pixel_size)
        shadow = np.repeat(np.repeat(shadow, 2, axis=1), 2, axis=2)
        self.inside_images = self.images.copy()
        self.inside_images[:, : 2 * h, : 2 * w] -= shadow

    def volume(self, used):
        """SIRT+ volume of the views `used`, (nz, ny, nx)."""
        if len(used) not in self.known:
            unused = np.setdiff1d(np.arange(len(self.views)), used)
            steps = sirt_steps(self.views, self.grid, not self.signed, self.inside_images, unused)
            for _ in range(self.iterations):
                volume, _ = next(steps)
            self.known[len(used)] = volume
        return self.known[len(used)]

    def cloud(self, n, sigma, used, rng):
        """n Gaussians of standard deviation sigma (A) for the volume, and wider ones for its surroundings."""
        volume = self.volume(used)
        beside = np.abs(self.outside).sum() * self.wide.voxel_size**3
        inside = np.abs(volume).sum() * self.grid.voxel_size**3
        n_beside = int(n * beside / (8 * inside + beside)) if inside > 0 else 0  # coarser by 2 on each axis
        clouds = [cloud_from_volume(volume, self.grid, n - n_beside, sigma, rng, self.signed)]
        if n_beside:
            clouds.append(cloud_from_volume(self.outside, self.wide, n_beside, 2 * sigma, rng, self.signed))
        return GaussianCloud.merge(clouds)

    def project(self, volume):
        """Line integrals through a volume on the grid, in image units."""
        return self.geometry.project(volume) * np.float32(self.grid.voxel_size)


def aligned_views(views, images):
    """Views of aligned images: vertical tilt axis, no shifts, centre (n - 1) / 2."""
    t = np.radians(views.tilt_angles)
    zero, one = np.zeros_like(t), np.ones_like(t)
    projections = np.stack([np.stack([np.cos(t), zero, np.sin(t)], -1), np.stack([zero, one, zero], -1)], 1)
    h, w = images.shape[1:]
    centre = np.array([w - 1, h - 1]) / 2
    return replace(views, images=images, projections=projections, shifts=np.zeros((len(t), 2)), centre=centre)
