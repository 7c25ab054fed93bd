"""SIRT of a tilt series in device memory: yardstick beside every result, seed of the cloud."""

import numpy as np

from taigs.baseline import TiltGeometry, align_images, in_pixels
from taigs.device import float_type
from taigs.kernels import transfer
from taigs.kernels.fields import lend, roomy
from taigs.kernels.sirt import SirtFields, take_step, weigh_difference

SHORTEST_RAY = 0.3  # of the thickness: rays that only graze the volume must not blow up their voxels
UNBOUNDED = -3e38  # below any voxel


class Sirt:
    """Steps x += C A^T R (b - A x): `compare`, `step`, `compare` ...

    Source: Gilbert (1972); R and C are the inverse row and column sums of A.

    With `positive`, images are taken relative to their means: a positive volume would explain the
    background as a uniform slab, in which positivity no longer holds noise down.

    Parameters
    ----------
    views, grid, images
        As for `weighted_back_projection`.
    positive : bool
        Clip the volume at zero after each step.
    unused : sequence of int
        Views that are held out.
    start : (nz, ny, nx) array, optional
        The first volume, image units per A; zero by default.
    """

    def __init__(self, views, grid, positive=True, images=None, unused=(), start=None):
        images = align_images(views) if images is None else images
        if positive:
            images = images - images.mean(axis=(1, 2), keepdims=True)
        shape, self.unused, self.least = in_pixels(grid, views), list(unused), 0.0 if positive else UNBOUNDED
        self.geometry = g = TiltGeometry(views.tilt_angles, images.shape[1:], shape)
        self.voxel_size = np.float32(grid.voxel_size)
        plane, row = g.nz * g.nx, g.n_columns
        sizes = (g.blocks * plane, g.blocks * row * g.n_views, g.blocks * row * max(1, len(self.unused)))
        self.fields = lend(self, SirtFields, g.n_views, *map(roomy, (*sizes, plane, row * g.n_views)))
        slots = np.full(g.n_views, -1, np.int32)
        slots[self.unused] = np.arange(len(self.unused))
        self.fields.slot.from_numpy(slots)
        used = np.ones((len(images), 1, 1), np.float32)
        used[self.unused] = 0
        rows = used[:, 0] / np.maximum(g.project(np.ones(shape, np.float32))[:, 0], SHORTEST_RAY * g.nz)
        columns = 1 / np.maximum(g.back_project(used * np.ones_like(images))[:, 0], 1)
        for field, values in ((self.fields.rows, rows), (self.fields.columns, columns)):
            transfer.load_scalars(field, values.astype(float_type()).reshape(-1), values.size)
        g.load(self.fields.target, images)
        first = np.zeros(shape, np.float32) if start is None else start * self.voxel_size
        for volume in (self.fields.current, g.fields.volume):
            g.load(volume, first)

    def compare(self):
        """Mean squared residual, apart from its mean, of the views held out; nan without such views."""
        g = self.geometry
        g.project_loaded()
        weigh_difference(g.fields, self.fields, g.blocks * g.n_views, g.n_views, g.n_columns, len(self.unused))
        if not self.unused:
            return np.nan
        return g.store(self.fields.held, len(self.unused), g.n_columns).var(axis=(1, 2)).mean()

    def step(self):
        """A step by what `compare` found."""
        g = self.geometry
        g.back_project_loaded()
        take_step(g.fields, self.fields, g.blocks * g.nz, g.nz, g.nx, self.least)

    def volume(self):
        """(nz, ny, nx) float array in image units per A."""
        g = self.geometry
        return g.store(self.fields.current, g.nz, g.nx) / self.voxel_size


def sirt(views, grid, iterations, positive=True, images=None, progress=None):
    """The volume after a number of iterations: (nz, ny, nx) float array in image units per A; see `Sirt`."""
    run = Sirt(views, grid, positive, images)
    for i in range(iterations):
        run.compare()
        run.step()
        if progress is not None:
            progress.update(i + 1, iterations)
    return run.volume()
