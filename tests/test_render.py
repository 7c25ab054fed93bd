"""Images of clouds, their gradients, and what must hold whatever the numbers.

In float64 the kernels must equal the reference to rounding, with the same support; gradients must equal
central differences of the reference (all Gaussians) and of the kernels themselves (small clouds).
"""

from dataclasses import replace

import numpy as np
import pytest
import reference
import scenes
from gradients import assert_grad_close, central_difference
from scenes import CLOUD_ARRAYS, PIXEL_SIZE, Scene, draw, load_scalars, pull_back, random_cloud, random_scene
from scipy.spatial.transform import Rotation

from taigs import project
from taigs.cloud import GaussianCloud
from taigs.device import NOWHERE, raw_parameters
from taigs.errors import InputError
from taigs.geometry import matrix_to_quaternion, quaternion_to_matrix
from taigs.kernels.residual import collect, residual
from taigs.render import project_vjp

SIZES = [1, 7, 65, 300]  # 300: three chunks on the CPU
SHAPES = [(40, 40), (33, 57), (45, 53)]


def assert_images_close(actual, expected, tolerance):
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{error:.2e} of the largest pixel"


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", SIZES)
def test_images_equal_the_reference(cpu64, renderer, rng, n, shape):
    scene = random_scene(rng, n, shape)
    assert_images_close(draw(renderer(), scene), scene.reference_images(cutoff=4.0), 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", SIZES)
def test_images_in_float32_equal_the_reference(cpu32, renderer, rng, n, shape):
    scene = random_scene(rng, n, shape)
    assert_images_close(draw(renderer(), scene), scene.reference_images(cutoff=4.0), 1e-5)


def test_a_wide_cutoff_gives_the_whole_gaussian(cpu64, renderer, rng):
    scene = random_scene(rng, 65, (33, 57))
    assert_images_close(draw(renderer(cutoff=8.5), scene), scene.reference_images(), 1e-12)


def test_signed_clouds_draw_negative_masses(cpu64, renderer, rng):
    scene = random_scene(rng, 65, (33, 57), signed=True)
    drawn = draw(renderer(signed=True), scene)
    assert drawn.min() < 0 < drawn.max()
    assert_images_close(drawn, scene.reference_images(cutoff=4.0), 1e-12)


def elongated_scene(rng, aspect, width=0.7, n=65, shape=(48, 64)):
    """Needles of any direction; seen along z, so that the 2D aspect is the 3D one."""
    cloud = random_cloud(rng, n, (shape[1], shape[0], 10))
    angle = rng.uniform(0, np.pi, n)
    angle[::4] = rng.choice([1, 3], len(angle[::4])) * np.pi / 4  # diagonals: the highest correlation
    zero = np.zeros(n)
    sigmas = np.stack([np.full(n, width * aspect), np.full(n, width), np.full(n, 1.0)], axis=1)
    cloud = replace(
        cloud,
        log_sigmas=np.log(PIXEL_SIZE * sigmas),
        quaternions=np.stack([np.cos(angle / 2), zero, zero, np.sin(angle / 2)], axis=1),
    )
    view = np.eye(3)[None, :2] / PIXEL_SIZE
    scene = Scene(cloud, view, np.array([[shape[1] / 2, shape[0] / 2]]), shape)
    c = scene.extents()[0][1]
    correlation = np.abs(c[:, 0, 1]) / np.sqrt(c[:, 0, 0] * c[:, 1, 1])
    assert correlation.max() > 0.98 or aspect < 10
    return scene


@pytest.mark.parametrize("aspect", [2, 3, 5, 20])
def test_elongated_gaussians_equal_the_reference(cpu64, renderer, rng, aspect):
    scene = elongated_scene(rng, aspect)
    assert_images_close(draw(renderer(), scene), scene.reference_images(cutoff=4.0), 1e-12)


@pytest.mark.parametrize("width", [0.4, 0.7, 1.5])
@pytest.mark.parametrize("aspect", [2, 3, 5, 20])
def test_elongated_gaussians_in_float32_equal_the_reference(cpu32, renderer, rng, aspect, width):
    """One by one: in a sum, an error of one hides behind the maximum of all."""
    scene = elongated_scene(rng, aspect, width, n=24)
    for i in range(24):
        one = replace(scene, cloud=scene.cloud.subset([i]))
        expected = one.reference_images(cutoff=4.0)
        if expected.max() > 0:
            assert_images_close(draw(renderer(), one), expected, 2e-5)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0, 6.0, 12.0])
def test_single_gaussians_of_any_width_in_float32_equal_the_reference(cpu32, renderer, rng, sigma):
    scene = random_scene(rng, 12, (48, 64), sigmas=(0.9 * sigma, 1.1 * sigma))
    for i in range(12):
        one = replace(scene, cloud=replace(scene.cloud.subset([i]), positions=np.zeros((1, 3))))
        assert_images_close(draw(renderer(), one), one.reference_images(cutoff=4.0), 2e-5)


def test_many_gaussians_in_one_tile(cpu64, renderer, rng):
    cloud = random_cloud(rng, 300, (4, 4, 4), sigmas=(0.4, 1.2))
    scene = Scene(cloud, np.eye(3)[None, :2] / PIXEL_SIZE, np.array([[20.0, 12.0]]), (40, 40))
    assert_images_close(draw(renderer(), scene), scene.reference_images(cutoff=4.0), 1e-12)


# --- gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, shape", [(1, (40, 40)), (7, (33, 57)), (65, (45, 53)), (300, (33, 57)), (300, (40, 40))])
def test_gradients_equal_central_differences_of_the_reference(cpu64, renderer, rng, n, shape):
    scene = random_scene(rng, n, shape)
    v_images = rng.normal(size=(3, *shape))
    actual = pull_back(renderer(), scene, v_images)
    for name, expected in scenes.reference_gradient(scene, v_images, 4.0).items():
        assert_grad_close(actual[name], expected, 1e-6, 1e-5, name)


def test_gradients_of_elongated_gaussians_equal_central_differences(cpu64, renderer, rng):
    scene = elongated_scene(rng, 20)
    v_images = rng.normal(size=(1, *scene.shape))
    actual = pull_back(renderer(), scene, v_images)
    for name, expected in scenes.reference_gradient(scene, v_images, 4.0).items():
        assert_grad_close(actual[name], expected, 1e-6, 1e-5, name)


@pytest.mark.parametrize("n, aspect", [(65, 3), (300, 3), (65, 10)])
def test_gradients_in_float32_equal_those_in_float64(cpu32, renderer, rng, n, aspect):
    scene = elongated_scene(rng, aspect, n=n) if aspect > 3 else random_scene(rng, n, (45, 53))
    v_images = rng.normal(size=(len(scene.matrices), *scene.shape))
    actual = pull_back(renderer(), scene, v_images)
    for name, expected in scenes.reference_gradient(scene, v_images, 4.0).items():
        assert_grad_close(actual[name], expected, 1e-4, 1e-2, name)


@pytest.mark.parametrize("signed", [False, True])
def test_gradients_equal_central_differences_of_the_kernel(cpu64, renderer, rng, signed):
    scene = random_scene(rng, 7, (33, 57), signed=signed)
    v_images = rng.normal(size=(3, 33, 57))
    r = renderer(signed=signed)
    actual = pull_back(r, scene, v_images)

    def value(name):
        if name in CLOUD_ARRAYS:
            return lambda a: np.vdot(v_images, draw(r, scene.with_cloud(**{name: a})))
        return lambda a: np.vdot(v_images, draw(r, replace(scene, **{name: a})))

    for name in (*CLOUD_ARRAYS, "matrices", "offsets"):
        x = getattr(scene.cloud, name) if name in CLOUD_ARRAYS else getattr(scene, name)
        assert_grad_close(actual[name], central_difference(value(name), x), 1e-6, 1e-5, name)


def test_rendering_is_linear_in_the_mass_and_its_gradient_is_the_adjoint(cpu64, renderer, rng):
    scene = random_scene(rng, 300, (45, 53))
    v_images = rng.normal(size=(3, 45, 53))
    forward = np.vdot(draw(renderer(), scene), v_images)
    backward = np.vdot(scene.cloud.masses, pull_back(renderer(), scene, v_images)["masses"])
    # ratio and not difference: it would show a forgotten factor
    assert abs(backward / forward - 1) < 1e-12


def load_targets(r, targets, scale):
    r.load_images(r.images.target, targets)
    table = np.zeros(r.images.scale.shape)
    table[: len(scale)] = scale
    r.images.scale.from_numpy(table)


def loss_and_residual(r):
    """Draw, compare with the targets; the loss of each view."""
    r.forward()
    collect(r.images, r.n_views, r.n_parts, r.height, r.width, r.blocks)
    residual(r.images, r.n_views, r.height, r.width, r.blocks)
    return r.images.statistics.to_numpy()[:, 5].reshape(-1, 8).sum(axis=1)[: r.n_views]


@pytest.mark.parametrize("signed", [False, True])
def test_the_whole_chain_from_raw_parameters_to_the_loss(cpu64, renderer, rng, signed):
    """softplus, covariance, projection, raster, gain, offset and weight: one gradient."""
    scene = random_scene(rng, 7, (33, 57), signed=signed)
    r = renderer(signed=signed)
    # A small residual: differences of a large loss would drown in its rounding.
    targets = draw(r, scene) + rng.normal(0, 0.05, (3, 33, 57))
    load_targets(r, targets, rng.uniform((0.8, -0.05, 0.3), (1.2, 0.05, 2), (3, 3)))
    raw = raw_parameters(scene.cloud, r.cloud.unit[None])
    raw[10] -= 1.5  # where softplus bends
    load_scalars(r.cloud.raw, raw)
    loss_and_residual(r)
    r.backward()
    actual = scenes.gradient(r)
    groups = {
        "positions": slice(0, 3),
        "log_sigmas": slice(3, 6),
        "quaternions": slice(6, 10),
        "raw_masses": 10,
    }

    def loss(values):
        load_scalars(r.cloud.raw, values)
        return loss_and_residual(r).sum()

    expected = central_difference(loss, raw)
    for name, rows in groups.items():
        assert_grad_close(actual[name], expected[rows].T, 1e-6, 1e-5, name)


def test_the_gradient_of_a_quaternion_has_no_radial_part(cpu64, renderer, rng):
    scene = random_scene(rng, 65, (40, 40))
    v = pull_back(renderer(), scene, rng.normal(size=(3, 40, 40)))["quaternions"]
    radial = (v * scene.cloud.quaternions).sum(axis=1)
    assert np.abs(v).max() > 0.01
    np.testing.assert_allclose(radial, 0, atol=1e-12 * np.abs(v).max())


# --- what must hold whatever the numbers ------------------------------------------------------------------


def test_the_sum_of_an_image_is_the_sum_of_the_masses(cpu64, renderer, rng):
    cloud = random_cloud(rng, 65, (10, 10, 10), sigmas=(1.0, 2.0))
    scene = Scene(cloud, *scenes.random_views(rng, (48, 64)), (48, 64))
    sums = draw(renderer(cutoff=8.5), scene).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, cloud.masses.sum(), rtol=1e-7)


def test_rotating_cloud_and_views_together_changes_nothing(cpu64, renderer, rng):
    scene = random_scene(rng, 65, (33, 57))
    R = Rotation.random(random_state=3).as_matrix()
    turned = scene.with_cloud(
        positions=scene.cloud.positions @ R.T,
        quaternions=matrix_to_quaternion(R @ quaternion_to_matrix(scene.cloud.quaternions)),
    )
    turned = replace(turned, matrices=scene.matrices @ R.T)
    assert_images_close(draw(renderer(), turned), draw(renderer(), scene), 1e-12)


def test_splitting_into_two_halves_keeps_the_image(cpu64, renderer, rng):
    scene = random_scene(rng, 65, (33, 57))
    half = replace(scene.cloud, masses=scene.cloud.masses / 2)
    halves = GaussianCloud.merge([half, half])
    assert_images_close(draw(renderer(), replace(scene, cloud=halves)), draw(renderer(), scene), 1e-12)


def test_the_order_of_the_gaussians_does_not_matter(cpu64, renderer, rng):
    scene = random_scene(rng, 300, (33, 57))
    order = rng.permutation(300)
    v_images = rng.normal(size=(3, 33, 57))
    shuffled = replace(scene, cloud=scene.cloud.subset(order))
    assert_images_close(draw(renderer(), shuffled), draw(renderer(), scene), 1e-12)
    straight = pull_back(renderer(), scene, v_images)
    for name, v in pull_back(renderer(), shuffled, v_images).items():
        expected = straight[name] if name in ("matrices", "offsets") else straight[name][order]
        assert_grad_close(v, expected, 1e-11, name=name)


def test_shifting_the_images_is_shifting_the_cloud(cpu64, renderer, rng):
    """By whole blocks of 8 pixels, so that the supports move along."""
    scene = random_scene(rng, 65, (40, 56))
    scene = replace(scene, matrices=np.repeat(np.eye(3)[None, :2] / PIXEL_SIZE, 3, axis=0))
    moved = scene.with_cloud(positions=scene.cloud.positions + PIXEL_SIZE * np.array([8, 3, 0]))
    by_offset = replace(scene, offsets=scene.offsets + np.array([8, 3]))
    drawn = draw(renderer(), moved)
    assert_images_close(draw(renderer(), by_offset), drawn, 1e-12)
    assert_images_close(drawn[:, 3:, 8:], draw(renderer(), scene)[:, :-3, :-8], 1e-12)


def test_a_view_from_behind_is_the_mirror_image(cpu64, renderer, rng):
    scene = random_scene(rng, 65, (40, 40), n_views=1)
    scene = replace(scene, offsets=np.array([[19.5, 19.5]]))
    behind = replace(scene, matrices=scene.matrices * np.array([[[-1.0], [1.0]]]))
    wide = renderer(cutoff=8.5)
    assert_images_close(draw(wide, behind), draw(wide, scene)[:, :, ::-1], 1e-12)


def test_empty_slots_draw_nothing_even_along_the_diagonal_on_which_they_lie(cpu64, renderer, rng):
    axis = np.full(3, 3**-0.5)
    across = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    assert np.abs(across @ (axis * NOWHERE)).max() < 1
    scene = random_scene(rng, 7, (40, 40), n_views=1)
    scene = replace(scene, matrices=across[None] / PIXEL_SIZE)
    for signed in (False, True):
        one = scene.with_cloud(signed=signed)
        assert_images_close(draw(renderer(signed=signed), one), one.reference_images(cutoff=4.0), 1e-12)
        v = pull_back(renderer(signed=signed), one, np.ones((1, 40, 40)))
        expected = scenes.reference_gradient(one, np.ones((1, 40, 40)), 4.0)
        assert_grad_close(v["matrices"], expected["matrices"], 1e-6)


def test_a_smaller_cloud_leaves_nothing_of_a_larger_one(cpu64, renderer, rng):
    small, large = random_scene(rng, 7, (33, 57)), random_scene(rng, 300, (45, 53))
    v_images = rng.normal(size=(3, 33, 57))
    fresh = pull_back(renderer(), small, v_images)
    pull_back(renderer(), large, rng.normal(size=(3, 45, 53)))
    again = pull_back(renderer(), small, v_images)
    for name, v in again.items():
        np.testing.assert_array_equal(v, fresh[name])


def test_fewer_views_than_there_is_room_for(cpu64, renderer, rng):
    scene = random_scene(rng, 65, (33, 57))
    two = replace(scene, matrices=scene.matrices[:2], offsets=scene.offsets[:2])
    np.testing.assert_array_equal(draw(renderer(), two), draw(renderer(), scene)[:2])


def test_an_empty_cloud_draws_zeros(cpu64, renderer, rng):
    scene = random_scene(rng, 7, (40, 40))
    empty = replace(scene, cloud=scene.cloud.subset([]))
    draw(renderer(), scene)
    v = pull_back(renderer(), empty, np.ones((3, 40, 40)))
    assert not renderer().get_images().any()
    assert v["positions"].shape == (0, 3)
    assert not v["matrices"].any() and not v["offsets"].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 61), (45, 1), (2, 9), (8, 8)])
def test_images_of_any_shape(cpu64, renderer, rng, shape):
    scene = random_scene(rng, 65, shape)
    assert_images_close(draw(renderer(), scene), scene.reference_images(cutoff=4.0), 1e-12)
    v_images = rng.normal(size=(3, *shape))
    backward = np.vdot(scene.cloud.masses, pull_back(renderer(), scene, v_images)["masses"])
    assert abs(backward - np.vdot(draw(renderer(), scene), v_images)) < 1e-12 * np.abs(v_images).sum()


@pytest.mark.parametrize("backend", ["cpu64", "gpu64"])
def test_gaussians_that_just_miss_the_image_have_no_gradient(started, renderer, rng):
    """Of a cut-off of 4 pixels: above and below, where neighbours in memory are rows of other views."""
    beyond = [(20, -4.2), (20, 43.2), (20, -6), (20, 60)]
    n = len(beyond)
    positions = np.column_stack([np.array(beyond) - 20, np.zeros(n)])
    cloud = GaussianCloud(positions, np.zeros((n, 3)), np.tile([1.0, 0, 0, 0], (n, 1)), np.ones(n))
    scene = Scene(cloud, np.tile(np.eye(3)[None, :2], (3, 1, 1)), np.full((3, 2), 20.0), (40, 40))
    v_images = rng.normal(size=(3, 40, 40))
    v = pull_back(renderer(), scene, v_images)
    assert not draw(renderer(), scene).any()
    assert not any(v[name].any() for name in CLOUD_ARRAYS)


@pytest.mark.parametrize("far", [1e3, 1e6, 1e9, 1e30])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_gaussian_far_outside_neither_shows_nor_harms(cpu32, renderer, rng, axis, far):
    scene = random_scene(rng, 7, (40, 40), n_views=2)
    positions = np.vstack([scene.cloud.positions, far * np.eye(3)[axis]])
    stray = GaussianCloud.merge([scene.cloud, scene.cloud.subset([0])])
    stray = replace(scene, cloud=replace(stray, positions=positions))
    v_images = rng.normal(size=(2, 40, 40))
    alone, together = pull_back(renderer(), scene, v_images), pull_back(renderer(), stray, v_images)
    assert_images_close(draw(renderer(), stray), draw(renderer(), scene), 1e-6)
    for name in CLOUD_ARRAYS:
        assert_grad_close(together[name][:7], alone[name], 1e-5, name=name)
        assert not together[name][7].any()


# --- the public functions ---------------------------------------------------------------------------------


def test_project_draws_one_view_in_pixels_and_angstrom(cpu64, rng):
    cloud = random_cloud(rng, 7, (20, 20, 20))
    R = Rotation.random(random_state=5).as_matrix()
    options = {"pixel_size": PIXEL_SIZE, "shift": (1.5, -2.0), "centre": (15.0, 18.0)}
    drawn = project(cloud, R, (33, 29), **options)
    expected = reference.image(cloud, R[:2] / PIXEL_SIZE, np.array([16.5, 16.0]), (33, 29), cutoff=4.0)
    assert_images_close(drawn, expected, 1e-12)
    # Without a centre the volume centre is at (n - 1) / 2.
    middle = project(cloud, R[:2], (33, 29), PIXEL_SIZE)
    expected = reference.image(cloud, R[:2] / PIXEL_SIZE, np.array([14.0, 16.0]), (33, 29), cutoff=4.0)
    assert_images_close(middle, expected, 1e-12)


def test_project_vjp_is_the_gradient_of_project(cpu64, renderer, rng):
    cloud = random_cloud(rng, 7, (20, 20, 20))
    R, shift = Rotation.random(random_state=5).as_matrix()[:2], np.array([0.3, -0.7])
    v_image = rng.normal(size=(33, 29))
    actual = project_vjp(cloud, R, v_image, PIXEL_SIZE, shift)
    view = {"offsets": shift[None] + (14.0, 16.0), "shape": (33, 29)}

    def value(rotation):
        scene = Scene(cloud, rotation[None] / PIXEL_SIZE, **view)
        return np.vdot(v_image, draw(renderer(), scene)[0])

    assert_grad_close(actual["rotation"], central_difference(value, R), 1e-6, name="rotation")
    expected = scenes.reference_gradient(Scene(cloud, R[None] / PIXEL_SIZE, **view), v_image[None], 4.0)
    assert_grad_close(actual["shift"], expected["offsets"][0], 1e-6, name="shift")
    for name in CLOUD_ARRAYS:
        assert_grad_close(actual[name], expected[name], 1e-6, name=name)


def test_a_rotation_of_the_wrong_shape_is_refused(cpu64, rng):
    with pytest.raises(InputError, match=r"rotation has shape \(3,\)"):
        project(random_cloud(rng, 1, (9, 9, 9)), np.ones(3), (9, 9), 1.0)


# --- determinism; last, since each number of threads starts Taichi again ----------------------------------


def test_results_do_not_depend_on_the_number_of_threads(cpu32, renderer, rng, restart):
    scene = random_scene(rng, 300, (45, 53))
    v_images = rng.normal(size=(3, 45, 53))
    results = []
    for threads in (1, 2, 1):
        restart(threads)
        r = renderer()
        results.append({"images": draw(r, scene), **pull_back(r, scene, v_images)})
    for name, first in results[0].items():
        np.testing.assert_array_equal(results[1][name], first, err_msg=name)
        np.testing.assert_array_equal(results[2][name], first, err_msg=name)
