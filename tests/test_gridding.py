"""Images -> Fourier sums: weights and samples against NumPy, gridding against a plain one of whole transforms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import reference
from scipy import fft
from scipy.spatial.transform import Rotation

from taigs import accumulate as module
from taigs.accumulate import accumulate, weigh
from taigs.imaging.ctf import Ctf
from taigs.journal import Journal
from taigs.progress import NoProgress, Progress
from taigs.symmetry import symmetry_matrices
from taigs.views import Views

PIXEL_SIZE = 2.3  # A; not 1, so that a forgotten factor shows
SIZES = [12, 15]
ONE = np.eye(3)[None]


def random_ctf(rng, n_views, **given):
    """Every term takes part, and voltages on both sides of what the dose's dependence on them covers."""
    defocus = rng.uniform(3000, 12000, n_views)
    parameters = {
        "voltage_kv": rng.choice([120, 200, 250, 300, 400], n_views),
        "cs_mm": rng.uniform(0.01, 2.7, n_views),
        "amplitude_contrast": rng.uniform(0.05, 0.2, n_views),
        "defocus_u": defocus,
        "defocus_v": defocus + rng.uniform(-3000, 3000, n_views),
        "defocus_angle": rng.uniform(-180, 180, n_views),
        "phase_shift": rng.uniform(0, 90, n_views),
        "bfactor": rng.uniform(0, 80, n_views),
        "scale": rng.uniform(0.5, 1.5, n_views),
        "dose": rng.uniform(0, 40, n_views),
    }
    return Ctf(**parameters | given)


def special_rotations():
    """Slices in the planes of the axes, where samples fall on cells and on z = 0, and some that hardly leave z = 0."""
    small = [("y", 1e-7), ("y", -3e-6), ("y", 1e-3), ("x", 1e-7), ("x", 2e-6), ("x", -1e-3)]
    return np.array([*symmetry_matrices("O"), *(Rotation.from_euler(*one).as_matrix() for one in small)])


def random_views(rng, n, n_views, **given):
    """Views of noise from any direction, with shifts, weights and a CTF."""
    rotations = Rotation.random(n_views, random_state=int(rng.integers(2**31))).as_matrix()
    return Views(
        **{
            "images": rng.normal(size=(n_views, n, n)),
            "projections": rotations[:, :2],
            "shifts": rng.uniform(-3, 3, (n_views, 2)),
            "pixel_size": PIXEL_SIZE,
            "centre": np.full(2, n // 2),
            "weights": rng.uniform(0.5, 2, n_views),
            "ctf": random_ctf(rng, n_views),
        }
        | given
    )


def sums_of(views, picked=None, operators=ONE):
    return accumulate(
        views, np.arange(len(views)) if picked is None else picked, operators, NoProgress(), Journal(), "sums"
    )


def reference_slices(views):
    return reference.slices(
        np.asarray(views.images), views.shifts, views.ctf, views.weights, views.pixel_size, views.premultiplied
    )


def reference_grid(views, operators=ONE):
    """B and W on the whole of the padded grid, (2 n, 2 n, 2 n)."""
    n = views.image_shape[0]
    data, weight = reference_slices(views)
    b, w = np.zeros((2 * n,) * 3, complex), np.zeros((2 * n,) * 3)
    for operator in operators:
        points = reference.slice_points(views.projections @ operator, n, 2)
        b += reference.insert(points, data, 2 * n)
        w += reference.insert(points, weight, 2 * n)
    return b, w


def reference_power(views):
    """(n // 2 + 1,) sum w |F|^2 in each ring; F divided by the CTF that multiplied it, down to a tenth of CTF^2."""
    n = views.image_shape[0]
    ky, kx = reference.frequencies(n)
    inside = (np.hypot(kx, ky) <= n / 2) & (kx > -n / 2) & (ky > -n / 2)
    ring = np.where(inside, np.rint(np.hypot(kx, ky)), -1)
    total = np.zeros(n // 2 + 1)
    for v, image in enumerate(np.asarray(views.images)):
        square = np.abs(np.fft.fft2(image)) ** 2
        ctf2 = np.ones((n, n))
        if views.premultiplied:
            ctf2 = views.ctf[[v]](kx / (n * PIXEL_SIZE), ky / (n * PIXEL_SIZE))[0] ** 2
        for r in range(n // 2 + 1):
            here = ring == r
            total[r] += views.weights[v] * (square[here] / np.maximum(ctf2[here], 0.1 * ctf2[here].mean())).sum()
    return total


def assert_grid_is(grid, views, tolerance, operators=ONE):
    """The half z >= 0 holds what the whole does; in the last plane, z = n = -n, a sample without its mate."""
    n = views.image_shape[0]
    for actual, expected in zip(
        (grid[..., 0] + 1j * grid[..., 1], grid[..., 2]), reference_grid(views, operators), strict=True
    ):
        last = actual[n] + reference.mirrored(actual[n])
        for a, e in ((actual[:n], expected[:n]), (last, expected[n])):
            assert np.abs(a - e).max() < tolerance * np.abs(expected).max()


# --- samples and weights ----------------------------------------------------------------------------------


KINDS = {
    "everything": {},
    "no CTF": {"ctf": None},
    "premultiplied": {"premultiplied": True},
    "one weight, no shift": {"weights": np.ones(9), "shifts": np.zeros((9, 2))},
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_slices_are_those_of_numpy_with_half_of_the_column_that_holds_both_mates(cpu64, rng, n, kind):
    views = random_views(rng, n, 9, **KINDS[kind])
    data, weight = (s[:, :, : n // 2 + 1] for s in reference_slices(views))
    half = np.where(np.arange(n // 2 + 1) == 0, 0.5, 1.0)
    slices = weigh(views, fft.rfft2(fft.ifftshift(views.images, axes=(1, 2))))
    assert slices.shape == (9, n, n // 2 + 1, 3) and slices.dtype == np.float64
    np.testing.assert_allclose(slices[..., 0] + 1j * slices[..., 1], half * data, atol=1e-11 * np.abs(data).max())
    np.testing.assert_allclose(slices[..., 2], half * weight, atol=1e-12)


def test_slices_in_float32_are_those_of_numpy(cpu32, rng):
    views = random_views(rng, 15, 9)
    data, weight = (s[:, :, :8] for s in reference_slices(views))
    slices = weigh(views, fft.rfft2(fft.ifftshift(views.images.astype(np.float32), axes=(1, 2))))
    assert slices.dtype == np.float32
    slices[:, :, 0] *= 2
    np.testing.assert_allclose(slices[..., 0] + 1j * slices[..., 1], data, atol=2e-5 * np.abs(data).max())
    np.testing.assert_allclose(slices[..., 2], weight, atol=2e-5 * weight.max())


@pytest.mark.parametrize("n", SIZES)
def test_a_shift_in_the_views_undoes_one_of_the_image(cpu64, rng, n):
    """By whole pixels: content moved by (x, y) = (2, -3)."""
    views = random_views(rng, n, 3)
    moved = replace(views, images=np.roll(views.images, (-3, 2), (1, 2)), shifts=views.shifts + np.array([2, -3]))
    a, b = (weigh(v, fft.rfft2(fft.ifftshift(v.images, axes=(1, 2)))) for v in (views, moved))
    np.testing.assert_allclose(a, b, atol=1e-11 * np.abs(a).max())


# --- gridding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_a_plain_gridding_of_whole_transforms(cpu64, rng, monkeypatch, n, kind):
    """Of more views than a chunk holds, read in an order of their own."""
    monkeypatch.setattr(module, "views_at_a_time", lambda n: 7)
    views = random_views(rng, n, 9, **KINDS[kind]).subset(np.arange(40) % 9)
    rotations = Rotation.random(40, random_state=1).as_matrix()
    views = replace(views, projections=rotations[:, :2])
    picked = rng.permutation(40)[:38]
    sums, part = sums_of(views, picked), views.subset(picked)
    assert sums.n == n and sums.grid.shape == (n + 1, 2 * n, 2 * n, 3)
    assert_grid_is(sums.grid, part, 1e-12)
    assert sums.power.shape == (n // 2 + 1,)
    np.testing.assert_allclose(sums.power, reference_power(part), rtol=1e-12)
    assert sums.view_weight == pytest.approx(part.weights.sum())


@pytest.mark.parametrize("n", SIZES)
def test_slices_along_the_axes_are_gridded_like_any_other(cpu64, rng, n):
    rotations = special_rotations()
    views = random_views(rng, n, len(rotations), projections=rotations[:, :2])
    assert_grid_is(sums_of(views).grid, views, 1e-12)
    for i in range(0, len(rotations), 3):
        assert_grid_is(sums_of(views, [i]).grid, views.subset([i]), 1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_a_view_along_z_lands_on_every_second_cell_of_the_plane_z_0(cpu64, rng, n):
    views = random_views(rng, n, 1, projections=np.eye(3)[None, :2])
    grid = sums_of(views).grid
    data, weight = (s[0] for s in reference_slices(views))
    np.testing.assert_allclose(grid[0, ::2, ::2, 0] + 1j * grid[0, ::2, ::2, 1], data, atol=1e-12)
    np.testing.assert_allclose(grid[0, ::2, ::2, 2], weight, atol=1e-12)
    assert not grid[1:].any() and not grid[0, 1::2].any() and not grid[0, :, 1::2].any()


@pytest.mark.parametrize("n", SIZES)
def test_gridding_and_interpolation_are_adjoint(cpu64, rng, n):
    """<B, G> over the whole grid is the sum over the samples of all images of what G holds where they lie."""
    views = random_views(rng, n, 20)
    grid = sums_of(views).grid
    G = np.fft.fftn(rng.normal(size=(2 * n,) * 3))
    g = rng.normal(size=(2 * n,) * 3)
    g += reference.mirrored(g)
    mates = np.where(np.arange(n + 1) == 0, 1, 2)[:, None, None]
    points = reference.slice_points(views.projections, n, 2)
    data, weight = reference_slices(views)
    forward = (mates * ((grid[..., 0] - 1j * grid[..., 1]) * G[: n + 1]).real).sum()
    assert forward == pytest.approx(np.vdot(data, reference.sample(G, points)).real, rel=1e-11)
    forward = (mates * grid[..., 2] * g[: n + 1]).sum()
    assert forward == pytest.approx(np.vdot(weight, reference.sample(g, points)), rel=1e-11)


def test_sums_of_two_sets_add(cpu64, rng):
    views = random_views(rng, 12, 20)
    first, second, both = (sums_of(views, p) for p in (np.arange(7), np.arange(7, 20), np.arange(20)))
    first.add(second)
    for name in ("grid", "power", "view_weight"):
        np.testing.assert_allclose(getattr(first, name), getattr(both, name), rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("group", ["C3", "D2"])
def test_a_point_group_counts_as_the_views_repeated_in_all_orientations(cpu64, rng, group):
    operators = symmetry_matrices(group)
    views = random_views(rng, 12, 6)
    many = views.subset(np.tile(np.arange(6), len(operators)))
    many = replace(many, projections=np.concatenate([views.projections @ S for S in operators]))
    sums, expected = sums_of(views, operators=operators), sums_of(many)
    for name in ("grid", "power", "view_weight"):
        np.testing.assert_allclose(getattr(sums, name), getattr(expected, name), rtol=1e-12, atol=1e-11, err_msg=name)


def test_the_sums_are_the_same_bits_for_any_number_of_threads(cpu32, rng, restart):
    views = random_views(rng, 33, 40, images=rng.normal(size=(40, 33, 33)).astype(np.float32))
    results = []
    for threads in (1, 2, 3):
        restart(threads)
        results.append(sums_of(views))
    assert_grid_is(results[0].grid, views, 1e-5)
    for other in results[1:]:
        for name in ("grid", "power"):
            np.testing.assert_array_equal(getattr(other, name), getattr(results[0], name), err_msg=name)


def test_samples_that_a_magnified_view_has_beyond_the_grid_are_left_out(cpu64, rng):
    assert_outside_is_left_out(rng, 1e-12)


@pytest.mark.vulkan
def test_vulkan_leaves_out_samples_beyond_the_grid(vulkan, rng):
    assert_outside_is_left_out(rng, 2e-5)


def assert_outside_is_left_out(rng, tolerance):
    """Three times magnified: the frequency k of the view is 3 k of the volume."""
    n = 15
    views = random_views(rng, n, 7)
    views = replace(views, projections=np.where(np.arange(7)[:, None, None] % 2, 3.0, 1.0) * views.projections)
    data, weight = reference_slices(views)
    points = reference.slice_points(views.projections, n, 2)
    inside = (np.abs(points) <= n).all(axis=-1)
    grid = sums_of(views).grid[:n]  # the last plane ends elsewhere
    for actual, values in ((grid[..., 0] + 1j * grid[..., 1], data), (grid[..., 2], weight)):
        expected = reference.insert(points, np.where(inside, values, 0), 2 * n)[:n]
        assert np.abs(actual - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.vulkan
@pytest.mark.parametrize("n", [12, 33])
def test_vulkan_grids_like_numpy(vulkan, rng, monkeypatch, n):
    monkeypatch.setattr(module, "views_at_a_time", lambda n: 17)
    views = random_views(rng, n, 40)
    rotations = special_rotations()
    projections = np.concatenate([rotations[:20], Rotation.random(20, random_state=1).as_matrix()])[:, :2]
    views = replace(views, projections=projections)
    assert_grid_is(sums_of(views).grid, views, 2e-5)


class Counted(Progress):
    def __init__(self):
        self.seen = []

    def update(self, step, total, *_):
        self.seen.append((step, total))


def test_images_are_read_a_chunk_at_a_time(cpu64, rng, monkeypatch):
    monkeypatch.setattr(module, "views_at_a_time", lambda n: 3)
    views, progress = random_views(rng, 12, 8), Counted()
    accumulate(views, np.arange(8), ONE, progress, Journal(), "sums")
    assert progress.seen == [(3, 8), (6, 8), (8, 8)]
    monkeypatch.setattr(module, "views_at_a_time", lambda n: 1)
    np.testing.assert_allclose(sums_of(views).grid, sums_of(views.subset([*range(8)])).grid, atol=1e-12)
    assert math.isfinite(sums_of(views).view_weight)
