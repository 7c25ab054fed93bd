"""The phantom is the truth of other tests: its sums, its geometry and its noise must be right."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from taigs.errors import InputError
from taigs.phantom import Scene, phantom_scene, phantom_tilt_series, phantom_volume
from taigs.views import Grid

PIXEL = 8.0


def project(scene, angle, shape):
    """The noise-free image in mass per pixel."""
    _, clean = phantom_tilt_series(scene, [angle], shape, PIXEL, 1.0, np.random.default_rng(0))
    _, untilted = phantom_tilt_series(scene, [0], shape, PIXEL, 1.0, np.random.default_rng(0))
    return clean[0] * (scene.masses.sum() / untilted.sum())


def small_scene(seed=0):
    return phantom_scene(np.random.default_rng(seed), (400, 400, 300))


def blob(position):
    return Scene(np.array([position], float), np.full((1, 3), 10.0), np.array([[1.0, 0, 0, 0]]), np.ones(1))


def centroid_x(image):
    return (image.sum(axis=0) @ np.arange(image.shape[1])) / image.sum() - (image.shape[1] - 1) / 2


def test_image_and_volume_sum_to_the_mass():
    scene = small_scene()
    volume = phantom_volume(scene, Grid((60, 65, 70), PIXEL))
    assert volume.sum() == pytest.approx(scene.masses.sum(), rel=1e-5)
    for angle in (-60, 0, 35):
        assert project(scene, angle, (64, 91)).sum() == pytest.approx(scene.masses.sum(), rel=1e-5)


def test_untilted_projection_is_the_sum_of_the_volume_along_z():
    scene = small_scene(1)
    volume = phantom_volume(scene, Grid((61, 64, 71), PIXEL))
    image = project(scene, 0, (64, 71))
    np.testing.assert_allclose(image, volume.sum(axis=0), atol=1e-5 * image.max())


def test_half_turn_mirrors_the_image_in_x():
    scene = small_scene(2)
    np.testing.assert_allclose(project(scene, 180, (64, 71)), project(scene, 0, (64, 71))[:, ::-1], atol=1e-5)


def test_a_gaussian_keeps_its_covariance_on_the_grid():
    scene = blob((0, 0, 0)).placed(Rotation.from_euler("zyz", [20, 50, 70], degrees=True), np.array([3.0, -5.0, 11.0]))
    scene = Scene(scene.positions, np.array([[10.0, 14.0, 24.0]]), scene.quaternions, scene.masses)
    volume = phantom_volume(scene, Grid((40, 40, 40), PIXEL))
    axis = (np.arange(40) - 19.5) * PIXEL
    z, y, x = (c.ravel() for c in np.meshgrid(axis, axis, axis, indexing="ij"))
    points = np.stack([x, y, z])
    mean = points @ volume.ravel()
    covariance = (points * volume.ravel()) @ points.T - np.outer(mean, mean)
    np.testing.assert_allclose(mean, scene.positions[0], atol=1e-3)
    np.testing.assert_allclose(covariance, scene.covariances[0], atol=0.02)


def test_high_blobs_move_to_larger_x_at_positive_tilt():
    scene = blob((80, 0, 80))
    angles = np.array([-30.0, 0.0, 30.0])
    found = [centroid_x(project(scene, a, (40, 64))) for a in angles]
    expected = (80 * np.cos(np.radians(angles)) + 80 * np.sin(np.radians(angles))) / PIXEL
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found[2] > found[1] > found[0]


def test_noise_has_unit_variance_and_the_signal_the_requested_one():
    scene = small_scene()
    stack, clean = phantom_tilt_series(scene, [0, 40], (64, 64), PIXEL, 0.2, np.random.default_rng(3))
    assert stack.dtype == clean.dtype == np.float32
    assert clean[0].var() == pytest.approx(0.2, rel=1e-5)
    assert (stack - clean).var() == pytest.approx(1, abs=0.05)


def test_every_gaussian_lies_inside_and_is_resolved():
    extent = np.array([1000, 800, 380])
    scene = phantom_scene(np.random.default_rng(4), extent)
    assert np.all(np.abs(scene.positions) < extent / 2)
    assert scene.sigmas.min() >= 0.8 * 10.0
    assert np.all(scene.masses > 0)
    np.testing.assert_allclose(np.linalg.norm(scene.quaternions, axis=1), 1)


def test_same_seed_same_scene():
    a, b = small_scene(5), small_scene(5)
    np.testing.assert_array_equal(a.positions, b.positions)
    assert not np.array_equal(a.positions[:10], small_scene(6).positions[:10])


def test_a_slab_without_room_is_refused():
    with pytest.raises(InputError, match="at least 200"):
        phantom_scene(np.random.default_rng(0), (1000, 1000, 100))
