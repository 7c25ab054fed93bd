"""The verdict on a fitted map: measured beside coarser voxels, and blaming noise only where there is some."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from taigs.cloud import GaussianCloud
from taigs.fit_verdict import coarse_voxels, fidelity_in_words, fsc_limit, negative_limit
from taigs.masks import mask_from_map
from taigs.metrics import first_crossing, fsc, ncc
from taigs.views import Grid
from taigs.volume_fit import Fidelity, VolumeFit

N, SIZE = 48, 4.0


def lowpassed(volume, resolution):
    """Without what is finer than `resolution` (A)."""
    k = np.sqrt(sum(np.square(np.meshgrid(*[np.fft.fftfreq(n, SIZE) for n in volume.shape], indexing="ij"))))
    return np.fft.ifftn(np.fft.fftn(volume) * (k < 1 / resolution)).real


def molecule(rng, shape=(N, N, N)):
    """A ball with detail of one voxel in it, nothing around it, values up to some 5."""
    ball = np.linalg.norm(np.indices(shape) - np.reshape(shape, (3, 1, 1, 1)) / 2, axis=0) < min(shape) / 5
    return gaussian_filter(ball * (2 + rng.normal(size=shape)), 0.7)


def fitted(volume, target, ratio=10.0):
    curve = fsc(volume, target)[0]
    resolution = first_crossing(curve, 0.5, max(target.shape), SIZE)
    row = Fidelity(100, 6400, ratio, ncc(volume, target), resolution, 1.0)
    cloud = GaussianCloud(np.zeros((1, 3)), np.zeros((1, 3)), np.eye(4)[:1], np.ones(1))
    return VolumeFit(cloud, Grid(target.shape, SIZE), [row], "the budget is used up", volume, curve)


@pytest.mark.parametrize("shape", [(32, 32, 32), (20, 25, 31)])
def test_coarse_voxels_hold_what_a_smaller_grid_holds(rng, shape):
    volume = rng.normal(size=shape)
    cc, resolution = coarse_voxels(volume, 8.0, SIZE)  # half as many along each axis
    assert cc == pytest.approx((1 / 8) ** 0.5, abs=0.06)
    assert 4 * SIZE > resolution > 2 * SIZE  # Nyquist of the coarser grid, and of its corners
    assert coarse_voxels(volume, 1.0, SIZE)[0] > 0.95


def test_the_model_is_better_than_voxels_by_what_it_is_better_by(rng):
    target = molecule(rng)
    fine = fitted(target + 0.01 * rng.normal(size=target.shape), target, ratio=20)
    assert "the model is better by both measures" in fidelity_in_words(fine, target)
    for part in ("100 Gaussians", "1/20.0 of its bytes", f"voxels of {SIZE * 20 ** (1 / 3):.1f} Å"):
        assert part in fidelity_in_words(fine, target)
    blurred = fitted(lowpassed(target, 30), target, ratio=5)
    assert "the model is not better by either measure" in fidelity_in_words(blurred, target)
    row = blurred.rows[0]
    for changes, words in (
        ({"cc": 1.0}, "better by correlation, but not by FSC"),
        ({"resolution": None}, "better by FSC, but not by correlation"),
    ):
        assert words in fidelity_in_words(replace(blurred, rows=[replace(row, **changes)]), target)


def test_noise_around_a_molecule_is_said_to_limit_the_fsc(rng):
    clean = molecule(rng)
    noisy = clean + 0.5 * rng.normal(size=clean.shape)
    said = fsc_limit(fitted(clean, noisy), noisy)
    assert "noise is what limits the FSC" in said
    share = float(said.split("% of what the model misses")[0].split()[-1])
    outside = np.mean(mask_from_map(noisy, SIZE).mask == 0)  # of the box, as of white noise
    assert share == pytest.approx(100 * outside, abs=2)


def test_detail_of_a_molecule_is_not_blamed_on_noise(rng):
    clean = molecule(rng)
    said = fsc_limit(fitted(lowpassed(clean, 20), clean), clean)
    assert "its own detail limits the FSC" in said and "noise is what limits" not in said
    resolution = float(said.removeprefix("What is finer than ").split()[0])
    assert resolution == pytest.approx(20, rel=0.1)
    share = np.var(clean - lowpassed(clean, resolution)) / np.var(clean)
    assert abs(float(said.split("makes up ")[1].split("%")[0]) / 100 - share) < 0.02


def test_a_model_that_holds_to_nyquist_is_limited_by_nothing(rng):
    clean = molecule(rng)
    assert fsc_limit(fitted(clean, clean), clean) == ""


def test_negative_density_limits_a_positive_model_and_no_other(rng):
    target = gaussian_filter(rng.normal(size=(16, 16, 16)), 2)
    best = ncc(np.maximum(target, 0), target)
    assert (
        negative_limit(target, signed=False) == f"without --signed, negative density limits the CC to about {best:.3f}"
    )
    assert negative_limit(target, signed=True) == negative_limit(target - target.min(), signed=False) == ""


def test_without_a_molecule_noise_and_density_are_not_told_apart(rng):
    noise = rng.normal(size=(N, N, N))
    said = fsc_limit(fitted(lowpassed(noise, 20), noise), noise)
    assert said.endswith("no molecule stands out of the map, to tell density from noise.")
