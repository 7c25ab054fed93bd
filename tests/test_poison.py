"""Poison in every slot of every kernel: what is no Gaussian is left out and counted, and nothing else notices.

A slot with poison must leave the same bits everywhere as an empty slot, in float32 on the CPU; on a GPU the order of
sums is free, so there it is the same to rounding. What is extreme but a Gaussian must be drawn as it is.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import reference
import scenes
from scenes import PIXEL_SIZE, Scene, draw, gradient, load_scalars, random_cloud, random_scene
from test_gridding import random_views

from taigs import runtime
from taigs.accumulate import weigh
from taigs.baseline import TiltGeometry, align_images
from taigs.cloud import GaussianCloud
from taigs.demo import simulate_views
from taigs.device import NOWHERE, float_type, read_scalars, upload
from taigs.errors import InputError
from taigs.fourier_grid import FourierGrid
from taigs.kernels.adam import adam
from taigs.kernels.densify import add_score, assign, empty_marked, mark, split_marked
from taigs.kernels.layout import LAYOUT
from taigs.kernels.residual import collect, residual
from taigs.views import Grid

NAN, INF = float("nan"), float("inf")
POISON = (NAN, INF, -INF, 1e38, -1e38, 3.4e38)
HARMLESS = (0.0, -0.0, 1e-40, -1e-40, 1e-20)
SLOTS = range(11)  # position x y z, log sigma x y z, quaternion w x y z, raw mass
BAD = 3  # the Gaussian that gets what is extreme
SHAPE = (33, 57)
ON_BOTH = pytest.mark.parametrize("backend", ["cpu32", pytest.param("vulkan", marks=pytest.mark.vulkan)])


def same(actual, expected, what=""):
    """Bit-equal on the CPU; to rounding on a GPU."""
    if runtime.current().is_cpu:
        np.testing.assert_array_equal(actual, expected, err_msg=what)
    else:
        scale = np.abs(expected).max(initial=1e-30)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale, err_msg=what)


def count_culled(r):
    """Gaussians that could not be drawn in some view of a renderer's batch."""
    capacity = r.ellipses.capacity
    half_heights = read_scalars([r.ellipses.ry], r.n_views * capacity).reshape(-1, capacity)[:, : r.n]
    return np.count_nonzero((half_heights < 0).any(axis=0))


def change(fields, values):
    """Set raw parameters, {(slot, Gaussian): value}; returns the old ones of the first N Gaussians."""
    kept = read_scalars(fields.raw, N)
    changed = kept.copy()
    for where, value in values.items():
        changed[where] = value
    load_scalars(fields.raw, changed)
    return kept


@contextmanager
def poisoned(fields, values):
    """Poison in raw parameters: Gaussian 2 i + 1 gets the i-th of `values` in slot 0, and so on through the slots.

    Yields those Gaussians; they are put back afterwards.
    """
    places = [(slot, value, 2 * i + 1) for i, (slot, value) in enumerate((s, v) for s in SLOTS for v in values)]
    kept = change(fields, {(slot, g): value for slot, value, g in places})
    yield np.array([g for _, _, g in places])
    load_scalars(fields.raw, kept)


@contextmanager
def emptied(fields, bad):
    """The same Gaussians as empty slots."""
    kept = change(fields, {(0, g): NOWHERE for g in bad})
    yield
    load_scalars(fields.raw, kept)


N = 2 * 11 * len(POISON) + 5  # room for all poison, two chunks of the CPU


def step(renderer, v_images):
    """Images and all gradients of the cloud and the views that a renderer holds."""
    renderer.forward()
    images = renderer.get_images().astype(np.float64)
    renderer.load_images(renderer.images.residual, v_images)
    renderer.backward()
    return images, gradient(renderer)


def loaded(renderer, scene):
    renderer.set_cloud(scene.cloud)
    renderer.set_views(scene.matrices, scene.offsets, scene.shape)
    return renderer


PER_GAUSSIAN = ("positions", "log_sigmas", "quaternions", "masses", "raw_masses")


def assert_unnoticed(found, expected, bad):
    """Gradients of all other Gaussians are the same, those of the bad ones 0; what sums over Gaussians is the same."""
    for name in found:
        if len(found[name]) == N:
            assert not found[name][bad].any(), f"{name} of bad ones"
            same(np.delete(found[name], bad, axis=0), np.delete(expected[name], bad, axis=0), name)
        else:
            same(found[name], expected[name], name)


@ON_BOTH
@pytest.mark.parametrize("signed", [False, True])
def test_poison_in_a_parameter_leaves_the_image_and_all_other_gradients_as_without_the_gaussian(
    started, renderer, rng, signed
):
    scene = random_scene(rng, N, SHAPE, signed=signed)
    r = loaded(renderer(signed=signed), scene)
    v_images = rng.normal(size=(3, *SHAPE))
    with poisoned(r.cloud, POISON) as bad:
        images, v = step(r, v_images)
        assert count_culled(r) == len(bad) == 66
    with emptied(r.cloud, bad):
        expected, pulls = step(r, v_images)
        assert count_culled(r) == 0, "an empty slot is no bad Gaussian"
    assert expected.any() and np.isfinite(images).all()
    same(images, expected)
    assert_unnoticed(v, pulls, bad)


def as_cloud(fields, n, signed):
    """The cloud that raw parameters stand for, by NumPy."""
    raw = read_scalars(fields.raw, n).astype(np.float64)
    masses = fields.unit[None] * (raw[10] if signed else reference.softplus(raw[10]))
    return GaussianCloud(raw[:3].T, raw[3:6].T, raw[6:10].T, masses, signed)


@ON_BOTH
def test_numbers_that_only_look_like_poison_are_drawn(started, renderer, rng):
    """Zeros of either sign, denormals and tiny numbers are values like any other."""
    scene = random_scene(rng, N, SHAPE, signed=True)
    r = loaded(renderer(signed=True), scene)
    with poisoned(r.cloud, HARMLESS):
        images, v = step(r, np.ones((3, *SHAPE)))
        expected = replace(scene, cloud=as_cloud(r.cloud, N, True)).reference_images(cutoff=4.0)
        assert count_culled(r) == 0
    assert np.abs(images - expected).max() < 1e-5 * np.abs(expected).max()
    assert all(np.isfinite(v[name]).all() for name in v)


@ON_BOTH
def test_a_quaternion_without_direction_is_left_out(started, renderer, rng):
    scene = random_scene(rng, 7, SHAPE, signed=True)
    r = loaded(renderer(signed=True), scene)
    with emptied(r.cloud, [BAD]):
        expected, _ = step(r, np.ones((3, *SHAPE)))
    for value in (0.0, -0.0, 1e-40, 1e-16, NAN):
        change(r.cloud, {(slot, BAD): value for slot in range(6, 10)})
        images, v = step(r, np.ones((3, *SHAPE)))
        same(images, expected)
        assert count_culled(r) == 1
        assert all(np.isfinite(v[name]).all() and not v[name][BAD].any() for name in PER_GAUSSIAN)
    assert len(r.get_cloud()) == 6, "a cloud that is read back has none"


EXTREME = {  # raw parameters of the bad Gaussian, by slot; sizes in A
    "as wide as a thousand images": {3: 11.0, 4: 11.0, 5: 11.0},
    "as wide as a hand": {3: 20.0, 4: 20.0, 5: 20.0},
    "a needle of 1000 : 1": {3: 6.3, 4: -0.6, 5: -0.6},
    "flat along the beam": {3: 1.0, 4: 1.0, 5: -20.0},
    "long along the beam": {3: 1.0, 4: 1.0, 5: 20.0},
    "far outside": {0: 1e12},
    "a quaternion of length 1e-10": {6: 1e-10, 7: 1e-10, 8: 0.0, 9: 0.0},
    "a quaternion of length 1e7": {6: 1e7, 7: -1e7, 8: 1e6, 9: 0.0},
    "a mass of 1e10": {10: 1e10},
    "next to no mass": {10: 1e-20},
}


@ON_BOTH
@pytest.mark.parametrize("case", EXTREME)
def test_what_is_extreme_but_a_gaussian_is_drawn(started, renderer, rng, case):
    """Alone in the image, seen along z: no sum of others hides it."""
    cloud = random_cloud(rng, 4, (1, 1, 1), signed=True)
    cloud = replace(cloud, quaternions=np.tile([1.0, 0, 0, 0], (4, 1)))
    scene = Scene(cloud, np.eye(3)[None, :2] / PIXEL_SIZE, np.array([[20.3, 16.4]]), SHAPE)
    r = loaded(renderer(signed=True), scene)
    change(r.cloud, {(0, i): NOWHERE for i in range(BAD)} | {(slot, BAD): v for slot, v in EXTREME[case].items()})
    images, v = step(r, np.ones((1, *SHAPE)))
    alone = replace(scene, cloud=as_cloud(r.cloud, 4, True).subset([BAD]))
    expected = alone.reference_images(cutoff=4.0)
    assert count_culled(r) == 0
    assert expected.any() or case == "far outside"
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=2e-5 * np.abs(expected).max())
    assert all(np.isfinite(v[name]).all() for name in PER_GAUSSIAN)


@ON_BOTH
@pytest.mark.parametrize("log_sigma", [80.0, 35.0, 33.0, -33.0, -35.0, -80.0])
def test_widths_beyond_any_image_end_in_finite_images_at_once(started, renderer, rng, log_sigma):
    """A Gaussian that covers all of space has no density anywhere, one without width none at the pixels."""
    scene = random_scene(rng, 7, SHAPE, signed=True)
    r = loaded(renderer(signed=True), scene)
    with emptied(r.cloud, [BAD]):
        expected, _ = step(r, np.ones((3, *SHAPE)))
    change(r.cloud, {(slot, BAD): log_sigma for slot in (3, 4, 5)})
    images, v = step(r, np.ones((3, *SHAPE)))
    same(images, expected)
    assert all(np.isfinite(v[name]).all() for name in PER_GAUSSIAN)
    assert count_culled(r) == 1


@ON_BOTH
def test_poison_in_a_view_empties_that_view_alone(started, renderer, rng):
    scene = random_scene(rng, 7, SHAPE, signed=True)
    r = loaded(renderer(signed=True), scene)
    v_images = rng.normal(size=(3, *SHAPE))
    good = [0, 2]
    others = Scene(scene.cloud, scene.matrices[good], scene.offsets[good], SHAPE)
    expected, pulls = step(loaded(r, others), v_images[good])
    for entry in (0, 4, 6):
        for value in (NAN, -INF, 1e38):
            table = np.concatenate([scene.matrices.reshape(3, 6), scene.offsets], axis=1)
            table[1, entry] = value
            r.set_views(table[:, :6].reshape(3, 2, 3), table[:, 6:], SHAPE)
            images, v = step(r, v_images)
            what = f"{value} in entry {entry}"
            same(images[good], expected, what)
            assert not images[1].any(), what
            same(v["matrices"][good], pulls["matrices"], what)
            for name in PER_GAUSSIAN:
                same(v[name], pulls[name], f"{what}: {name}")


@ON_BOTH
def test_poison_in_an_image_stays_with_its_view(started, renderer, rng):
    """It must reach the loss, where it is noticed, but not the other views' sums."""
    scene = random_scene(rng, 7, SHAPE, signed=True)
    r = renderer(signed=True)
    draw(r, scene)
    targets = rng.normal(size=(3, *SHAPE))
    scale = np.tile([1.0, 0.1, 0.5], (3, 1))

    def sums(targets, scale):
        r.load_images(r.images.target, targets)
        table = r.images.scale.to_numpy()
        table[:3] = scale
        r.images.scale.from_numpy(table)
        r.forward()
        collect(r.images, 3, r.n_parts, r.height, r.width, r.blocks)
        residual(r.images, 3, r.height, r.width, r.blocks)
        return r.images.statistics.to_numpy().reshape(-1, LAYOUT.strips, 6)[:3]

    expected = sums(targets, scale)
    assert np.isfinite(expected).all()
    for value in (NAN, INF, -INF, 3e38):
        bad = targets.copy()
        bad[1, 20, 30] = value
        found = sums(bad, scale)
        same(found[[0, 2]], expected[[0, 2]])
        assert not np.isfinite(found[1, :, 5].sum()), f"{value} is not in the loss"
    for column in range(3):
        bad = scale.copy()
        bad[1, column] = NAN
        same(sums(targets, bad)[[0, 2]], expected[[0, 2]])


# --- volumes ----------------------------------------------------------------------------------------------


@ON_BOTH
def test_poison_in_a_parameter_leaves_the_volume_and_all_other_gradients_as_without_it(started, volumes, rng):
    grid = Grid((9, 17, 21), PIXEL_SIZE)
    cloud = random_cloud(rng, N, (21, 17, 9), sigmas=(0.6, 2.0))
    v_volume = rng.normal(size=grid.shape).astype(float_type())
    voxelizer = volumes().held(cloud, grid)
    fields = voxelizer.fields

    def both():
        volume = voxelizer.add(N, np.zeros(grid.shape))
        voxelizer.vjp(v_volume)
        return volume, {**scenes.cloud_gradient(fields, N), "raw": read_scalars(fields.v_raw, N).T}

    with poisoned(fields, POISON) as bad:
        volume, v = both()
    with emptied(fields, bad):
        expected, pulls = both()
    assert expected.any() and np.isfinite(volume).all()
    same(volume, expected)
    assert_unnoticed(v, pulls, bad)
    with poisoned(fields, HARMLESS):
        volume, v = both()
        drawn = reference.voxelize(as_cloud(fields, N, False), grid, cutoff=4.0) * grid.voxel_size**3
    np.testing.assert_allclose(volume, drawn, atol=1e-5 * drawn.max())
    assert all(np.isfinite(v[name]).all() for name in v)


@ON_BOTH
@pytest.mark.parametrize("case", EXTREME)
def test_what_is_extreme_but_a_gaussian_is_voxelised(started, volumes, rng, case):
    grid = Grid((9, 17, 21), PIXEL_SIZE)
    cloud = random_cloud(rng, 4, (1, 1, 1))
    cloud = replace(cloud, quaternions=np.tile([1.0, 0, 0, 0], (4, 1)))
    voxelizer = volumes().held(cloud, grid)
    fields = voxelizer.fields
    change(fields, {(0, i): NOWHERE for i in range(BAD)} | {(slot, BAD): v for slot, v in EXTREME[case].items()})
    volume = voxelizer.add(4, np.zeros(grid.shape))
    expected = reference.voxelize(as_cloud(fields, 4, False).subset([BAD]), grid, cutoff=4.0) * grid.voxel_size**3
    np.testing.assert_allclose(volume, expected, rtol=1e-5, atol=max(2e-5 * np.abs(expected).max(), 1e-18))
    voxelizer.vjp(np.ones(grid.shape, float_type()))
    assert np.isfinite(read_scalars(fields.v_raw, 4)).all()


# --- what acts on the cloud -------------------------------------------------------------------------------


def held_cloud(renderer):
    """Device memory of up to 300 Gaussians, of a renderer that other tests have compiled."""
    return renderer().cloud


@ON_BOTH
def test_adam_leaves_alone_what_is_no_number_or_would_become_none(started, renderer, rng):
    """Also the first of a chunk, whose parameters the kernel reads for another purpose."""
    n = 200
    fields, slots = held_cloud(renderer), [(0, 0), (5, 2), (9, 128), (10, 199)]
    arrays = {name: rng.normal(size=(11, n)) for name in ("raw", "v_raw", "moment1")}
    arrays["moment2"] = rng.uniform(0.1, 1, (11, n))

    def after(given):
        for name, values in given.items():
            load_scalars(getattr(fields, name), values)
        adam(fields, -(-n // LAYOUT.chunk), 0.9, 0.99, 10.0, 100.0, 0.1, 0.1, 0.1, 0.1, -3.0, 3.0)
        return {name: read_scalars(getattr(fields, name), n) for name in ("raw", "moment1", "moment2")}

    expected = after(arrays)
    assert (expected["raw"] != arrays["raw"].astype(float_type())).any(axis=1).all()
    for poisoned_array in ("raw", "v_raw"):
        for value in (NAN, -INF, 1e30):
            given = {name: values.copy() for name, values in arrays.items()}
            for slot, g in slots:
                given[poisoned_array][slot, g] = value
            found = after(given)
            for name, values in found.items():
                for slot, g in slots:
                    np.testing.assert_array_equal(values[slot, g], np.float32(given[name][slot, g]))
                    values[slot, g] = expected[name][slot, g]
                same(values, expected[name], f"{name} with {value} in {poisoned_array}")


@ON_BOTH
def test_densifying_empties_what_is_no_gaussian_and_scores_nothing_that_is_no_number(started, renderer, rng):
    fields = held_cloud(renderer)
    cloud = random_cloud(rng, 150, (20, 20, 20))
    bad = [(slot, 10 * slot + 3) for slot in SLOTS]

    def densified(poison):
        upload(cloud, fields)
        fields.mass.fill(1)
        pulls = np.arange(450).reshape(3, 150) / 450
        for slot, g in bad:
            pulls[slot % 3, g] = poison
        load_scalars(fields.v_raw[:3], pulls)
        change(fields, {(slot, g): poison for slot, g in bad})
        if np.isfinite(poison) and abs(poison) < 1:
            change(fields, {(0, g): NOWHERE for _, g in bad})
        add_score(fields, -(-150 // LAYOUT.chunk))
        scores = read_scalars([fields.score], 150)[0]
        mark(fields, 150, 0.9, 0.5, 9.0, 99.0, 99.0, 99.0)
        count = assign(fields, 150, 300)
        empty_marked(fields, 150)
        split_marked(fields, 150, -9.0)
        return scores, count, read_scalars(fields.raw, count), read_scalars([fields.action], 150)[0]

    _, count, raw, actions = densified(0.5)
    assert (actions[[g for _, g in bad]] == 0).all() and (actions == 2).sum() > len(bad)
    for poison in POISON:
        found_scores, found_count, found_raw, found_actions = densified(poison)
        assert np.isfinite(found_scores).all() and np.isfinite(found_raw).all()
        assert found_count == count
        np.testing.assert_array_equal(found_actions, actions)
        same(found_raw, raw)


# --- images into Fourier space, and into volumes -----------------------------------------------------------


def gridded(slices, matrices, n):
    """(n + 1, 2 n, 2 n, 3) sums of slices."""
    grid = FourierGrid(n, len(slices))
    grid.add(slices, matrices)
    return grid.to_numpy()


@ON_BOTH
def test_poison_in_a_particle_or_its_pose_leaves_the_fourier_sums_as_without_it(started, rng):
    n, bad = 12, 2
    views = random_views(rng, n, 6)
    transforms = np.fft.rfft2(views.images)
    good = np.delete(np.arange(6), bad)
    expected = gridded(weigh(views.subset(good), transforms[good]), views.projections[good], n)
    slices = weigh(views, transforms)
    assert np.isfinite(expected).all() and expected.any()
    for value in (NAN, INF, -INF, 1e38, -1e38):
        for name in ("transforms", "shifts", "weights", "ctf", "projections"):
            if name == "projections":
                matrices = views.projections.copy()
                matrices[bad, 0, 1] = value
                found = gridded(slices, matrices, n)
            else:
                found = gridded(weigh_poisoned(views, transforms, name, bad, value), views.projections, n)
            assert np.isfinite(found).all(), f"{value} in {name}"
            if name in ("projections", "weights") and value not in (-1e38, -INF):
                same(found, expected, f"{value} in {name}")


def weigh_poisoned(views, transforms, name, bad, value):
    """`weigh` with poison that Views and Ctf themselves would refuse."""
    views, transforms = replace(views), transforms.astype(np.complex128).copy()
    if name == "transforms":
        transforms[bad] = value
    elif name == "ctf":
        ctf = replace(views.ctf)
        object.__setattr__(ctf, "defocus_u", np.where(np.arange(6) == bad, value, ctf.defocus_u))
        object.__setattr__(views, "ctf", ctf)
    else:
        array = np.array(getattr(views, name))
        array[bad] = value
        object.__setattr__(views, name, array)
    with np.errstate(all="ignore"):
        return weigh(views, transforms)


@ON_BOTH
def test_poison_in_the_angle_of_a_tilt_image_leaves_its_voxels_and_pixels_empty(started, rng):
    shape, angles = (5, 13, 22), np.array([-40.0, 0.0, 33.0])
    tilts = TiltGeometry(angles, (13, 19), shape)
    volume, images = rng.normal(size=shape), rng.normal(size=(3, 13, 19))
    drawn = tilts.project(volume)
    images[1] = 0
    back = tilts.back_project(images)
    images[1] = 1
    for entry in range(3):
        for value in POISON:
            poisoned_tilts = TiltGeometry(angles, (13, 19), shape)
            rays = poisoned_tilts.fields.rays.to_numpy()
            rays[1, entry] = value
            poisoned_tilts.fields.rays.from_numpy(rays)
            found = poisoned_tilts.project(volume)
            same(found[[0, 2]], drawn[[0, 2]])
            assert not found[1].any()
            same(poisoned_tilts.back_project(images), back)


# --- the doors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["projections", "shifts", "weights", "centre"])
def test_views_with_poison_are_refused_and_the_view_is_named(rng, name):
    views = random_views(rng, 12, 4)
    array = np.array(getattr(views, name), float)
    array[1, ...] = NAN
    with pytest.raises(InputError, match=f"views.{name}{'' if name == 'centre' else ' of view 2'} is not finite"):
        replace(views, **{name: array})


def test_tilt_images_with_poison_are_refused_and_the_view_is_named(rng):
    views, _ = simulate_views(Grid((28, 28, 28), 8.0), 5, rng)
    views.images[3, 7, 9] = NAN
    with pytest.raises(InputError, match="view 4 has pixels that are not finite"):
        align_images(views)


def test_masses_beyond_float32_are_refused(cpu32, renderer, rng):
    cloud = random_cloud(rng, 4, (1, 1, 1))
    with pytest.raises(InputError, match=r"masses of 1e\+30 on average; expected 1e-20 to 1e\+20"):
        renderer().set_cloud(replace(cloud, masses=np.full(4, 1e30)))


def test_gaussians_that_are_no_more_are_left_out_of_the_cloud_and_counted_in_the_log(cpu32, renderer, rng, caplog):
    r = renderer(signed=True)
    scene = random_scene(rng, 7, SHAPE, signed=True)
    r.set_cloud(scene.cloud)
    change(r.cloud, {(0, 1): NAN, (4, 2): NAN, (10, 5): NAN})
    cloud = r.get_cloud()
    np.testing.assert_allclose(cloud.positions, np.delete(scene.cloud.positions, [1, 2, 5], axis=0), rtol=1e-6)
    assert "3 of 7 Gaussians are no numbers any more and were left out" in caplog.text
