"""taigs.pose_control: right poses are told from wrong ones, without a fit."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import fft
from scipy.spatial.transform import Rotation

from taigs.imaging.ctf import Ctf
from taigs.phantom import phantom_particles, phantom_scene, phantom_volume
from taigs.pose_control import SMALLEST_T, central_slices, control_poses, padded_transform
from taigs.views import Grid, Views

N, PIXEL_SIZE = 32, 8.0
GRID = Grid((N,) * 3, PIXEL_SIZE, (N // 2,) * 3)
KNOWN = {}


def phantom(n_views=120):
    """(views of a scene, truth)."""
    if not KNOWN:
        rng = np.random.default_rng(1)
        scene = phantom_scene(rng, (210.0,) * 3)
        rotations = Rotation.random(n_views, random_state=1).as_matrix()
        shifts = rng.normal(0, 2, (n_views, 2))
        ctf = Ctf(300.0, 2.7, 0.1, *rng.uniform(15000, 30000, (2, n_views)), rng.uniform(0, 180, n_views))
        images = phantom_particles(scene, rotations, shifts, N, PIXEL_SIZE, ctf, 0.1, rng)
        views = Views(
            images, rotations[:, :2], shifts, PIXEL_SIZE, np.array([N // 2] * 2), np.ones(n_views), ctf=ctf,
            half_sets=1 + np.arange(n_views) % 2,
        )  # fmt: skip
        KNOWN["phantom"] = views, phantom_volume(scene, GRID)
    return KNOWN["phantom"]


def control(views, truth, seed=0):
    return control_poses(views, views.half_sets, (truth, truth), seed)


def shuffled(views, seed=0):
    order = np.random.default_rng(seed).permutation(len(views))
    return replace(views, projections=views.projections[order], shifts=views.shifts[order])


def test_a_slice_of_the_transform_is_the_transform_of_the_projection():
    _, truth = phantom()
    transform = padded_transform(truth)
    along_z = fft.rfft2(fft.ifftshift(truth.sum(axis=0)))
    sliced = central_slices(transform, np.eye(3)[None, :2])[0]
    inside = sliced != 0
    assert inside.sum() > 0.7 * N * N / 2
    np.testing.assert_allclose(sliced[inside], along_z[inside], atol=1e-5 * np.abs(along_z).max())


def test_a_slice_in_any_direction_is_that_of_a_gaussian():
    z, y, x = np.indices(GRID.shape) - N // 2
    centre, sigma = np.array([2.0, -3.0, 1.0]), 2.5
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * sigma**2))
    projections = Rotation.random(5, random_state=2).as_matrix()[:, :2]
    slices = central_slices(padded_transform(blob), projections)
    kx, ky = np.meshgrid(fft.rfftfreq(N), fft.fftfreq(N))
    moved = projections @ centre
    phase = np.exp(-2j * np.pi * (kx * moved[:, 0, None, None] + ky * moved[:, 1, None, None]))
    expected = blob.sum() * np.exp(-2 * (np.pi * sigma) ** 2 * (kx**2 + ky**2)) * phase
    assert np.abs(slices - np.where(np.hypot(kx, ky) < 0.5, expected, 0)).max() < 0.04 * blob.sum()


def test_right_poses_are_recognised_and_explain_much_of_the_correlation(cpu32):
    found = control(*phantom())
    assert not found.failed
    assert found.t > 5 * SMALLEST_T and found.share > 0.3
    assert (found.n_particles, found.n_views, found.sign) == (120, 120, 1)
    assert found.interchanged.shape == (N // 2 + 1,)
    assert found.interchanged[1] > 0.3 and abs(found.interchanged[6:-2]).max() < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_poses_are_not(seed, cpu32):
    views, truth = phantom()
    found = control(shuffled(views, seed), truth, seed)
    assert found.failed and abs(found.t) < SMALLEST_T and found.share < 0.1


def test_nor_are_inverted_rotations(cpu32):
    views, truth = phantom()
    x, y = np.moveaxis(views.projections, 1, 0)
    inverted = np.stack([x, y, np.cross(x, y)], axis=2)[:, :2]
    assert control(replace(views, projections=inverted), truth).failed


def test_the_share_is_asked_for_beside_t(cpu32):
    """With enough images the few right poses among many wrong ones are beyond doubt, and the map is no better."""
    found = control(*phantom())
    assert replace(found, share=0.03).failed and replace(found, t=1.0).failed
    assert not replace(found, t=None, share=0.0).failed


def test_dark_images_and_premultiplied_ones_are_recognised_as_well(cpu32):
    views, truth = phantom()
    dark = control(replace(views, images=-views.images), truth)
    bright = control(views, truth)
    assert dark.sign == -1 and dark.t == pytest.approx(bright.t, rel=1e-5)
    np.testing.assert_allclose(dark.interchanged, bright.interchanged, atol=1e-6)
    kx, ky = np.meshgrid(fft.rfftfreq(N, PIXEL_SIZE), fft.fftfreq(N, PIXEL_SIZE))
    images = fft.irfft2(fft.rfft2(views.images) * views.ctf(kx, ky), s=(N, N)).astype(np.float32)
    premultiplied = replace(views, images=images, premultiplied=True)
    assert not control(premultiplied, truth).failed
    assert control(shuffled(premultiplied), truth).failed


def test_views_of_one_particle_count_once_and_change_their_pose_together(cpu32):
    views, truth = phantom()
    grouped = replace(views, particles=np.arange(120) // 6, half_sets=1 + np.arange(120) // 6 % 2)
    found = control(grouped, truth)
    assert (found.n_particles, found.n_views) == (20, 120)
    assert not found.failed
    turns = Rotation.random(20, random_state=3).as_matrix()[grouped.particles]
    assert control(replace(grouped, projections=grouped.projections @ turns), truth).failed


def test_too_few_particles_tell_nothing(cpu32):
    views, truth = phantom()
    few = views.subset([0, 1, 2])
    found = control_poses(few, np.array([1, 2, 1]), (truth, truth))
    assert found.t is None and not found.failed


def test_of_many_images_some_are_looked_at_evenly(monkeypatch, cpu32):
    monkeypatch.setattr("taigs.pose_control.PIXELS", 20 * N * N)
    found = control(*phantom())
    assert found.n_views == 40 and not found.failed
