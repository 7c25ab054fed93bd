"""The kernels that are neither raster nor voxeliser: Adam, image comparison, back-projection."""

import numpy as np
import pytest
import reference
import scenes
from scenes import draw, load_scalars, random_scene

from taigs.device import raw_parameters, read_scalars
from taigs.geometry import tilt_rotation
from taigs.kernels import transfer
from taigs.kernels.adam import adam
from taigs.kernels.backproject import TiltFields, back_project, load_along_y, project_voxels, store_along_y
from taigs.kernels.covariance import covariance
from taigs.kernels.fields import CloudFields
from taigs.kernels.layout import LAYOUT, cosine
from taigs.kernels.residual import collect, residual
from taigs.runtime import ti
from taigs.views import Grid

# --- cosines ----------------------------------------------------------------------------------------------


@ti.kernel
def cosines(values: ti.types.ndarray(ndim=1), n: int):
    for i in range(n):
        values[i] = cosine(values[i])


def test_cosines_of_turns_are_as_exact_as_float32_holds_them(cpu32):
    turns = np.concatenate([np.linspace(-2, 2, 4001), np.linspace(-60, 60, 997)]).astype(np.float32)
    found = turns.copy()
    cosines(found, len(found))
    np.testing.assert_allclose(found, np.cos(2 * np.pi * turns.astype(np.float64)), rtol=0, atol=1.5e-7)


# --- raw parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_covariance_and_mass_of_raw_parameters(cpu64, rng, signed):
    fields = CloudFields(512, signed)
    raw = rng.normal(size=(11, 200))
    raw[10] = np.linspace(-40, 40, 200)
    load_scalars(fields.raw, raw)
    fields.unit[None] = 2.5
    covariance(fields, 2)
    expected = reference.covariance(raw[3:6].T, raw[6:10].T)
    actual = read_scalars(fields.cov, 200)
    for row, (i, j) in zip(actual, ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)), strict=True):
        np.testing.assert_allclose(row, expected[:, i, j], rtol=1e-12, atol=1e-13)
    masses = 2.5 * (raw[10] if signed else reference.softplus(raw[10]))
    np.testing.assert_allclose(read_scalars([fields.mass], 200)[0], masses, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [5, 300])
def test_clouds_survive_the_way_through_device_memory(cpu64, renderer, rng, n):
    scene = random_scene(rng, n, (40, 40))
    r = renderer()
    r.set_cloud(scene.cloud)
    back = r.get_cloud()
    for name in ("positions", "log_sigmas", "masses"):
        np.testing.assert_allclose(getattr(back, name), getattr(scene.cloud, name), rtol=1e-12)
    np.testing.assert_allclose(back.covariances(), scene.cloud.covariances(), rtol=1e-10)
    expected = reference.covariance(scene.cloud.log_sigmas, scene.cloud.quaternions)
    np.testing.assert_allclose(scene.cloud.covariances(), expected, rtol=1e-10)


# --- Adam -------------------------------------------------------------------------------------------------


def test_ten_steps_of_adam_equal_the_reference(cpu64, rng):
    fields, n = CloudFields(512, False), 200
    raw, moment1, moment2 = rng.normal(size=(11, n)), np.zeros((11, n)), np.zeros((11, n))
    rates = np.repeat([0.05, 0.02, 0.03, 0.07], [3, 3, 4, 1])
    load_scalars(fields.raw, raw)
    for step in range(1, 11):
        gradient = rng.normal(size=(11, n)) * 10.0 ** rng.uniform(-6, 3, (11, n))
        load_scalars(fields.v_raw, gradient)
        adam(
            fields,
            2,
            0.9,
            0.999,
            1 / (1 - 0.9**step),
            1 / (1 - 0.999**step),
            0.05,
            0.02,
            0.03,
            0.07,
            -1.5,
            1.2,
        )
        raw, moment1, moment2 = reference.adam(raw, gradient, moment1, moment2, step, rates, (-1.5, 1.2))
    np.testing.assert_allclose(read_scalars(fields.raw, n), raw, atol=1e-12)
    np.testing.assert_allclose(read_scalars(fields.moment1, n), moment1, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(read_scalars(fields.moment2, n), moment2, rtol=1e-10, atol=1e-15)
    sigmas = read_scalars(fields.raw, n)[3:6]
    assert sigmas.min() == -1.5 and sigmas.max() == 1.2
    assert np.abs(read_scalars(fields.raw, n)[:3]).max() > 1.5, "bounds are for log sigma only"


def test_parameters_without_gradient_stay_where_they_are(cpu64, renderer, rng):
    scene = random_scene(rng, 300, (40, 40))
    r = renderer()
    r.set_cloud(scene.cloud)
    for field in (*r.cloud.v_raw, *r.cloud.moment1, *r.cloud.moment2):
        field.fill(0)
    adam(r.cloud, r.n_chunks, 0.9, 0.999, 10.0, 1000.0, 1.0, 1.0, 1.0, 1.0, -9.0, 9.0)
    raw = raw_parameters(scene.cloud, r.cloud.unit[None])
    np.testing.assert_array_equal(read_scalars(r.cloud.raw, 300), raw)


# --- images against images --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 40), (33, 57), (5, 9), (1, 1)])
def test_statistics_residual_and_loss_equal_the_reference(cpu64, renderer, rng, shape):
    """Heights below the number of strips and widths off the vectors included."""
    r = renderer()
    scene = random_scene(rng, 65, shape)
    models = draw(r, scene)
    targets = 0.7 * models + 0.2 + rng.normal(0, 0.1, models.shape)
    r.load_images(r.images.target, targets)
    scale = rng.uniform(0.3, 2, (3, 3))
    r.images.scale.from_numpy(scale)
    collect(r.images, 3, r.n_parts, r.height, r.width, r.blocks)
    residual(r.images, 3, r.height, r.width, r.blocks)

    sums = r.images.statistics.to_numpy().reshape(3, -1, 6).sum(axis=1)
    np.testing.assert_allclose(sums[:, :5], reference.statistics(models, targets), rtol=1e-12)
    expected, losses = reference.residual(models, targets, *scale.T)
    np.testing.assert_allclose(sums[:, 5], losses, rtol=1e-12)
    stored = np.empty(3 * r.height * r.blocks * LAYOUT.lanes)
    transfer.store_vectors(r.images.residual, stored, stored.size // LAYOUT.lanes)
    stored = stored.reshape(3, r.height, -1)
    np.testing.assert_allclose(stored[:, :, : r.width], expected, rtol=1e-11, atol=1e-13)
    assert not stored[:, :, r.width :].any(), "pixels beyond the image must not pull"


def test_gain_and_offset_follow_from_the_statistics(rng):
    """The normal equations of a straight line, from the five sums and the number of pixels alone."""
    models = rng.normal(size=(3, 9, 11))
    targets = 0.7 * models + 0.2 + rng.normal(0, 0.1, models.shape)
    s, ss, st, t, _ = reference.statistics(models, targets).T
    gain = (99 * st - s * t) / (99 * ss - s * s)
    offset = (t - gain * s) / 99
    np.testing.assert_allclose([gain, offset], reference.gain_and_offset(models, targets), rtol=1e-10)


# --- back-projection --------------------------------------------------------------------------------------


class Tilts:
    """Device memory of a small volume and its images, with NumPy on both sides."""

    def __init__(self, rays, shape, n_columns):
        self.shape, self.n_views, self.n_columns = shape, len(rays), n_columns
        nz, ny, nx = shape
        self.blocks = -(-ny // LAYOUT.wide)
        self.fields = TiltFields(len(rays), self.blocks * nz * nx, self.blocks * len(rays) * n_columns)
        self.fields.rays.from_numpy(rays)
        self.project_tasks = (self.fields, self.blocks * len(rays), len(rays), n_columns, nz, nx)
        self.back_tasks = (self.fields, self.blocks * nz, len(rays), n_columns, nz, nx)

    def project(self, volume):
        nz, ny, nx = self.shape
        images = np.empty((self.n_views, ny, self.n_columns))
        load_along_y(volume, self.fields.volume, self.blocks * nz, nz, ny, nx)
        project_voxels(*self.project_tasks)
        store_along_y(self.fields.images, images, self.blocks * self.n_views, self.n_views, ny, self.n_columns)
        return images

    def back_project(self, images):
        nz, ny, nx = self.shape
        volume = np.empty(self.shape)
        load_along_y(images, self.fields.images, self.blocks * self.n_views, self.n_views, ny, self.n_columns)
        back_project(*self.back_tasks)
        store_along_y(self.fields.volume, volume, self.blocks * nz, nz, ny, nx)
        return volume


def test_tilt_projection_and_back_projection_equal_the_reference_and_are_adjoint(cpu64, rng):
    """Rays that leave the images on both sides, that meet columns exactly, and both last columns."""
    shape, n_columns = (7, 13, 22), 19
    angles = np.deg2rad([-80, -60, -10, 0, 33, 60, 90])
    offsets = rng.uniform(-4, 4, 7)
    offsets[3] = -1.0  # columns -1 to 20 of 0 to 18, without interpolation
    rays = np.stack([np.cos(angles), np.sin(angles), offsets], axis=1)
    tilts = Tilts(rays, shape, n_columns)
    volume, images = rng.normal(size=shape), rng.normal(size=(7, 13, n_columns))
    drawn, back = tilts.project(volume), tilts.back_project(images)
    np.testing.assert_allclose(drawn, reference.project_voxels(volume, rays, n_columns), atol=1e-12)
    np.testing.assert_allclose(back, reference.back_project(images, rays, 7, 22), atol=1e-12)
    assert abs(np.vdot(drawn, images) / np.vdot(volume, back) - 1) < 1e-12


def test_the_tilt_projection_of_a_cloud_is_the_projection_of_its_voxels(cpu64, renderer, volumes, rng):
    """x' = x cos t + z sin t for Gaussians and for voxels, to the error of linear interpolation."""
    cloud = scenes.random_cloud(rng, 5, (8, 8, 6), sigmas=(1.5, 2.0))
    grid = Grid((16, 20, 24), scenes.PIXEL_SIZE)
    angle = 30.0
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    rays = np.array([[cos, sin, 11.5 - 11.5 * cos - 7.5 * sin]])
    volume = volumes().voxelize(cloud, grid) * scenes.PIXEL_SIZE**3
    drawn = Tilts(rays, grid.shape, 24).project(volume)[0]
    view = tilt_rotation(angle)[None, :2] / scenes.PIXEL_SIZE
    smooth = draw(renderer(), scenes.Scene(cloud, view, np.array([[11.5, 9.5]]), (20, 24)))[0]
    assert np.corrcoef(drawn.ravel(), smooth.ravel())[0, 1] > 0.995
    assert abs(drawn.sum() / smooth.sum() - 1) < 0.01
