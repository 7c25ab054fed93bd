"""Half-map FSC against relion_postprocess, against its definition, and where resolution is easily overstated."""

import itertools
import math

import numpy as np
import pytest
import relion
from scipy import fft, ndimage

from taigs import metrics, resolution
from taigs.errors import InputError

TOLERANCE = 1e-5  # RELION prints six decimals of single-precision transforms


@pytest.fixture(scope="module", params=relion.PARITIES)
def scored(request):
    """(parity, result) of RELION's half maps under RELION's mask."""
    half1, half2, mask, voxel_size = relion.half_maps(request.param)
    return request.param, resolution.half_map_fsc(half1, half2, voxel_size, mask, draws=12)


def pair(shape=(24, 24, 24), noise=1.0, seed=0):
    """Two noisy copies of one smooth volume."""
    rng = np.random.default_rng(seed)
    signal = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    signal /= signal.std()
    return tuple(signal + noise * rng.normal(size=shape) for _ in range(2))


def ball(n, radius, width):
    """1 inside a radius, with a raised-cosine edge."""
    distance = np.sqrt(((np.indices((n, n, n)) - n // 2) ** 2).sum(axis=0))
    return (1 - np.cos(np.pi * np.clip((radius - distance) / max(width, 1e-6) + 0.5, 0, 1))) / 2


def test_unmasked_and_masked_curves_equal_those_of_relion(scored):
    parity, result = scored
    np.testing.assert_allclose(result.unmasked, relion.curves(parity, relion.UNMASKED)[0], atol=TOLERANCE)
    np.testing.assert_allclose(result.masked, relion.curves(parity, relion.MASKED)[0], atol=TOLERANCE)


def test_frequencies_equal_those_of_relion(scored):
    parity, result = scored
    expected = relion.loop(relion.star_text(parity, 0), "fsc")["rlnResolution"]
    np.testing.assert_allclose(result.frequency[1:], expected[1:], atol=1e-6)


def test_phases_are_randomised_from_the_shell_that_relion_chooses(scored):
    parity, result = scored
    expected = float(relion.pairs(relion.star_text(parity, 0))["rlnRandomiseFrom"])
    assert result.n * result.voxel_size / result.randomise_from == pytest.approx(expected, abs=TOLERANCE)


def test_the_correction_of_relions_random_curve_is_relions(scored):
    parity, result = scored
    for seed in range(relion.DRAWS):
        columns = relion.loop(relion.star_text(parity, seed), "fsc")
        corrected = resolution.correct_for_mask(
            columns[relion.MASKED], columns[relion.RANDOMISED], result.randomise_from
        )
        np.testing.assert_allclose(corrected, columns[relion.CORRECTED], atol=TOLERANCE)


def test_before_the_correction_begins_the_curve_is_relions(scored):
    parity, result = scored
    same = slice(result.randomise_from + resolution.UNCORRECTED_SHELLS)
    np.testing.assert_allclose(result.corrected[same], relion.curves(parity, relion.CORRECTED)[0, same], atol=TOLERANCE)


def test_relions_random_curves_could_be_draws_of_ours(scored):
    parity, result = scored
    theirs = relion.curves(parity, relion.RANDOMISED)
    spread = result.draws.std(axis=0, ddof=1)
    assert np.all(np.abs(theirs - result.randomised) < 4 * spread + 0.005)
    # Their mean is known better than one draw; it is a little higher where the randomisation begins, because
    # RELION's random phases lose amplitude on one plane.
    error = spread * math.sqrt(1 / relion.DRAWS + 1 / len(result.draws))
    assert np.all(np.abs(theirs.mean(axis=0) - result.randomised) < 4 * error + 0.04)


def test_the_corrected_curve_lies_within_the_spread_of_relions_draws(scored):
    parity, result = scored
    theirs = relion.curves(parity, relion.CORRECTED)
    later = slice(result.randomise_from + resolution.UNCORRECTED_SHELLS, None)
    spread = np.hypot(theirs.std(axis=0, ddof=1), result.draws.std(axis=0, ddof=1))[later]
    assert np.all(np.abs(result.corrected[later] - theirs.mean(axis=0)[later]) < 3 * spread)


def test_the_resolution_of_relions_curve_is_the_one_that_relion_reports(scored):
    parity, result = scored
    for seed in range(relion.DRAWS):
        text = relion.star_text(parity, seed)
        found = result.relion_crossing(curve=relion.loop(text, "fsc")[relion.CORRECTED])
        assert found == pytest.approx(float(relion.pairs(text)["rlnFinalResolution"]), abs=TOLERANCE)
    text = relion.star_text(parity, "without_mask")
    found = result.relion_crossing(curve=result.unmasked)
    assert found == pytest.approx(float(relion.pairs(text)["rlnFinalResolution"]), abs=TOLERANCE)


def test_the_solvent_corrected_curve_equals_relions(scored):
    parity, result = scored
    text = relion.star_text(parity, 0)
    assert result.solvent_ratio == pytest.approx(
        float(relion.pairs(text)["rlnParticleBoxFractionSolventMask"]), abs=TOLERANCE
    )
    curve = resolution.solvent_corrected(result.unmasked, result.solvent_ratio)
    np.testing.assert_allclose(curve, relion.loop(text, "fsc")[relion.SOLVENT], atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 9, 9), (6, 9, 8)])
def test_relions_weights_count_what_the_half_transform_stores(shape):
    a, b = pair(shape)
    curve, counts = metrics.fsc(a, b, weights="relion")
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    n = max(shape)
    sums, expected_counts = np.zeros((3, n // 2 + 1)), np.zeros(n // 2 + 1)
    for index in itertools.product(range(shape[0]), range(shape[1]), range(shape[2] // 2 + 1)):
        k = [(i if 2 * i < m else i - m) / m for i, m in zip(index, shape, strict=True)]
        shell = round(math.sqrt(sum(c * c for c in k)) * n)
        if shell <= n // 2:
            sums[:, shell] += (fa[index] * np.conj(fb[index])).real, abs(fa[index]) ** 2, abs(fb[index]) ** 2
            expected_counts[shell] += 1
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(curve, sums[0] / np.sqrt(sums[1] * sums[2]), atol=1e-12)


def test_hermitian_weights_remain_the_default_of_the_metric_and_an_option_here():
    a, b = pair()
    np.testing.assert_array_equal(metrics.fsc(a, b)[0], metrics.fsc(a, b, weights="hermitian")[0])
    for weights in metrics.WEIGHTS:
        result = resolution.half_map_fsc(a, b, 1.0, weights=weights)
        np.testing.assert_array_equal(result.unmasked, metrics.fsc(a, b, weights=weights)[0])


@pytest.mark.parametrize("shape", [(12, 12, 12), (11, 11, 11), (9, 12, 10)])
def test_random_phases_keep_the_amplitudes_and_what_is_not_to_be_randomised(shape):
    a, _ = pair(shape)
    transform = np.fft.rfftn(a)
    beyond = metrics.shell_numbers(shape) >= 3
    randomised = resolution.randomise_phases(transform, shape, beyond, np.random.default_rng(1))
    found = np.fft.rfftn(randomised)
    assert randomised.shape == shape and np.isrealobj(randomised)
    np.testing.assert_allclose(np.abs(found), np.abs(transform), atol=1e-9 * np.abs(transform).max())
    np.testing.assert_allclose(found[~beyond], transform[~beyond], atol=1e-9 * np.abs(transform).max())
    assert abs(np.exp(1j * np.angle(found / transform))[beyond].mean()) < 0.15


def test_two_shells_from_where_phases_are_random_the_unmasked_maps_do_not_correlate(rng):
    a, b = pair(noise=0.1)
    beyond = metrics.shell_numbers(a.shape) >= 4
    curve, counts = metrics.fsc(*(resolution.randomise_phases(np.fft.rfftn(v), v.shape, beyond, rng) for v in (a, b)))
    assert np.all(curve[:4] > 0.9)
    assert np.all(np.abs(curve[4:]) < 5 / np.sqrt(counts[4:] / 2))


def test_what_a_sharp_mask_adds_is_taken_off_again():
    """Signal up to shell 6 only: whatever correlates beyond is the mask's."""
    rng = np.random.default_rng(0)
    n = 40
    low = fft.rfftn(rng.normal(size=(n, n, n))) * (metrics.shell_numbers((n, n, n)) <= 6)
    signal = fft.irfftn(low, (n, n, n)) * ball(n, 9, 6)
    noise = 0.3 * signal.std()
    half1, half2 = (signal + noise * rng.normal(size=signal.shape) for _ in range(2))
    mask = (ball(n, 11, 0) > 0.5).astype(float)
    result = resolution.half_map_fsc(half1, half2, 1.0, mask, draws=8)
    beyond = slice(result.randomise_from + 3, None)
    assert result.masked[beyond].mean() > 0.05
    assert abs(result.corrected[beyond].mean()) < 0.5 * result.masked[beyond].mean()
    assert any("sharp edge" in text for text in result.warnings)


def test_a_fitting_mask_raises_no_doubts(scored):
    assert scored[1].warnings == ()


def test_a_mask_that_correlates_the_maps_at_the_resolution_is_named():
    half1, half2, mask, voxel_size = relion.half_maps("even")
    for threshold, where in ((1, "at 5."), (4, "at Nyquist")):
        speckled = (half1 + half2 > threshold) * mask  # as tight as a mask can be: it follows the noise
        result = resolution.half_map_fsc(half1, half2, voxel_size, speckled)
        assert any("random phases" in text and where in text for text in result.warnings)


def test_a_mask_beside_the_structure_is_named():
    half1, half2, mask, voxel_size = relion.half_maps("even")
    result = resolution.half_map_fsc(half1, half2, voxel_size, np.roll(mask, 18, axis=0))
    assert any("less under the mask" in text for text in result.warnings)


def test_a_map_correlates_with_itself_perfectly_and_never_crosses():
    a, _ = pair()
    result = resolution.half_map_fsc(a, 3 * a, 2.0, ball(24, 8, 6))
    for curve in (result.unmasked, result.masked, result.corrected):
        np.testing.assert_allclose(curve, 1, atol=1e-9)
    assert result.randomise_from is None and result.draws is None
    assert result.crossing() is None and result.relion_crossing() is None
    assert any("not corrected" in text for text in result.warnings)
    _, rows = resolution.crossing_table(result)
    assert rows[0][2:] == ("not crossed: at or beyond Nyquist",) * 3


def test_curves_depend_on_neither_scale_nor_order_of_the_maps():
    a, b = pair()
    mask = ball(24, 8, 6)
    first = resolution.half_map_fsc(a, b, 2.0, mask)
    for second in (resolution.half_map_fsc(1e4 * a, 1e-3 * b, 2.0, mask), resolution.half_map_fsc(b, a, 2.0, mask)):
        np.testing.assert_allclose(second.unmasked, first.unmasked, atol=1e-12)
        np.testing.assert_allclose(second.masked, first.masked, atol=1e-12)
        assert second.randomise_from == first.randomise_from


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    a, b = pair()
    mask = ball(24, 8, 6)
    draws = [resolution.half_map_fsc(a, b, 2.0, mask, seed=seed, draws=2).draws for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0][0], draws[0][1])


def test_random_phases_are_not_those_of_a_simulation_with_the_same_seed():
    rng = np.random.default_rng(0)
    half1, half2 = (rng.standard_normal((24, 24, 24)) for _ in range(2))
    whole = np.ones(half1.shape)
    found = resolution.half_map_fsc(half1, half2, 2.0, whole, seed=0, draws=1)
    other = np.random.default_rng(0)
    for half in (half1, half2):
        beyond = metrics.shell_numbers(half.shape) >= found.randomise_from
        same = resolution.randomise_phases(np.fft.rfftn(half), half.shape, beyond, other)
        np.testing.assert_allclose(same, half, atol=1e-9)  # the trap: these phases are the maps' own
    assert np.abs(found.draws[0, 4:] - found.masked[4:]).max() > 0.02


def test_the_first_crossing_counts_where_a_curve_dips_and_recovers():
    curve = np.array([1, 1, 1, 0.9, 0.1, 0.8, 0.7, 0.6, 0.1])
    result = resolution.HalfMapFsc(16, 2.0, curve)
    assert result.relion_crossing() == pytest.approx(32 / 3)
    assert result.crossing() == pytest.approx(32 / (3 + (0.9 - 0.143) / 0.8))
    assert result.crossing() > 8 and result.relion_crossing() > 8  # not the 4 Angstrom of the last crossing


@pytest.mark.parametrize(("curve", "expected"), [([1, 0.1, 0.1], 16.0), ([1, 0.9, 0.1], 16.0), ([1, 0.9, 0.143], None)])
def test_relions_crossing_is_the_last_shell_before_the_first_below(curve, expected):
    assert resolution.relion_crossing(curve, 0.143, 8, 2.0) == expected


def test_the_table_has_a_row_for_each_curve_there_is(scored):
    _, result = scored
    header, rows = resolution.crossing_table(result)
    assert [row[0] for row in rows] == ["unmasked", "masked", "phase-randomised", "corrected"]
    assert all(len(row) == len(header) for row in rows)
    assert rows[3][3] == f"{result.crossing():.2f} Å"
    plain = resolution.HalfMapFsc(result.n, result.voxel_size, result.unmasked)
    assert [row[0] for row in resolution.crossing_table(plain)[1]] == ["unmasked"]


def test_volumes_that_are_no_cubes_are_scored_as_by_the_metric():
    a, b = pair((10, 24, 17))
    result = resolution.half_map_fsc(a, b, 2.0, np.full(a.shape, 0.5))
    assert result.n == 24
    np.testing.assert_allclose(result.unmasked, metrics.fsc(a, b, weights="relion")[0])
    np.testing.assert_allclose(result.masked, result.unmasked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"half2": a[1:]}, "second volume has shape"),
        (lambda a: {"half1": np.full(a.shape, np.nan)}, "NaN or infinite"),
        (lambda a: {"half2": np.ones(a.shape)}, "second half map is constant"),
        (lambda a: {"mask": a[1:]}, "mask has shape"),
        (lambda a: {"mask": np.zeros(a.shape)}, "mask is empty"),
        (lambda a: {"draws": 0}, "draws 0"),
        (lambda a: {"weights": "equal"}, "expected at least 1, one of hermitian, relion"),
        (lambda a: {"voxel_size": 0.0}, "voxel size 0.0"),
    ],
)
def test_unusable_half_maps_are_refused(change, message):
    a, b = pair((8, 9, 10))
    with pytest.raises(InputError, match=message):
        resolution.half_map_fsc(**({"half1": a, "half2": b, "voxel_size": 2.0} | change(a)))
