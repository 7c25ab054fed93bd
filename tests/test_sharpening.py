"""B-factor, FSC weights and Guinier plot against relion_postprocess, and where no B-factor can be had."""

import numpy as np
import pytest
import relion
from scipy import ndimage

from taigs import sharpening
from taigs.errors import InputError
from taigs.metrics import fsc


def relion_case(parity, run):
    """(average, voxel size, RELION's corrected FSC, RELION's postprocess.star)."""
    half1, half2, _, voxel_size = relion.half_maps(parity)
    text = relion.star_text(parity, run)
    return (half1 + half2) / 2, voxel_size, relion.loop(text, "fsc")[relion.CORRECTED], text


@pytest.mark.parametrize("parity", relion.PARITIES)
@pytest.mark.parametrize("run", [0, "given_bfactor"])
def test_guinier_plot_and_fit_equal_relions(parity, run, monkeypatch):
    average, voxel_size, corrected, text = relion_case(parity, run)
    # RELION fits at any resolution and applies whatever comes out.
    monkeypatch.setattr(sharpening, "WORST_RESOLUTION", 20.0)
    monkeypatch.setattr(sharpening, "LARGEST_BFACTOR", 1000.0)
    result = sharpening.sharpen(average, voxel_size, -50.0 if run else None, corrected)
    expected = relion.loop(text, "guinier")
    for curve, label in (
        (result.guinier.resolution_squared, "rlnResolutionSquared"),
        (result.guinier.original, "rlnLogAmplitudesOriginal"),
        (result.guinier.weighted, "rlnLogAmplitudesWeighted"),
        (result.guinier.sharpened, "rlnLogAmplitudesSharpened"),
    ):
        np.testing.assert_allclose(curve, expected[label], atol=1e-4, err_msg=label)
    general = relion.pairs(text)
    assert result.bfactor == pytest.approx(float(general["rlnBfactorUsedForSharpening"]), rel=1e-4)
    if run == 0:
        assert result.guinier.slope == pytest.approx(float(general["rlnFittedSlopeGuinierPlot"]), rel=1e-4)
        assert result.guinier.intercept == pytest.approx(float(general["rlnFittedInterceptGuinierPlot"]), rel=1e-4)
        assert result.guinier.correlation == pytest.approx(float(general["rlnCorrelationFitGuinierPlot"]), rel=1e-4)


@pytest.mark.parametrize("parity", relion.PARITIES)
def test_the_sharpened_map_equals_relions(parity):
    average, voxel_size, corrected, _ = relion_case(parity, "given_bfactor")
    result = sharpening.sharpen(average, voxel_size, -50.0, corrected)
    expected = relion.fixture()[f"{parity}_sharpened"].astype(float)  # 16 bit
    np.testing.assert_allclose(result.volume, expected, atol=1e-3 * np.abs(expected).max())
    assert result.volume.dtype == np.float32


def test_weights_are_the_correlation_with_the_truth_and_end_at_the_first_shell_without_any():
    weights = sharpening.fsc_weights([1, 0.5, 0.143, -0.1, 0.5])
    np.testing.assert_allclose(weights, [1, np.sqrt(2 / 3), 0.5002, 0, 0], atol=1e-4)


def test_sharpening_undoes_a_b_factor():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(20, 20, 20))
    blurred = sharpening.sharpen(volume, 1.5, 80.0).volume
    assert blurred.std() < 0.5 * volume.std()
    np.testing.assert_allclose(sharpening.sharpen(blurred, 1.5, -80.0).volume, volume, atol=1e-4)
    np.testing.assert_allclose(sharpening.sharpen(volume, 1.5, 0.0).volume, volume, atol=1e-6)


def test_a_known_b_factor_is_found():
    """White noise blurred by B = 60 A^2, at an FSC of nearly 1 to Nyquist."""
    rng = np.random.default_rng(0)
    blurred = sharpening.sharpen(rng.normal(size=(48, 48, 48)), 1.2, 60.0).volume
    result = sharpening.sharpen(blurred, 1.2, fsc=np.full(25, 0.999))
    assert result.bfactor == pytest.approx(-60, abs=3)
    assert result.guinier.correlation > 0.99


def test_no_b_factor_is_fitted_at_low_resolution():
    average, voxel_size, corrected, _ = relion_case("even", 0)
    with pytest.warns(UserWarning, match=r"no B-factor can be fitted at a resolution of 5\.8 Å"):
        result = sharpening.sharpen(average, voxel_size, fsc=corrected)
    assert result.bfactor == 0
    np.testing.assert_allclose(fsc(result.volume, average)[0][1:14], 1, atol=1e-5)  # weights alone turn no phase


def test_a_window_of_too_few_shells_has_no_line():
    rng = np.random.default_rng(0)
    volume = ndimage.gaussian_filter(rng.normal(size=(8, 8, 8)), 1)
    with pytest.warns(UserWarning, match="no B-factor can be fitted"):
        result = sharpening.sharpen(volume, 2.0, fsc=np.full(5, 0.9))
    assert result.guinier.slope is None and result.bfactor == 0


@pytest.mark.parametrize(("given", "applied"), [(900.0, -500.0), (-40.0, 0.0)])
def test_incredible_b_factors_are_limited(given, applied):
    rng = np.random.default_rng(0)
    blurred = sharpening.sharpen(rng.normal(size=(32, 32, 32)), 2.0, given).volume
    with pytest.warns(UserWarning, match=f"not credible; {applied:.0f} Å² is applied"):
        assert sharpening.sharpen(blurred, 2.0, fsc=np.full(17, 0.999)).bfactor == applied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volume": np.ones((8, 8))}, "three axes"),
        ({"volume": np.full((8, 8, 8), np.nan)}, "finite voxels"),
        ({"fsc": np.ones(4)}, "FSC of 4 shells; expected 5"),
        ({"bfactor": None}, "needs the FSC"),
    ],
)
def test_unusable_input_is_refused(changes, message):
    arguments = {"volume": np.ones((8, 8, 8)), "voxel_size": 2.0, "bfactor": -10.0}
    with pytest.raises(InputError, match=message):
        sharpening.sharpen(**(arguments | changes))
