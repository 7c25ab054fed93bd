"""Directional FSC against its definition, and what cFAR says of maps with and without a missing cone."""

import itertools
import math
import time

import numpy as np
import pytest
from scipy import ndimage

from taigs import anisotropy, metrics
from taigs.errors import InputError


def pair(shape, missing_deg=0.0, noise=1.0, seed=0):
    """Two noisy copies of a smooth volume; without signal within an angle of the z axis of Fourier space."""
    rng = np.random.default_rng(seed)
    signal = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    k = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    missing = np.abs(k[0]) > np.sqrt(sum(c * c for c in k)) * np.cos(np.radians(missing_deg))
    signal = np.fft.ifftn(np.fft.fftn(signal / signal.std()) * ~missing).real
    return tuple(signal + noise * rng.normal(size=shape) for _ in range(2))


def slow_cones(a, b, axes, half_angle_deg):
    """(curves, counts), (A, S): every coefficient of the full transform with a direction, one at a time."""
    n = max(a.shape)
    sums, counts = np.zeros((3, len(axes), n // 2 + 1)), np.zeros((len(axes), n // 2 + 1))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    for index in itertools.product(*map(range, a.shape)):
        k = np.array([(i if 2 * i < m else i - m) / m for i, m in zip(index, a.shape, strict=True)])
        length = math.sqrt(sum(k * k))
        shell = round(length * n)
        if not 0 < shell <= n // 2 or any(2 * i == m for i, m in zip(index, a.shape, strict=True)):
            continue
        inside = np.abs(axes @ k[::-1]) >= length * math.cos(math.radians(half_angle_deg)) - 1e-6
        p, q = fa[index], fb[index]
        for at, value in enumerate(((p * np.conj(q)).real, abs(p) ** 2, abs(q) ** 2)):
            sums[at, inside, shell] += value
        counts[inside, shell] += 0.5  # of a pair k, -k
    power = np.sqrt(sums[1] * sums[2])
    return np.divide(sums[0], power, out=np.zeros_like(power), where=power > 0), counts


@pytest.mark.parametrize("shape", [(12, 12, 12), (13, 13, 13), (10, 14, 13)])
def test_cone_curves_equal_the_loop_over_coefficients(shape):
    a, b = pair(shape)
    axes = anisotropy.fibonacci_axes(7)
    result = anisotropy.directional_fsc(a, b, 2.0, axes=axes, half_angle_deg=35)
    expected, counts = slow_cones(a, b, axes, 35)
    few = counts.min(axis=0) < anisotropy.FEWEST_COEFFICIENTS
    assert few[:2].all() and not few[3:].any()
    np.testing.assert_allclose(result.curves[:, ~few], expected[:, ~few], atol=1e-5)
    whole = metrics.fsc(a, b)[0]
    np.testing.assert_allclose(result.curves[:, few], np.broadcast_to(whole[few], (7, few.sum())), atol=1e-12)


def test_a_shell_of_many_chunks_is_summed_completely(monkeypatch):
    a, b = pair((20, 20, 20))
    whole = anisotropy.directional_fsc(a, b, 2.0).curves
    monkeypatch.setattr(anisotropy, "ROWS", 37)
    np.testing.assert_allclose(anisotropy.directional_fsc(a, b, 2.0).curves, whole, atol=1e-5)


def test_cones_that_hold_everything_give_the_shell_correlation():
    a, b = pair((13, 13, 13))  # odd: no coefficient at Nyquist to leave out
    result = anisotropy.directional_fsc(a, b, 2.0, half_angle_deg=89.99999)
    np.testing.assert_allclose(result.curves, np.broadcast_to(metrics.fsc(a, b)[0], (256, 7)), atol=1e-5)


def test_axes_are_unit_vectors_spread_evenly_over_half_a_sphere():
    axes = anisotropy.fibonacci_axes()
    assert axes.shape == (256, 3)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1)
    assert axes[:, 2].min() > 0
    nearest = np.sort(np.abs(axes @ axes.T), axis=1)[:, -2]
    spacing = np.degrees(np.arccos(nearest))
    assert spacing.min() > 4 and spacing.max() < 11
    np.testing.assert_allclose(axes.T @ axes / 256, np.eye(3) / 3, atol=0.01)


def test_maps_alike_in_all_directions_have_a_cfar_near_one():
    result = anisotropy.directional_fsc(*pair((96, 96, 96)), 2.0)
    assert result.cfar > 0.8
    assert result.resolution_spread < 0.1 * result.resolutions.mean()


def test_a_missing_cone_is_found_and_pointed_at():
    result = anisotropy.directional_fsc(*pair((64, 64, 64), missing_deg=35), 2.0)
    assert result.cfar < 0.3
    assert abs(result.worst_axis[2]) > np.cos(np.radians(20))
    along, across = np.abs(result.axes[:, 2]) > 0.97, np.abs(result.axes[:, 2]) < 0.3
    assert np.nanmin(result.resolutions[along]) > np.nanmax(result.resolutions[across])


def test_the_axis_of_a_missing_cone_follows_the_maps():
    a, b = pair((48, 48, 48), missing_deg=35)
    for axis, turned in ((0, (2, 1, 0)), (1, (1, 0, 2))):  # z becomes x, then y
        result = anisotropy.directional_fsc(a.transpose(turned), b.transpose(turned), 2.0)
        assert np.abs(result.worst_axis).argmax() == axis


def test_a_map_with_itself_has_equal_cones_that_never_cross():
    a, _ = pair((24, 24, 24))
    result = anisotropy.directional_fsc(a, 1e9 * a, 2.0)
    np.testing.assert_allclose(result.curves, 1, atol=1e-5)
    assert result.cfar == pytest.approx(1)
    assert np.isnan(result.resolutions).all() and result.resolution_spread is None


def test_a_mask_multiplies_both_maps():
    a, b = pair((24, 24, 24))
    mask = ndimage.gaussian_filter((np.indices(a.shape) > 6).all(axis=0).astype(float), 2)
    masked = anisotropy.directional_fsc(a, b, 2.0, mask)
    np.testing.assert_allclose(masked.curves, anisotropy.directional_fsc(a * mask, b * mask, 2.0).curves, atol=1e-6)


def test_areas_end_where_a_curve_first_falls_to_the_threshold():
    curves = np.array([[1, 1, 0.9, 0.5, 0.143, 0.9], [1, 1, 0.9, 0.5, 0.4, 0.3], [1, 0.1, 0.9, 0.9, 0.9, 0.9]])
    result = anisotropy.DirectionalFsc(anisotropy.fibonacci_axes(3), curves, 10, 2.0)
    np.testing.assert_allclose(result.areas, [2.4, 3.1, 0])
    assert result.cfar == 0
    assert anisotropy.DirectionalFsc(result.axes[:2], curves[:2], 10, 2.0).cfar == pytest.approx(2.4 / 3.1)
    mean, deviation, low, high = result.spread
    np.testing.assert_allclose([mean[4], deviation[4], low[4], high[4]], [0.481, np.std(curves[:, 4]), 0.143, 0.9])


def test_unrelated_maps_have_no_area_and_a_cfar_of_zero():
    curves = np.zeros((3, 6))
    assert anisotropy.DirectionalFsc(anisotropy.fibonacci_axes(3), curves, 10, 2.0).cfar == 0


def test_a_box_of_128_takes_seconds():
    a, b = pair((128, 128, 128))
    started = time.perf_counter()
    anisotropy.directional_fsc(a, b, 2.0)
    assert time.perf_counter() - started < 30  # 3 s on two idle cores


@pytest.mark.parametrize("angle", [0, 90, float("nan")])
def test_an_angle_that_makes_no_cone_is_refused(angle):
    a, b = pair((8, 8, 8))
    with pytest.raises(InputError, match="half angle"):
        anisotropy.directional_fsc(a, b, 2.0, half_angle_deg=angle)
