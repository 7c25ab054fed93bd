"""Prune, split and clone: what must be conserved, who moves where, and that nobody else does."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import draw, load_scalars, random_cloud, random_scene

from taigs.device import DeviceCloud, download, read_scalars, upload
from taigs.errors import InputError
from taigs.kernels.covariance import covariance
from taigs.kernels.densify import (
    EMPTY,
    KEEP,
    NOWHERE,
    OFFSET,
    SPLIT,
    add_score,
    assign,
    clear_scores,
    empty_marked,
    mark,
    split_marked,
)
from taigs.kernels.fields import CloudFields

ANYWHERE = (1e6, 1e6, 1e6)  # A: bounds that nothing reaches
CAPACITY = 512  # four chunks
HELD = {}  # the clouds that the fields of a test belong to


def fields_of(cloud, capacity=CAPACITY):
    """A cloud in device memory, with its masses, and with moments that tell every entry apart."""
    held = HELD[cloud.signed] = DeviceCloud(capacity, cloud.signed)
    fields = held.cloud
    held.set_cloud(cloud)
    covariance(fields, fields.capacity // 128)
    values = np.arange(11 * fields.capacity, dtype=np.float64).reshape(11, -1)
    load_scalars(fields.moment1, values)
    load_scalars(fields.moment2, values + 0.5)
    return fields


def act(fields, n, split=(), limit=CAPACITY, mass_min=0.0, ceiling=50.0, bounds=ANYWHERE, floor=-50.0):
    """Mark the Gaussians `split` to be split, and do it; the new number of slots."""
    score = np.zeros((1, n))
    score[0, list(split)] = 1
    load_scalars([fields.score], score)
    mark(fields, n, 0.5, mass_min, ceiling, *bounds)
    end = assign(fields, n, limit)
    empty_marked(fields, n)
    split_marked(fields, n, floor)
    return end


def raw(fields, n):
    return read_scalars(fields.raw, n).astype(np.float64)


def cloud_of(fields, n):
    return download(fields, n)


def moments(cloud):
    """Mass, centre and covariance of a cloud's whole density."""
    total = cloud.masses.sum()
    centre = (cloud.masses[:, None] * cloud.positions).sum(axis=0) / total
    outer = np.einsum("ni,nj->nij", cloud.positions - centre, cloud.positions - centre)
    return total, centre, (cloud.masses[:, None, None] * (cloud.covariances() + outer)).sum(axis=0) / total


# --- what splitting conserves -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 130, 256])  # one chunk, more, and no multiple
def test_splitting_conserves_mass_mean_and_covariance(cpu64, rng, n):
    cloud = random_cloud(rng, n, (40, 30, 20))
    fields = fields_of(cloud)
    end = act(fields, n, split=range(n))
    assert end == 2 * n
    for now, before in zip(moments(cloud_of(fields, end)), moments(cloud), strict=True):
        np.testing.assert_allclose(now, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("longest", [0, 1, 2])
@pytest.mark.parametrize("signed", [False, True])
def test_two_halves_lie_on_the_longest_axis_and_are_shorter_there_only(cpu64, rng, longest, signed):
    cloud = random_cloud(rng, 1, (10, 10, 10), signed=signed)
    log_sigmas = np.log([[1.0, 1.2, 1.1]])
    log_sigmas[0, longest] = np.log(3.0)
    cloud = replace(cloud, log_sigmas=log_sigmas)
    fields = fields_of(cloud)
    assert act(fields, 1, split=[0]) == 2
    halves = cloud_of(fields, 2)
    axes = np.linalg.eigh(cloud.covariances()[0])[1]
    step = halves.positions[1] - halves.positions[0]
    np.testing.assert_allclose([np.abs(step @ axes[:, 2]), np.linalg.norm(step)], 2 * OFFSET * 3.0, rtol=1e-12)
    np.testing.assert_allclose(halves.masses, cloud.masses.repeat(2) / 2, rtol=1e-10)
    expected = log_sigmas[0].copy()
    expected[longest] += np.log(0.8)
    np.testing.assert_allclose(halves.log_sigmas, [expected, expected], rtol=1e-12)
    np.testing.assert_allclose(halves.quaternions[0], halves.quaternions[1])


def test_splitting_keeps_the_image_to_a_few_percent_of_its_peak(cpu64, renderer, rng):
    """Equal second moments are not equal images: two halves at 0.6 sigma have a kurtosis of -0.26; at the centre of one
    Gaussian the image falls to exp(-(0.6 / 0.8)^2 / 2) / 0.8 = 0.944."""
    scene = random_scene(rng, 7, (48, 64), sigmas=(2.0, 5.0))
    r = renderer(cutoff=8.5)
    before = draw(r, scene)
    fields = fields_of(scene.cloud)
    split = cloud_of(fields, act(fields, 7, split=range(7)))
    after = draw(r, replace(scene, cloud=split))
    change = np.abs(after - before).max() / before.max()
    assert 1e-4 < change < 0.057


def test_splitting_keeps_the_second_moments_of_the_image(cpu64, renderer, rng):
    scene = random_scene(rng, 7, (48, 64), sigmas=(1.0, 2.0))
    whole = replace(scene.cloud, positions=0.1 * scene.cloud.positions)  # nothing leaves the image
    fields = fields_of(whole)
    split = cloud_of(fields, act(fields, 7, split=range(7)))
    before, after = (draw(renderer(cutoff=8.5), replace(scene, cloud=c)) for c in (whole, split))
    y, x = np.indices(scene.shape)
    for weight in (x**0, x, y, x * x, x * y, y * y):
        sums = [(weight * images).sum(axis=(1, 2)) for images in (before, after)]
        np.testing.assert_allclose(*sums, rtol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_a_narrow_gaussian_is_cloned_which_conserves_mass_and_mean(cpu64, rng, signed):
    cloud = random_cloud(rng, 5, (20, 20, 20), sigmas=(0.9, 1.0), signed=signed)
    fields = fields_of(cloud)
    end = act(fields, 5, split=range(5), floor=float(cloud.log_sigmas.max()))
    pairs = cloud_of(fields, end)
    np.testing.assert_allclose(pairs.masses[:5] + pairs.masses[5:], cloud.masses, rtol=1e-10)
    np.testing.assert_allclose((pairs.positions[:5] + pairs.positions[5:]) / 2, cloud.positions, atol=1e-10)
    np.testing.assert_allclose(pairs.log_sigmas, np.tile(cloud.log_sigmas, (2, 1)), rtol=1e-12)
    gaps = np.linalg.norm(pairs.positions[5:] - pairs.positions[:5], axis=1)
    assert (gaps > 0.1 * np.exp(cloud.log_sigmas.max(axis=1))).all(), "copies at one place never part"


def test_the_floor_decides_between_splitting_and_cloning(cpu64, rng):
    """A half of a split must not be narrower than the floor."""
    cloud = random_cloud(rng, 2, (20, 20, 20), sigmas=(0.3, 0.4))
    log_sigmas = cloud.log_sigmas.copy()
    log_sigmas[:, 1] = np.log(1 / 0.8) + np.array([1e-6, -1e-6])
    fields = fields_of(replace(cloud, log_sigmas=log_sigmas))
    act(fields, 2, split=[0, 1], floor=0.0)
    widest = raw(fields, 4)[3:6].max(axis=0)
    np.testing.assert_allclose(widest[[0, 2]], 0.0, atol=1e-5)
    np.testing.assert_allclose(widest[[1, 3]], np.log(1 / 0.8), atol=1e-5)


def test_signed_clouds_keep_the_sign_of_every_mass(cpu64, rng):
    cloud = random_cloud(rng, 65, (20, 20, 20), signed=True)
    fields = fields_of(cloud)
    end = act(fields, 65, split=range(65), mass_min=0.1)
    pairs = cloud_of(fields, end)
    assert (cloud.masses < 0).any() and (cloud.masses > 0).any()
    np.testing.assert_allclose(pairs.masses, np.tile(cloud.masses / 2, 2), rtol=1e-12)


def test_splitting_in_float32_conserves_the_mass(cpu32, rng):
    """The inverse of softplus in float32, from masses far below the mean to far above it."""
    cloud = random_cloud(rng, 200, (20, 20, 20))
    cloud = replace(cloud, masses=np.geomspace(1e-2, 20, 200))
    fields = fields_of(cloud)
    pairs = cloud_of(fields, act(fields, 200, split=range(200)))
    np.testing.assert_allclose(pairs.masses[:200] + pairs.masses[200:], cloud.masses, rtol=2e-4)
    np.testing.assert_allclose(pairs.masses.sum(), cloud.masses.sum(), rtol=1e-5)


# --- Adam's moments ---------------------------------------------------------------------------------------


def test_a_child_inherits_its_parents_moments(cpu64, rng):
    cloud = random_cloud(rng, 150, (20, 20, 20))
    fields = fields_of(cloud)
    parents = [3, 127, 128, 149]
    end = act(fields, 150, split=parents)
    assert end == 154
    for values in (fields.moment1, fields.moment2):
        after = read_scalars(values, end)
        assert (after[:, parents] != 0).any()
        np.testing.assert_array_equal(after[:, 150:], after[:, parents])
    np.testing.assert_array_equal(
        read_scalars(fields.moment1, 150), np.arange(11 * fields.capacity).reshape(11, -1)[:, :150]
    )


def test_an_emptied_slot_loses_its_moments_and_draws_nothing(cpu64, rng):
    cloud = random_cloud(rng, 9, (20, 20, 20))
    cloud.masses[4] = 1e-5
    fields = fields_of(cloud)
    act(fields, 9, mass_min=1e-3)
    assert not read_scalars(fields.moment1, 9)[:, 4].any() and not read_scalars(fields.moment2, 9)[:, 4].any()
    assert (raw(fields, 9)[:3, 4] == NOWHERE).all()
    covariance(fields, 4)
    assert read_scalars([fields.mass], 9)[0, 4] < 1e-15
    assert len(cloud_of(fields, 9)) == 8


# --- pruning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_gaussians_are_pruned_by_mass_whatever_its_sign(cpu64, rng, signed):
    cloud = random_cloud(rng, 200, (20, 20, 20), signed=signed)
    fields = fields_of(cloud)
    assert act(fields, 200, mass_min=1.0) == 200
    kept = np.abs(cloud.masses) >= 1.0
    assert 20 < kept.sum() < 180
    np.testing.assert_array_equal(read_scalars([fields.raw[0]], 200)[0] != NOWHERE, kept)
    np.testing.assert_allclose(cloud_of(fields, 200).positions, cloud.positions[kept])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gaussians_outside_the_bounds_are_pruned_on_both_sides(cpu64, rng, axis):
    cloud = random_cloud(rng, 200, (20, 20, 20))
    fields = fields_of(cloud)
    bounds = np.full(3, 1e6)
    bounds[axis] = 8.0
    act(fields, 200, bounds=bounds)
    outside = np.abs(cloud.positions[:, axis]) > 8.0
    assert (cloud.positions[outside, axis] < 0).any() and (cloud.positions[outside, axis] > 0).any()
    np.testing.assert_array_equal(raw(fields, 200)[0] == NOWHERE, outside)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gaussians_with_too_wide_an_axis_are_pruned(cpu64, rng, axis):
    cloud = random_cloud(rng, 10, (20, 20, 20), sigmas=(0.5, 1.0))
    cloud.log_sigmas[3, axis] = 2.0
    fields = fields_of(cloud)
    act(fields, 10, ceiling=1.9)
    np.testing.assert_array_equal(np.flatnonzero(raw(fields, 10)[0] == NOWHERE), [3])


def test_a_gaussian_that_is_pruned_is_not_split(cpu64, rng):
    cloud = random_cloud(rng, 3, (20, 20, 20))
    cloud.masses[1] = 1e-5
    fields = fields_of(cloud)
    assert act(fields, 3, split=[1], mass_min=1e-3) == 3
    np.testing.assert_array_equal(fields.action.to_numpy()[:3], [KEEP, EMPTY, KEEP])
    assert (fields.child.to_numpy()[:3] == -1).all()


def test_pruning_everything_leaves_an_empty_cloud_that_still_works(cpu64, renderer, rng):
    scene = random_scene(rng, 130, (48, 64))
    r = renderer()
    assert draw(r, scene).max() > 0
    assert act(r.cloud, 130, split=range(130), mass_min=1e9, limit=300) == 130
    assert len(r.get_cloud()) == 0
    r.forward()
    assert not r.get_images().any()
    r.load_images(r.images.residual, rng.normal(size=(3, 48, 64)))
    r.backward()
    assert not read_scalars(r.cloud.v_raw, 130).any()


# --- slots ------------------------------------------------------------------------------------------------


def test_children_take_the_slots_of_pruned_gaussians_before_new_ones(cpu64, rng):
    cloud = random_cloud(rng, 200, (20, 20, 20))
    cloud.masses[[5, 140]] = 1e-5
    fields = fields_of(cloud)
    end = act(fields, 200, split=[0, 130, 199], mass_min=1e-3)
    assert end == 201
    children = fields.child.to_numpy()
    np.testing.assert_array_equal(children[[0, 130, 199]], [5, 140, 200])
    after = raw(fields, end)
    for parent, child in ((0, 5), (130, 140), (199, 200)):
        np.testing.assert_allclose((after[:3, parent] + after[:3, child]) / 2, cloud.positions[parent], atol=1e-10)
    assert len(cloud_of(fields, end)) == 201, "no hole is left"


def test_the_limit_holds_and_the_first_in_line_are_split(cpu64, rng):
    cloud = random_cloud(rng, 130, (20, 20, 20))
    fields = fields_of(cloud)
    assert act(fields, 130, split=range(130), limit=140) == 140
    np.testing.assert_array_equal(fields.child.to_numpy()[:130], [*range(130, 140), *[-1] * 120])
    np.testing.assert_allclose(cloud_of(fields, 140).masses.sum(), cloud.masses.sum(), rtol=1e-10)
    before = raw(fields, 140)
    assert act(fields, 140, split=range(140), limit=140) == 140, "a full cloud stays as it is"
    np.testing.assert_array_equal(raw(fields, 140), before)


def test_a_limit_below_the_present_size_prunes_nobody(cpu64, rng):
    cloud = random_cloud(rng, 20, (20, 20, 20))
    fields = fields_of(cloud)
    assert act(fields, 20, split=[0], limit=10) == 20
    assert len(cloud_of(fields, 20)) == 20


@pytest.mark.parametrize("signed", [False, True])
def test_unmarked_gaussians_keep_every_bit(cpu32, rng, signed):
    cloud = random_cloud(rng, 300, (20, 20, 20), signed=signed)
    cloud.masses[7] = 1e-5
    fields = fields_of(cloud)
    arrays = (fields.raw, fields.moment1, fields.moment2)
    before = [read_scalars(a, CAPACITY) for a in arrays]
    split = [0, 1, 128, 299]
    end = act(fields, 300, split=split, mass_min=1e-3)
    others = np.setdiff1d(np.arange(CAPACITY), [*split, 7, *range(300, end)])
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(read_scalars(a, CAPACITY)[:, others], b[:, others])


# --- scores -----------------------------------------------------------------------------------------------


def test_the_score_adds_up_the_length_of_the_positions_gradient(cpu64, rng):
    fields = fields_of(random_cloud(rng, 200, (20, 20, 20)))
    v = rng.normal(size=(11, CAPACITY))
    load_scalars(fields.v_raw, v)
    clear_scores(fields, CAPACITY)
    add_score(fields, 2)
    add_score(fields, 2)
    score = fields.score.to_numpy()
    np.testing.assert_allclose(score[:256], 2 * np.linalg.norm(v[:3, :256], axis=0), rtol=1e-12)
    assert not score[256:].any(), "two chunks were asked for"
    clear_scores(fields, 200)
    assert not fields.score.to_numpy()[:200].any() and fields.score.to_numpy()[200:256].all()


def test_only_scores_above_the_threshold_are_marked(cpu64, rng):
    fields = fields_of(random_cloud(rng, 4, (20, 20, 20)))
    load_scalars([fields.score], [[0.0, 1.0, 1.5, 2.0]])
    mark(fields, 4, 1.0, 0.0, 50.0, *ANYWHERE)
    np.testing.assert_array_equal(fields.action.to_numpy()[:4], [KEEP, KEEP, SPLIT, SPLIT])


def test_densification_does_not_depend_on_the_number_of_threads(cpu32, rng, restart):
    cloud = random_cloud(rng, 900, (40, 40, 40))
    split = rng.random(900) < 0.6
    results = []
    for threads in (1, 2):
        restart(threads)
        fields = fields_of(cloud, 1200)
        end = act(fields, 900, split=np.flatnonzero(split), limit=1150, mass_min=0.7, bounds=(25, 25, 25))
        results.append([end, raw(fields, 1280), read_scalars(fields.moment1, 1280)])
    assert results[0][0] == results[1][0] and 900 < results[0][0] <= 1150
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_cloud_beyond_the_capacity_is_refused(cpu32, rng):
    with pytest.raises(InputError, match="200 Gaussians; expected at most the capacity of 128"):
        upload(random_cloud(rng, 200, (20, 20, 20)), CloudFields(128, False))
