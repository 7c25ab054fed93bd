"""Clouds seen from some views: made at random, drawn by a renderer, drawn by the reference."""

from dataclasses import dataclass, replace

import numpy as np
import reference
from gradients import central_difference
from scipy.spatial.transform import Rotation

from taigs.cloud import GaussianCloud
from taigs.device import float_type, read_scalars
from taigs.render import cloud_gradient
from taigs.runtime import ti

PIXEL_SIZE = 1.3  # A; not 1, so that a forgotten factor shows


def load_scalars(fields, rows):
    """Write rows of numbers into the first entries of scalar fields."""
    rows = np.ascontiguousarray(rows, float_type())
    _load_scalars(tuple(fields), rows, rows.shape[1])


@ti.kernel
def _load_scalars(fields: ti.template(), rows: ti.types.ndarray(ndim=2), n: int):
    for i in range(n):
        for j in ti.static(range(len(fields))):
            fields[j][i] = rows[j, i]


@dataclass(frozen=True)
class Scene:
    """matrices (B, 2, 3) pixel per Angstrom, offsets (B, 2) pixels, shape (H, W)."""

    cloud: GaussianCloud
    matrices: np.ndarray
    offsets: np.ndarray
    shape: tuple

    def with_cloud(self, **arrays):
        return replace(self, cloud=replace(self.cloud, **arrays))

    def extents(self):
        """Means, covariances of all ellipses of each view."""
        covariances = reference.covariance(self.cloud.log_sigmas, self.cloud.quaternions)
        return [
            reference.project(self.cloud.positions, covariances, M, t)
            for M, t in zip(self.matrices, self.offsets, strict=True)
        ]

    def reference_images(self, cutoff=None):
        return np.stack([reference.raster(m, c, self.cloud.masses, self.shape, cutoff) for m, c in self.extents()])


def random_cloud(rng, n, size, sigmas=(0.6, 3.0), signed=False):
    """n Gaussians in a box of (x, y, z) `size` pixels, with sigmas between two numbers of pixels."""
    masses = rng.uniform(0.5, 2.0, n) * (rng.choice([-1.0, 1.0], n) if signed else 1.0)
    return GaussianCloud(
        PIXEL_SIZE * rng.uniform(-0.5, 0.5, (n, 3)) * size,
        np.log(PIXEL_SIZE * rng.uniform(*sigmas, (n, 3))),
        rng.normal(size=(n, 4)),
        masses,
        signed,
    )


def random_views(rng, shape, n_views=3):
    """Matrices and offsets of views from any direction, the volume centre near the image centre."""
    matrices = Rotation.random(n_views, random_state=int(rng.integers(2**31))).as_matrix()[:, :2] / PIXEL_SIZE
    return matrices, np.array([shape[1], shape[0]]) / 2 + rng.uniform(-3, 3, (n_views, 2))


def random_scene(rng, n, shape, n_views=3, **of_cloud):
    """A cloud that also leaves the images on every side."""
    cloud = random_cloud(rng, n, (shape[1], shape[0], min(shape)), **of_cloud)
    return Scene(cloud, *random_views(rng, shape, n_views), shape)


def draw(renderer, scene):
    """(B, H, W) float64 images."""
    renderer.set_cloud(scene.cloud)
    renderer.set_views(scene.matrices, scene.offsets, scene.shape)
    renderer.forward()
    return renderer.get_images().astype(np.float64)


def gradient(renderer):
    """All gradients left by renderer.backward(): dict of float64 arrays."""
    n_views = renderer.n_views
    parts = renderer.views.v_parts.to_numpy()[:n_views, : renderer.n_chunks].astype(np.float64).sum(axis=1)
    return {
        **cloud_gradient(renderer.cloud, renderer.n),
        "raw_masses": read_scalars(renderer.cloud.v_raw, renderer.n)[10].astype(np.float64),
        "matrices": parts[:, :6].reshape(n_views, 2, 3),
        "offsets": parts[:, 6:],
    }


def pull_back(renderer, scene, v_images):
    """Gradient of sum(v_images * images) with respect to everything in the scene."""
    draw(renderer, scene)
    renderer.load_images(renderer.images.residual, v_images)
    renderer.backward()
    return gradient(renderer)


CLOUD_ARRAYS = ("positions", "log_sigmas", "quaternions", "masses")


def reference_gradient(scene, v_images, cutoff):
    """The same by central differences of the reference; supports stay where they are."""
    supports = [reference.support(*extent, scene.shape, cutoff) for extent in scene.extents()]

    def share(view, changed):
        """(N,) each Gaussian's part of sum(v_image * image)."""
        means, covariances = changed.extents()[view]
        drawn = reference.ellipses(means, covariances, changed.cloud.masses, scene.shape)
        return (drawn * supports[view] * v_images[view]).sum(axis=(1, 2))

    def shares(**arrays):
        changed = scene.with_cloud(**arrays)
        return sum(share(view, changed) for view in range(len(v_images)))

    def of_view(view, **geometry):
        one = replace(scene, **{k: np.asarray(v)[None] for k, v in geometry.items()})
        means, covariances = one.extents()[0]
        drawn = reference.ellipses(means, covariances, scene.cloud.masses, scene.shape)
        return (drawn * supports[view] * v_images[view]).sum()

    result = {
        name: central_difference(lambda a, name=name: shares(**{name: a}), getattr(scene.cloud, name))
        for name in CLOUD_ARRAYS
    }
    views = [(i, scene.matrices[i], scene.offsets[i]) for i in range(len(v_images))]
    result["matrices"] = np.stack(
        [central_difference(lambda a, i=i, t=t: of_view(i, matrices=a, offsets=t), M) for i, M, t in views]
    )
    result["offsets"] = np.stack(
        [central_difference(lambda a, i=i, M=M: of_view(i, matrices=M, offsets=a), t) for i, M, t in views]
    )
    return result


def reference_voxel_gradient(cloud, grid, v_volume, cutoff):
    """Gradient of sum(v_volume * voxelize(cloud)) by central differences of the reference, supports fixed."""

    def extents(changed):
        return reference.to_voxels(
            changed.positions, reference.covariance(changed.log_sigmas, changed.quaternions), grid
        )

    drawn_on = reference.voxel_support(*extents(cloud), grid.shape, cutoff)
    weights = drawn_on * v_volume / grid.voxel_size**3

    def shares(**arrays):
        changed = replace(cloud, **arrays)
        drawn = reference.blobs(*extents(changed), changed.masses, grid.shape)
        return (drawn * weights).sum(axis=(1, 2, 3))

    return {
        name: central_difference(lambda a, name=name: shares(**{name: a}), getattr(cloud, name))
        for name in CLOUD_ARRAYS
    }
