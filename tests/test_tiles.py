"""The tile form against private images on the CPU, and everything a GPU runs on Vulkan against the reference.

Both forms draw on the same support, so they may differ by rounding only. On Vulkan the sizes matter: Mesa's
lavapipe loses atomics in partly filled thread blocks unless these are kept small (Layout.atomic_block).
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
FORMS = ("private", "tiles")


def difference(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


# --- both forms on the CPU --------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", [4.0, 5.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 7, 65, 300])
def test_forms_agree(cpu32, renderer, rng, n, shape, cutoff):
    scene = random_scene(rng, n, shape)
    private, tiles = (draw(renderer(cutoff, form=form), scene) for form in FORMS)
    assert difference(tiles, private) < 1e-5


@pytest.mark.parametrize("n", [7, 300])
def test_forms_agree_to_rounding_in_float64(cpu64, renderer, rng, n):
    scene = random_scene(rng, n, (45, 53))
    private, tiles = (draw(renderer(form=form), scene) for form in FORMS)
    assert difference(tiles, private) < 1e-12


def ellipse(sigma_x, sigma_y, correlation, offset, shape):
    """One Gaussian whose image has these sigmas (pixels) and correlation."""
    cxy = correlation * sigma_x * sigma_y
    values, axes = np.linalg.eigh([[sigma_x**2, cxy], [cxy, sigma_y**2]])
    half = np.arctan2(axes[1, 0], axes[0, 0]) / 2
    cloud = GaussianCloud(
        np.zeros((1, 3)),
        np.log(np.sqrt([[*values, 1.0]])),
        np.array([[np.cos(half), 0, 0, np.sin(half)]]),
        np.ones(1),
    )
    return Scene(cloud, np.eye(3)[None, :2], np.array(shape[::-1])[None] / 2 + offset, shape)


@pytest.mark.parametrize("cutoff", [4.0, 5.0])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.7, 0.79, 0.9, 0.99])
def test_forms_agree_for_each_single_gaussian(cpu32, renderer, rng, correlation, cutoff):
    """Alone, so that no maximum of others hides its error; on both sides of every switch of method."""
    worst = {}
    for sigmas in (
        (0.3, 0.3),
        (0.4, 1.0),
        (0.7, 0.7),
        (1.0, 1.0),
        (2.0, 2.0),
        (1.0, 3.0),
        (3.0, 1.0),
        (4.0, 5.0),
    ):
        for sign in (-1, 1):
            for offset in rng.uniform(-4, 4, (4, 2)):
                scene = ellipse(*sigmas, sign * correlation, offset, (48, 64))
                private, tiles = (draw(renderer(cutoff, form=form), scene) for form in FORMS)
                worst[sigmas] = max(worst.get(sigmas, 0), difference(tiles, private))
    assert {k: v for k, v in worst.items() if v >= 1e-5} == {}


@pytest.mark.parametrize("sigma", [6.0, 12.0, 24.0])
def test_forms_agree_for_wide_gaussians(cpu32, renderer, rng, sigma):
    """An error that grows along a column shows only in images taller than most."""
    shape = (200, 40)
    for offset in rng.uniform(-1, 1, (6, 2)):
        scene = ellipse(sigma, sigma, 0.3, offset, shape)
        size = {"capacity": 1, "n_views": 1, "shape": shape}
        private, tiles = (draw(renderer(form=form, **size), scene) for form in FORMS)
        assert difference(tiles, private) < 1e-5


def test_more_gaussians_in_a_tile_than_a_block_has_threads(cpu32, renderer, rng):
    cloud = random_cloud(rng, 300, (4, 4, 4), sigmas=(0.4, 1.2))
    scene = Scene(cloud, np.eye(3)[None, :2] / PIXEL_SIZE, np.array([[20.0, 12.0]]), (40, 40))
    private, tiles = (draw(renderer(form=form), scene) for form in FORMS)
    assert difference(tiles, private) < 1e-5


def test_the_list_of_entries_grows(cpu32, renderer, rng):
    """300 Gaussians x 3 views x up to 48 tiles are more than a list cut down to 64 entries holds."""
    from taigs.runtime import ti

    scene = random_scene(rng, 300, (45, 53), sigmas=(4.0, 8.0))
    r = renderer(form="tiles")
    r.tiles.entries = ti.ndarray(ti.i32, shape=64)
    tiles = draw(r, scene)
    assert r.tiles.entries.shape[0] >= r.tiles.total[0] > 10_000
    assert difference(tiles, draw(renderer(form="private"), scene)) < 2e-5


# --- Vulkan -----------------------------------------------------------------------------------------------


@pytest.mark.vulkan
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 7, 65, 300])
def test_images_on_vulkan_equal_the_reference(vulkan, renderer, rng, n, shape):
    scene = random_scene(rng, n, shape)
    assert difference(draw(renderer(), scene), scene.reference_images(cutoff=4.0)) < 1e-5


@pytest.mark.vulkan
@pytest.mark.parametrize("n", [127, 128, 129, 300])
def test_no_entry_of_a_tile_is_lost_on_vulkan(vulkan, renderer, rng, n):
    """Every Gaussian in few tiles, so that all threads of a block count on one number."""
    cloud = random_cloud(rng, n, (3, 3, 3), sigmas=(0.4, 0.5))
    scene = Scene(cloud, *scenes.random_views(rng, (40, 40)), (40, 40))
    expected = scene.reference_images(cutoff=4.0)
    entries = set()
    for _ in range(5):
        assert difference(draw(renderer(), scene), expected) < 1e-5
        entries.add(renderer().tiles.total[0])
    assert len(entries) == 1 and entries.pop() >= 3 * n


@pytest.mark.vulkan
@pytest.mark.parametrize("n", [1, 65, 300])
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
@pytest.mark.parametrize("n", [1, 65, 300])
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
