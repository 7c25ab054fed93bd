"""What a GPU runs, against the reference: in float64 compiled for the CPU, one thread to a Gaussian, and on Vulkan.

On Vulkan the sizes matter: Mesa's lavapipe loses atomics in partly filled thread blocks unless these are kept small
(Layout.block), and the threads of a team must all come to their sums.
"""

from dataclasses import replace

import numpy as np
import pytest
import reference
import scenes
from gradients import assert_grad_close
from scenes import PIXEL_SIZE, Scene, draw, pull_back, random_cloud, random_scene

from taigs.cloud import GaussianCloud
from taigs.views import Grid

SHAPES = [(40, 40), (33, 57), (45, 53)]
SIZES = [(9, 17, 21), (3, 8, 40), (11, 5, 16)]  # of volumes
COUNTS = [1, 7, 8, 9, 65, 300]  # about the number of teams in a block, and more of them than threads in one


def difference(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


# --- in float64 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", [4.0, 5.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", COUNTS)
def test_images_equal_the_reference_to_rounding(gpu64, renderer, rng, n, shape, cutoff):
    scene = random_scene(rng, n, shape, signed=True)
    assert difference(draw(renderer(cutoff, signed=True), scene), scene.reference_images(cutoff)) < 1e-12


@pytest.mark.parametrize("correlation", [0.0, 0.7, -0.9, 0.99])
@pytest.mark.parametrize("sigmas", [(0.3, 0.3), (0.4, 1.0), (2.0, 2.0), (1.0, 3.0), (3.0, 1.0), (4.0, 25.0)])
def test_single_gaussians_equal_the_reference_to_rounding(gpu64, renderer, rng, sigmas, correlation):
    """Alone, so that no maximum of others hides its error."""
    cxy = correlation * np.prod(sigmas)
    values, axes = np.linalg.eigh([[sigmas[0] ** 2, cxy], [cxy, sigmas[1] ** 2]])
    half = np.arctan2(axes[1, 0], axes[0, 0]) / 2
    cloud = GaussianCloud(
        np.zeros((1, 3)), np.log(np.sqrt([[*values, 1.0]])), np.array([[np.cos(half), 0, 0, np.sin(half)]]), np.ones(1)
    )
    for offset in rng.uniform(-4, 4, (4, 2)):
        scene = Scene(cloud, np.eye(3)[None, :2], np.array([[32.0, 24.0]]) + offset, (48, 64))
        assert difference(draw(renderer(), scene), scene.reference_images(cutoff=4.0)) < 1e-11


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 65])
def test_gradients_equal_central_differences_of_the_reference(gpu64, renderer, rng, n, shape):
    scene = random_scene(rng, n, shape)
    v_images = rng.normal(size=(3, *shape))
    actual = pull_back(renderer(), scene, v_images)
    for name, expected in scenes.reference_gradient(scene, v_images, 4.0).items():
        assert_grad_close(actual[name], expected, name=name)


def test_drawing_is_linear_in_the_masses_and_its_gradient_is_the_adjoint(gpu64, renderer, rng):
    scene = random_scene(rng, 65, (33, 57), signed=True)
    r = renderer(signed=True)
    masses, v_images = rng.normal(size=65), rng.normal(size=(3, 33, 57))
    images = draw(r, scene.with_cloud(masses=masses))
    np.testing.assert_allclose(draw(r, scene.with_cloud(masses=-3 * masses)), -3 * images, atol=1e-12)
    v_masses = pull_back(r, scene, v_images)["masses"]
    assert np.vdot(v_images, images) == pytest.approx(np.vdot(v_masses, masses), rel=1e-11)


@pytest.mark.parametrize("planes", [None, 2])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("n", COUNTS)
def test_volumes_and_their_gradients_equal_the_reference(gpu64, volumes, rng, n, shape, planes, monkeypatch):
    """Also in slabs of two planes, whose gradients add up."""
    monkeypatch.setattr(volumes(), "most_planes", planes)
    grid = Grid(shape, PIXEL_SIZE)
    cloud = random_cloud(rng, n, shape[::-1], sigmas=(0.6, 2.0))
    assert difference(volumes().voxelize(cloud, grid), reference.voxelize(cloud, grid, cutoff=4.0)) < 1e-12
    v_volume = rng.normal(size=shape)
    actual = volumes().vjp(cloud, grid, v_volume)
    for name, expected in scenes.reference_voxel_gradient(cloud, grid, v_volume, 4.0).items():
        assert_grad_close(actual[name], expected, name=name)


def test_voxelizing_is_linear_in_the_masses_and_its_gradient_is_the_adjoint(gpu64, volumes, rng):
    grid = Grid((9, 17, 21), PIXEL_SIZE)
    cloud, masses, v_volume = random_cloud(rng, 65, (21, 17, 9)), rng.uniform(1, 2, 65), rng.normal(size=(9, 17, 21))
    volume = volumes().voxelize(replace(cloud, masses=masses), grid)
    v_masses = volumes().vjp(cloud, grid, v_volume)["masses"]
    assert np.vdot(v_volume, volume) == pytest.approx(np.vdot(v_masses, masses), rel=1e-11)


# --- Vulkan -----------------------------------------------------------------------------------------------


@pytest.mark.vulkan
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", COUNTS)
def test_images_on_vulkan_equal_the_reference(vulkan, renderer, rng, n, shape):
    scene = random_scene(rng, n, shape)
    expected = scene.reference_images(cutoff=4.0)
    for _ in range(3):
        assert difference(draw(renderer(), scene), expected) < 1e-5


@pytest.mark.vulkan
@pytest.mark.parametrize("n", [127, 128, 129, 300])
def test_nothing_that_is_added_to_a_pixel_is_lost_on_vulkan(vulkan, renderer, rng, n):
    """Every Gaussian on few pixels, so that all threads of a block add to the same ones."""
    cloud = random_cloud(rng, n, (3, 3, 3), sigmas=(0.4, 0.5))
    scene = Scene(cloud, *scenes.random_views(rng, (40, 40)), (40, 40))
    expected = scene.reference_images(cutoff=4.0)
    for _ in range(5):
        assert difference(draw(renderer(), scene), expected) < 1e-5


@pytest.mark.vulkan
@pytest.mark.parametrize("n", [1, 8, 9, 65, 300])
def test_gradients_on_vulkan_equal_central_differences_of_the_reference(vulkan, renderer, rng, n):
    scene = random_scene(rng, n, (33, 57))
    v_images = rng.normal(size=(3, 33, 57))
    actual = pull_back(renderer(), scene, v_images)
    for name, expected in scenes.reference_gradient(scene, v_images, 4.0).items():
        assert_grad_close(actual[name], expected, 1e-4, 1e-2, name)


@pytest.mark.vulkan
def test_an_empty_cloud_and_one_outside_draw_zeros_on_vulkan(vulkan, renderer, rng):
    scene = random_scene(rng, 7, (40, 40))
    assert draw(renderer(), scene).any()
    outside = scene.with_cloud(positions=scene.cloud.positions + 1e4)
    assert not draw(renderer(), outside).any()
    draw(renderer(), scene)
    assert not draw(renderer(), replace(scene, cloud=scene.cloud.subset([]))).any()


@pytest.mark.vulkan
@pytest.mark.parametrize("n", COUNTS)
def test_volumes_and_their_gradients_on_vulkan_equal_the_reference(vulkan, volumes, rng, n):
    grid = Grid((9, 17, 21), PIXEL_SIZE)
    cloud = random_cloud(rng, n, (21, 17, 9), sigmas=(0.6, 2.0))
    expected = reference.voxelize(cloud, grid, cutoff=4.0)
    for _ in range(5):
        assert difference(volumes().voxelize(cloud, grid), expected) < 1e-5
    v_volume = rng.normal(size=grid.shape)
    actual = volumes().vjp(cloud, grid, v_volume)
    for name, expected in scenes.reference_voxel_gradient(cloud, grid, v_volume, 4.0).items():
        assert_grad_close(actual[name], expected, 1e-4, 1e-2, name)
