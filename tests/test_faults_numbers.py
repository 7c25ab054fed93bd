"""Sizes at their ends: nothing at all, one of everything, more than there is memory for, more than Taichi can count."""

import logging
import types

import numpy as np
import pytest
import reference
from scenes import PIXEL_SIZE, Scene, draw, load_scalars, random_cloud, random_views

from taigs.batches import InOneSum
from taigs.cloud import GaussianCloud
from taigs.device import read_scalars
from taigs.errors import InputError, ResourceError
from taigs.fit import Fit
from taigs.kernels import backproject, fields, sirt
from taigs.kernels.backproject import TiltFields
from taigs.kernels.covariance import covariance
from taigs.kernels.fields import CloudFields, EllipseFields, ImageFields, VoxelFields
from taigs.kernels.layout import LAYOUT, Layout
from taigs.kernels.sirt import SirtFields
from taigs.masks import check_mask
from taigs.progress import NoProgress
from taigs.schedule import FitConfig, Stage
from taigs.seeds import cloud_from_volume
from taigs.views import Grid

ON_BOTH = pytest.mark.parametrize("backend", ["cpu32", "gpu64"])  # the kernels of the CPU and those of a GPU

# --- nothing, and one of everything ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_no_gaussian_at_the_start_is_an_error_that_says_of_how_many_voxels(rng, value):
    grid = Grid((4, 5, 6), 1.0)
    with pytest.raises(InputError, match=r"no density to start from: 0 of 120 voxels are above 0.*--signed"):
        cloud_from_volume(np.full(grid.shape, value), grid, 10, 1.0, rng)


@ON_BOTH
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1, 64), (48, 1), (33, 57), (7, 8)])
def test_one_gaussian_in_one_view_of_any_shape_equals_the_reference(started, renderer, rng, shape):
    cloud = GaussianCloud(np.zeros((1, 3)), np.log([[1.0, 2.0, 1.5]]), rng.normal(size=(1, 4)), np.array([2.0]))
    scene = Scene(cloud, *random_views(rng, shape, 1), shape)
    scene.offsets[:] = (np.array(shape[::-1]) - 1) / 2
    expected = scene.reference_images(cutoff=4.0)
    assert expected.shape == (1, *shape) and expected.any()
    np.testing.assert_allclose(draw(renderer(), scene), expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (9, 1, 1), (1, 33, 7)])
def test_one_gaussian_in_a_volume_of_any_shape_equals_the_reference(cpu32, volumes, rng, shape):
    cloud = GaussianCloud(np.zeros((1, 3)), np.log([[1.0, 2.0, 1.5]]), rng.normal(size=(1, 4)), np.array([2.0]))
    grid = Grid(shape, PIXEL_SIZE)
    expected = reference.voxelize(cloud, grid, cutoff=4.0)
    np.testing.assert_allclose(volumes().voxelize(cloud, grid), expected, atol=1e-5 * expected.max())


@ON_BOTH
def test_a_gaussian_on_the_border_of_blocks_and_of_the_image_equals_the_reference(started, renderer):
    """The means on pixels 0, 7, 8, the last, and half way between: supports end exactly on borders."""
    shape = (40, 48)
    places = [-0.5, 0.0, 7.0, 7.5, 8.0, 39.0, 47.0, 47.5, 48.0]
    means = np.array([(x, y, 0) for x in places for y in places])
    n = len(means)
    cloud = GaussianCloud(means, np.full((n, 3), np.log(2.0)), np.tile([1.0, 0, 0, 0], (n, 1)), np.ones(n))
    scene = Scene(cloud, np.eye(3)[None, :2], np.zeros((1, 2)), shape)
    expected = scene.reference_images(cutoff=4.0)
    np.testing.assert_allclose(draw(renderer(), scene), expected, atol=1e-5 * expected.max())


# --- densifying at its limits ------------------------------------------------------------------------------


@pytest.fixture
def fit(cpu32, renderer, rng):
    """A fit of 100 Gaussians after a step, in memory for 384."""
    gaussians = renderer()
    objective = InOneSum()
    objective.gaussians, objective.pixel_size = gaussians, PIXEL_SIZE
    fit = Fit(objective, FitConfig(), np.full(3, 1e3), NoProgress())
    fit.begin(random_cloud(rng, 100, (40, 40, 40)))
    fit.at.step = 7
    covariance(gaussians.cloud, gaussians.n_chunks)
    load_scalars([gaussians.cloud.score], rng.permutation(100)[None])
    return fit


def test_a_densification_that_would_prune_everything_is_refused_with_a_warning(fit, caplog):
    before = read_scalars(fit.gaussians.cloud.raw, 100)
    fit.bounds = np.full(3, 1e-6)
    fit.densify(Stage(0.5, 150, 10))
    np.testing.assert_array_equal(read_scalars(fit.gaussians.cloud.raw, 100), before)
    assert fit.gaussians.n == 100
    assert "step 7: all 100 Gaussians are outside, too wide or too light; none is pruned" in caplog.text


def test_beyond_the_memory_the_best_scored_are_split_and_that_is_said_once(fit, caplog):
    capacity = fit.gaussians.cloud.capacity
    scores = read_scalars([fit.gaussians.cloud.score], 100)[0]
    before = fit.gaussians.get_cloud().masses
    fit.gaussians.cloud.capacity = 130  # as if there were memory for no more
    try:
        with caplog.at_level(logging.WARNING):
            fit.densify(Stage(0.01, 10_000, 10))
            assert fit.gaussians.n == 130
            changed = np.flatnonzero(read_scalars([fit.gaussians.cloud.raw[10]], 100)[0] != raw_masses(fit, before))
            assert sorted(scores[changed]) == list(range(70, 100)), "the 30 with the highest scores"
            assert fit.gaussians.get_cloud().masses.sum() == pytest.approx(before.sum(), rel=1e-5)
            covariance(fit.gaussians.cloud, fit.gaussians.n_chunks)
            fit.densify(Stage(0.01, 20_000, 10))
    finally:
        fit.gaussians.cloud.capacity = capacity
    assert caplog.text.count("no memory for more than 130 Gaussians: 10000 were wanted") == 1
    assert caplog.text.count("no memory") == 1


def raw_masses(fit, masses):
    from taigs.device import raw_parameters

    n = len(masses)
    cloud = GaussianCloud(np.zeros((n, 3)), np.zeros((n, 3)), np.ones((n, 4)), masses)
    return raw_parameters(cloud, fit.gaussians.cloud.unit[None])[10].astype(np.float32)


# --- more than there is memory for, more than Taichi can count ----------------------------------------------

HUGE = 2**31
TOO_LARGE = {
    "a cloud": lambda: CloudFields(HUGE // 2, False),
    "the projections of a cloud": lambda: EllipseFields(1 << 13, 1 << 18, 4.0),
    "an image": lambda: ImageFields(1, 1, HUGE // LAYOUT.lanes, 1),
    "private images": lambda: ImageFields(8, 8, HUGE // 64 // LAYOUT.lanes, 1),
    "a slab": lambda: VoxelFields(128, 1, HUGE // LAYOUT.lanes, 4.0),
    "a tomogram": lambda: TiltFields(3, HUGE // LAYOUT.wide, 1),
    "what SIRT keeps": lambda: SirtFields(3, HUGE // LAYOUT.wide, 1, 1, 1, 1),
    "images of a tilt series": lambda: TiltFields(1 << 9, 1, HUGE // LAYOUT.wide),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_arrays_that_taichi_cannot_count_are_refused_before_the_allocation(cpu32, monkeypatch, case):
    allocated = []

    class Tree:
        def dense(self, _, shape):
            allocated.append(int(np.prod(shape)))
            return self

        def place(self, _):
            pass

        def finalize(self):
            pass

    def field(*_, shape=0, **__):
        allocated.append(int(np.prod(shape)))
        return types.SimpleNamespace(from_numpy=lambda _: None)

    vector, axes = types.SimpleNamespace(field=field), dict.fromkeys(("i", "ij", "ijk", "i32"))
    fake = types.SimpleNamespace(field=field, Vector=vector, ndarray=field, FieldsBuilder=Tree, **axes)
    for module in (fields, backproject, sirt):
        monkeypatch.setattr(module, "ti", fake)
    with pytest.raises(ResourceError, match=r"expected fewer than 2\^31; try ") as refusal:
        TOO_LARGE[case]()
    assert refusal.value.exit_code == 4
    assert max(allocated, default=0) < HUGE


def test_threads_that_taichi_cannot_count_are_refused(cpu32, monkeypatch):
    """On a GPU eight of them draw a Gaussian."""
    monkeypatch.setattr(Layout, "team", 8)
    with pytest.raises(ResourceError, match=r"expected fewer than 2\^31"):
        EllipseFields(1 << 10, 1 << 18, 4.0)


def test_images_larger_than_a_renderers_memory_never_reach_a_kernel(cpu32, renderer, rng):
    r = renderer()
    matrices, offsets = random_views(rng, (48, 64), 3)
    for shape in ((65, 64), (64, 65)):
        with pytest.raises(InputError, match="room for"):
            r.set_views(matrices, offsets, shape)
    with pytest.raises(InputError, match="room for"):
        r.load_images(r.images.residual, np.zeros((5, 48, 64)))


@pytest.mark.parametrize(
    "mask, words",
    [
        (np.zeros((4, 5, 6)), "empty"),
        (np.ones((4, 5, 7)), r"shape \(4, 5, 7\)"),
        (np.full((4, 5, 6), 1.5), "from 1.5 to 1.5; expected 0 to 1"),
        (np.full((4, 5, 6), np.nan), "NaN"),
    ],
)
def test_masks_that_are_empty_of_another_shape_or_beyond_0_and_1_are_refused(mask, words):
    with pytest.raises(InputError, match=words):
        check_mask(mask, (4, 5, 6))
