"""Scores against a definition written as a loop over Fourier coefficients, and against the peers' own."""

import importlib.util
import itertools
import math

import numpy as np
import pytest

from taigs import metrics
from taigs.errors import InputError

SHAPES = [(9, 10, 12), (10, 9, 11), (8, 13, 6)]


def loop_fsc(a, b, keep):
    """FSC as its definition reads: every coefficient of the full transform, one at a time.

    `keep(kz, ky, kx)` says which coefficients count; k in cycles per voxel.
    """
    n = max(a.shape)
    cross, power_a, power_b, counts = (np.zeros(n // 2 + 1) for _ in range(4))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    for index in itertools.product(*map(range, a.shape)):
        k = [(i if 2 * i < m else i - m) / m for i, m in zip(index, a.shape, strict=True)]
        shell = round(math.sqrt(sum(c * c for c in k)) * n)
        if shell > n // 2 or not keep(*k):
            continue
        cross[shell] += (fa[index] * np.conj(fb[index])).real
        power_a[shell] += abs(fa[index]) ** 2
        power_b[shell] += abs(fb[index]) ** 2
        counts[shell] += 1
    norm = np.sqrt(power_a * power_b)
    return np.where(norm > 0, cross / np.where(norm > 0, norm, 1), 0), counts


def random_pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    return common + rng.normal(size=shape), common + rng.normal(size=shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_fsc_equals_the_loop_over_coefficients(shape):
    a, b = random_pair(shape)
    curve, counts = metrics.fsc(a, b)
    expected, expected_counts = loop_fsc(a, b, lambda kz, ky, kx: True)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(curve, expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_fsc_in_and_outside_the_wedge_equals_the_loop(shape):
    a, b = random_pair(shape)
    measured = metrics.wedge_region(shape, 50)
    slope = math.tan(math.radians(50))
    for region, inside in ((measured, True), (~measured, False)):
        curve, counts = metrics.fsc(a, b, region=region)
        expected, expected_counts = loop_fsc(
            a, b, lambda kz, ky, kx, inside=inside: (abs(kz) <= slope * abs(kx) + 1e-12) == inside
        )
        np.testing.assert_array_equal(counts, expected_counts)
        np.testing.assert_allclose(curve, expected, atol=1e-12)


def test_the_mask_multiplies_both_volumes():
    a, b = random_pair((9, 10, 12))
    mask = np.random.default_rng(1).random(a.shape)
    np.testing.assert_allclose(metrics.fsc(a, b, mask)[0], metrics.fsc(a * mask, b * mask)[0])


def test_identical_maps_correlate_perfectly_whatever_their_scale():
    a, _ = random_pair((9, 10, 12))
    np.testing.assert_allclose(metrics.fsc(a, 3 * a)[0], 1, atol=1e-12)
    np.testing.assert_allclose(metrics.fsc(a, -a)[0], -1, atol=1e-12)
    assert metrics.ncc(a, 3 * a + 7) == pytest.approx(1)
    assert metrics.wedge_scores(a, 2 * a, 60) == pytest.approx(
        dict.fromkeys(("ncc", "fsc", "fsc_measured", "fsc_wedge"), 1)
    )


def test_independent_noise_correlates_as_its_counts_say():
    rng = np.random.default_rng(2)
    curve, counts = metrics.fsc(rng.normal(size=(32, 32, 32)), rng.normal(size=(32, 32, 32)))
    assert np.all(np.abs(curve[1:]) < 5 / np.sqrt(counts[1:] / 2))
    assert abs(metrics.mean_fsc(curve)) < 0.05


def test_a_shift_costs_phase_towards_high_frequency():
    a, _ = random_pair((16, 16, 16))
    curve, _ = metrics.fsc(a, np.roll(a, 1, axis=2))
    assert curve[0] == pytest.approx(1)
    assert curve[1] > 0.9 > 0.7 > curve[8]
    # One voxel along x: the FSC of white noise is the mean of cos(2 pi kx) over the shell.
    kz, ky, kx = np.meshgrid(*[np.fft.fftfreq(16)] * 3, indexing="ij")
    shell = np.rint(16 * np.sqrt(kz**2 + ky**2 + kx**2)) == 5
    assert curve[5] == pytest.approx(np.cos(2 * np.pi * kx[shell]).mean(), abs=0.1)


def test_the_first_crossing_counts_and_lies_between_shells():
    curve = [1, 1, 1, 0.9, 0.3, 0.8, 0.2, 0.1, 0]
    assert metrics.first_crossing(curve, 0.5, n=16, voxel_size=2.0) == pytest.approx(32 / (3 + 0.4 / 0.6))
    assert metrics.first_crossing([1, 0.1, 0.1, 0.1, 0], 0.5, 8, 1.0) == pytest.approx(8 / 2)


def test_a_curve_that_never_crosses_has_no_resolution():
    assert metrics.first_crossing(np.ones(9), 0.143, 16, 2.0) is None
    assert metrics.describe_crossing(None) == "not crossed: at or beyond Nyquist"
    assert metrics.describe_crossing(7.94) == "7.9 Å"


def test_mean_fsc_leaves_out_shell_zero():
    assert metrics.mean_fsc([9, 1, 0.5, 0]) == pytest.approx(0.5)


def test_psnr_fits_scale_and_offset_first():
    truth, noisy = random_pair((9, 10, 12))
    slope, offset = np.polyfit(noisy.ravel(), truth.ravel(), 1)
    error = np.mean((slope * noisy + offset - truth) ** 2)
    assert metrics.psnr(-5 * noisy + 3, truth) == pytest.approx(10 * np.log10(np.ptp(truth) ** 2 / error))


def test_constant_volumes_have_no_correlation():
    a, _ = random_pair((9, 10, 12))
    assert metrics.ncc(np.ones_like(a), a) == 0
    assert not metrics.fsc(np.zeros_like(a), a)[0].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: metrics.fsc(a, a[1:]), "second volume has shape"),
        (lambda a: metrics.fsc(a[0], a[0]), "three axes"),
        (lambda a: metrics.fsc(a, np.full(a.shape, np.nan)), "NaN or infinite"),
        (lambda a: metrics.fsc(a, a, mask=a[1:]), "mask has shape"),
        (lambda a: metrics.fsc(a, a, region=np.ones(a.shape)), "region has shape"),
        (lambda a: metrics.wedge_region(a.shape, 90), "between 0 and 90"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(np.ones((9, 10, 12)))


@pytest.mark.shared
def test_scores_equal_the_definition_the_peers_are_scored_by(shared):
    spec = importlib.util.spec_from_file_location("peer_metrics", shared / "peers" / "metrics.py")
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    a, b = random_pair((24, 33, 40))
    mask = np.random.default_rng(3).random(a.shape)
    for region, peer_region in ((None, None), (metrics.wedge_region(a.shape, 60), peer.region(a.shape, 60))):
        curve, counts = metrics.fsc(a, b, mask, region)
        peer_curve, peer_counts = peer.fsc(a, b, peer_region, mask)
        np.testing.assert_allclose(curve, peer_curve, atol=1e-12)
        np.testing.assert_array_equal(counts, peer_counts)
    assert metrics.mean_fsc(curve) == pytest.approx(peer.auc(curve))
    assert metrics.ncc(a, b, mask) == pytest.approx(peer.ncc(a, b, mask))
    assert metrics.psnr(a, b) == pytest.approx(peer.psnr(a, b))
    assert metrics.first_crossing(curve, 0.3, 40, 2.0) == pytest.approx(peer.res_at(curve, 40, 2.0, 0.3))
