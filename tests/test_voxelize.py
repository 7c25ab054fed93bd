"""Volumes of clouds and their gradients: the tests of images, one dimension up."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import scenes
from gradients import assert_grad_close, central_difference
from scenes import CLOUD_ARRAYS, PIXEL_SIZE, draw, random_cloud
from test_render import assert_images_close, elongated_scene

from taigs import render, voxelize, voxelize_vjp
from taigs.cloud import GaussianCloud
from taigs.views import Grid

SHAPES = [(7, 9, 11), (16, 12, 24), (1, 33, 10), (5, 1, 1)]


def scattered(rng, n, shape, **of_cloud):
    return random_cloud(rng, n, shape[::-1], **of_cloud)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 7, 65, 300])
def test_volumes_equal_the_reference(cpu64, volumes, rng, n, shape):
    grid = Grid(shape, PIXEL_SIZE, centre=(4.0, 5.5, 2.25))
    cloud = scattered(rng, n, shape)
    expected = reference.voxelize(cloud, grid, cutoff=4.0)
    assert_images_close(volumes().voxelize(cloud, grid), expected, 1e-12)


@pytest.mark.parametrize("n", [7, 65, 300])
def test_volumes_in_float32_equal_the_reference(cpu32, volumes, rng, n):
    grid = Grid((16, 12, 24), PIXEL_SIZE)
    cloud = scattered(rng, n, grid.shape)
    expected = reference.voxelize(cloud, grid, cutoff=4.0)
    assert_images_close(volumes().voxelize(cloud, grid), expected, 1e-5)


# With needles the determinant loses digits: float32 holds the covariance to 1e-7 of its largest entry.
@pytest.mark.parametrize("aspect, tolerance", [(1.5, 2e-5), (2, 2e-5), (3, 2e-5), (20, 2e-4)])
def test_elongated_gaussians_in_float32_equal_the_reference(cpu32, volumes, rng, aspect, tolerance):
    """One by one: in a sum, an error of one hides behind the maximum of all."""
    cloud = elongated_scene(rng, aspect, n=40).cloud
    cloud = replace(cloud, quaternions=rng.normal(size=(40, 4)), positions=0.2 * cloud.positions)
    grid = Grid((9, 24, 24), PIXEL_SIZE)
    for i in range(len(cloud)):
        one = cloud.subset([i])
        expected = reference.voxelize(one, grid, cutoff=4.0)
        assert_images_close(volumes().voxelize(one, grid), expected, tolerance)


def test_planes_get_all_gaussians_that_reach_them(cpu64, rng):
    """In a volume of many tasks, also those whose means lie far away or outside."""
    grid = Grid((61, 21, 10), PIXEL_SIZE)
    narrow = scattered(rng, 90, (90, 40, 20), sigmas=(0.5, 1.0))
    wide = scattered(rng, 3, (90, 40, 20), sigmas=(4.0, 9.0))
    cloud = GaussianCloud(*(np.concatenate([getattr(c, name) for c in (narrow, wide)]) for name in CLOUD_ARRAYS))
    expected = reference.voxelize(cloud, grid, cutoff=4.0)
    assert_images_close(voxelize(cloud, grid), expected, 1e-12)
    assert_images_close(voxelize(narrow, grid), reference.voxelize(narrow, grid, cutoff=4.0), 1e-12)


def test_slabs_join_into_the_same_volume(cpu64, volumes, rng):
    grid = Grid((16, 12, 24), PIXEL_SIZE)
    cloud = scattered(rng, 65, grid.shape)
    v_volume = rng.normal(size=grid.shape)
    whole, v_whole = volumes().voxelize(cloud, grid), volumes().vjp(cloud, grid, v_volume)
    volumes().most_planes = 5  # four slabs, the last of one plane
    assert_images_close(volumes().voxelize(cloud, grid), whole, 1e-12)
    for name, v in volumes().vjp(cloud, grid, v_volume).items():
        assert_grad_close(v, v_whole[name], 1e-11, name=name)


def test_large_volumes_are_cut_into_slabs(cpu64, monkeypatch):
    monkeypatch.setattr(render, "SLAB_VECTORS", 5 * 12 * 3)
    voxelizer = render.Voxelizer(render.DeviceCloud(1), Grid((16, 12, 24), 1.0))
    assert voxelizer.planes == 5
    assert [b - a for a, b in voxelizer._slabs()] == [5, 5, 5, 1]


@pytest.mark.parametrize("n, shape", [(1, (7, 9, 11)), (65, (9, 17, 21)), (300, (7, 9, 11))])
def test_gradients_equal_central_differences_of_the_reference(cpu64, volumes, rng, n, shape):
    grid = Grid(shape, PIXEL_SIZE)
    cloud = scattered(rng, n, shape)
    v_volume = rng.normal(size=shape)
    actual = volumes().vjp(cloud, grid, v_volume)
    for name, expected in scenes.reference_voxel_gradient(cloud, grid, v_volume, 4.0).items():
        assert_grad_close(actual[name], expected, 1e-6, 1e-5, name)


def test_gradients_equal_central_differences_of_the_kernel(cpu64, volumes, rng):
    grid = Grid((7, 9, 11), PIXEL_SIZE)
    cloud = scattered(rng, 5, grid.shape)
    v_volume = rng.normal(size=grid.shape)
    actual = volumes().vjp(cloud, grid, v_volume)
    for name in CLOUD_ARRAYS:
        expected = central_difference(
            lambda a, name=name: np.vdot(v_volume, volumes().voxelize(replace(cloud, **{name: a}), grid)),
            getattr(cloud, name),
        )
        assert_grad_close(actual[name], expected, 1e-6, 1e-5, name)


@pytest.mark.parametrize("aspect", [3, 10])
def test_gradients_in_float32_equal_those_in_float64(cpu32, volumes, rng, aspect):
    grid = Grid((9, 17, 21), PIXEL_SIZE)
    cloud = scattered(rng, 65, grid.shape, sigmas=(0.6, 0.6 * aspect))
    v_volume = rng.normal(size=grid.shape)
    actual = volumes().vjp(cloud, grid, v_volume)
    for name, expected in scenes.reference_voxel_gradient(cloud, grid, v_volume, 4.0).items():
        assert_grad_close(actual[name], expected, 1e-4, 1e-2, name)


@pytest.mark.parametrize("backend", ["cpu64", "gpu64"])
def test_gaussians_that_just_miss_the_volume_have_no_density_and_no_gradient(started, volumes, rng):
    """Of a cut-off of 4 pixels: beyond the faces along y and z, where other rows and planes lie in memory."""
    shape = nz, ny, _ = (9, 17, 21)
    centre = np.array(shape[::-1]) // 2
    beyond = [(10, -4.2, 4), (10, ny + 3.2, 4), (10, -6, 4), (10, ny + 20, 4), (10, 8, -4.2), (10, 8, nz + 3.2)]
    cloud = scattered(rng, len(beyond), shape)
    cloud = replace(
        cloud,
        positions=PIXEL_SIZE * (np.array(beyond) - centre),
        log_sigmas=np.full((len(beyond), 3), np.log(PIXEL_SIZE)),
    )
    grid = Grid(shape, PIXEL_SIZE, tuple(centre))
    inside = replace(cloud, positions=np.zeros_like(cloud.positions))
    v_volume = rng.normal(size=shape)
    assert all(v.any() for v in volumes().vjp(inside, grid, v_volume).values())
    assert not volumes().voxelize(cloud, grid).any()
    assert not any(v.any() for v in volumes().vjp(cloud, grid, v_volume).values())


def test_voxelizing_is_linear_in_the_mass_and_its_gradient_is_the_adjoint(cpu64, volumes, rng):
    grid = Grid((16, 12, 24), PIXEL_SIZE)
    cloud = scattered(rng, 300, grid.shape)
    v_volume = rng.normal(size=grid.shape)
    forward = np.vdot(volumes().voxelize(cloud, grid), v_volume)
    backward = np.vdot(cloud.masses, volumes().vjp(cloud, grid, v_volume)["masses"])
    assert abs(backward / forward - 1) < 1e-12


def test_the_sum_of_a_volume_is_the_sum_of_the_masses(cpu64, volumes, rng):
    cloud = random_cloud(rng, 20, (4, 4, 1), sigmas=(0.9, 1.0))
    volume = volumes(cutoff=6.5).voxelize(cloud, Grid((16, 24, 24), PIXEL_SIZE))
    np.testing.assert_allclose(volume.sum() * PIXEL_SIZE**3, cloud.masses.sum(), rtol=1e-6)


def test_the_sum_along_z_is_the_projection_along_z(cpu64, renderer, volumes, rng):
    cloud = random_cloud(rng, 20, (16, 16, 1), sigmas=(0.9, 1.0))
    volume = volumes(cutoff=6.5).voxelize(cloud, Grid((16, 21, 23), PIXEL_SIZE))
    view = np.eye(3)[None, :2] / PIXEL_SIZE
    scene = scenes.Scene(cloud, view, np.array([[11.0, 10.0]]), (21, 23))
    assert_images_close(volume.sum(axis=0) * PIXEL_SIZE**3, draw(renderer(cutoff=8.5), scene)[0], 1e-6)


def test_an_empty_cloud_gives_an_empty_volume(cpu64, volumes, rng):
    cloud, grid = random_cloud(rng, 3, (4, 4, 4)), Grid((5, 6, 7), 1.0)
    assert volumes().voxelize(cloud, grid).any()
    assert not volumes().voxelize(cloud.subset([]), grid).any()
    assert volumes().vjp(cloud.subset([]), grid, np.ones((5, 6, 7)))["positions"].shape == (0, 3)


def test_the_public_functions_take_a_grid_or_a_shape(cpu64, volumes, rng):
    cloud, grid = random_cloud(rng, 7, (11, 9, 7)), Grid((7, 9, 11), PIXEL_SIZE)
    volume = voxelize(cloud, (7, 9, 11), PIXEL_SIZE)
    assert volume.dtype == np.float64
    np.testing.assert_array_equal(volume, volumes().voxelize(cloud, grid))
    v_volume = rng.normal(size=grid.shape)
    expected = volumes().vjp(cloud, grid, v_volume)
    for name, v in voxelize_vjp(cloud, grid, v_volume).items():
        np.testing.assert_array_equal(v, expected[name])


def test_volumes_do_not_depend_on_the_number_of_threads(cpu32, volumes, rng, restart):
    grid = Grid((16, 12, 24), PIXEL_SIZE)
    cloud = scattered(rng, 300, grid.shape)
    v_volume = rng.normal(size=grid.shape)
    results = []
    for threads in (1, 2):
        restart(threads)
        results.append({"volume": volumes().voxelize(cloud, grid), **volumes().vjp(cloud, grid, v_volume)})
    for name, one in results[0].items():
        np.testing.assert_array_equal(results[1][name], one, err_msg=name)
