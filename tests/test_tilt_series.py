"""taigs.io.tilt_series on small simulated stacks of known geometry, noise and contrast."""

import warnings

import numpy as np
import pytest

from taigs.errors import InputError, InputWarning
from taigs.geometry import ry, rz, tilt_rotation
from taigs.imaging.dose import critical_exposure, dose_weight
from taigs.io.mrc import write_stack
from taigs.io.tilt_series import read_tilt_series, read_tilt_series_with_notes

ANGLES = np.array([-60.0, -30.0, 0.0, 30.0, 60.0])
POINTS = np.random.default_rng(11).uniform(-14, 14, (8, 3))  # px from the volume's centre


def blobs(xy, shape, sigma=2.5):
    """Sum of 2D Gaussians of height 1 at pixel positions (N, 2)."""
    y, x = np.indices(shape)
    return sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in xy)


def simulated(shape=(48, 64), noise=5.0, height=30.0, level=1000.0, axis=0.0, ramp=10.0):
    """(5, H, W) images of dense blobs, density bright, background and ramp added."""
    rng = np.random.default_rng(5)
    centre = (np.array(shape[::-1]) - 1) / 2
    density = [blobs((POINTS @ tilt_rotation(t, axis)[:2].T) + centre, shape) for t in ANGLES]
    background = level + ramp * np.linspace(-1, 1, shape[1])
    return background + height * np.array(density) + noise * rng.normal(size=(len(ANGLES), *shape))


@pytest.fixture
def stack(tmp_path):
    """Density bright, pixel size 2 A."""
    write_stack(tmp_path / "ts.mrc", simulated(), 2.0)
    return tmp_path / "ts.mrc"


def test_background_is_zero_noise_is_one_and_all_views_share_one_scale(tmp_path):
    images = simulated(noise=7.0, height=1.0)
    write_stack(tmp_path / "ts.mrc", images, 2.0)
    views, notes = read_tilt_series_with_notes(tmp_path / "ts.mrc", ANGLES, contrast="bright")
    np.testing.assert_allclose(np.median(views.images, axis=(1, 2)), 0, atol=1e-3)
    ratio = [np.polyfit(images[v].ravel(), views.images[v].ravel(), 1)[0] for v in range(5)]
    np.testing.assert_allclose(ratio, 1 / 7, rtol=0.08)
    assert np.ptp(ratio) < 1e-4 * ratio[0]
    assert views.images.dtype == np.float32 and views.images.shape == (5, 48, 64)
    assert views.centre.tolist() == [31.5, 23.5]
    assert views.pixel_size == 2.0
    assert any("pixel size 2 A from the header" in note for note in notes)


@pytest.mark.parametrize("sign, word", [(1, "bright"), (-1, "dark")])
def test_contrast_is_detected_and_density_made_bright(tmp_path, sign, word):
    write_stack(tmp_path / "ts.mrc", 2000 + sign * simulated(), 2.0)
    views, notes = read_tilt_series_with_notes(tmp_path / "ts.mrc", ANGLES)
    truth = simulated(noise=0, level=0)
    for v in range(5):
        assert np.corrcoef(views.images[v].ravel(), truth[v].ravel())[0, 1] > 0.3
    assert any(f"dense matter is {word} in the stack (skewness" in note for note in notes)


@pytest.mark.parametrize("sign, contrast", [(1, "bright"), (-1, "dark")])
def test_hot_pixels_do_not_decide_the_contrast(tmp_path, sign, contrast):
    images = 2000 + sign * simulated()
    images[:, 5::17, 3::19] -= sign * 5000
    write_stack(tmp_path / "ts.mrc", images, 2.0)
    _, notes = read_tilt_series_with_notes(tmp_path / "ts.mrc", ANGLES)
    assert any(f"dense matter is {contrast}" in note for note in notes)


def test_contrast_given_is_obeyed(stack):
    bright, dark = (read_tilt_series(stack, ANGLES, contrast=c).images for c in ("bright", "dark"))
    assert np.array_equal(bright, -dark)


def test_unclear_contrast_is_taken_for_dark_with_a_warning(tmp_path):
    write_stack(tmp_path / "ts.mrc", simulated(shape=(128, 128), height=0), 2.0)
    with pytest.warns(InputWarning, match="contrast unclear .* dark assumed.*--contrast"):
        read_tilt_series(tmp_path / "ts.mrc", ANGLES)


def test_images_without_noise_keep_a_finite_scale(tmp_path):
    write_stack(tmp_path / "ts.mrc", simulated(noise=0), 2.0)
    views = read_tilt_series(tmp_path / "ts.mrc", ANGLES)
    assert np.isfinite(views.images).all() and views.images.std() <= 51


# --- geometry ------------------------------------------------------------------------------------


def test_a_ramp_without_noise_keeps_a_finite_scale(tmp_path):
    ramps = np.tile(3.0 * np.arange(64), (5, 48, 1))
    write_stack(tmp_path / "ts.mrc", ramps, 8.0)
    views = read_tilt_series(tmp_path / "ts.mrc", ANGLES, contrast="bright")
    assert np.isfinite(views.images).all() and views.images.std() == pytest.approx(50, rel=0.01)


def brightness_at_points(views):
    """Mean image value where the views say that POINTS (of 2 A pixels) are, over the mean of |image|."""
    xy = 2.0 * POINTS @ np.swapaxes(views.projections, 1, 2) / views.pixel_size
    x, y = np.moveaxis(np.round(xy + views.shifts[:, None] + views.centre).astype(int), -1, 0)
    return views.images[np.arange(len(views))[:, None], y, x].mean() / np.abs(views.images).mean()


def test_points_appear_where_the_views_say(stack):
    assert brightness_at_points(read_tilt_series(stack, ANGLES)) > 4
    assert brightness_at_points(read_tilt_series(stack, ANGLES, invert_angles=True)) < 3


def test_a_raw_stack_with_a_rotated_axis_needs_only_the_axis(tmp_path):
    write_stack(tmp_path / "ts.mrc", simulated(shape=(64, 64), axis=84.0), 2.0)
    views = read_tilt_series(tmp_path / "ts.mrc", ANGLES, tilt_axis=84.0)
    assert brightness_at_points(views) > 4
    np.testing.assert_allclose(views.projections, (rz(84.0) @ ry(ANGLES))[:, :2], atol=1e-15)


def test_an_xf_maps_raw_images_of_shifted_and_rotated_views(tmp_path):
    shape, shifts = (64, 65), np.array([[3, -2], [0, 0], [-4, 1], [5, 5], [1, -6.0]])
    images = np.zeros((5, *shape))
    for v, t in enumerate(ANGLES):
        xy = POINTS @ tilt_rotation(t, 20.0)[:2].T + shifts[v] + (np.array(shape[::-1]) - 1) / 2
        images[v] = 30 * blobs(xy, shape) + np.random.default_rng(v).normal(size=shape)
    write_stack(tmp_path / "ts.mrc", images, 2.0)
    a = rz(-20.0)[:2, :2]  # x_ali = A (x_raw - c - shift)
    lines = [" ".join(f"{value:.7f}" for value in (*a.ravel(), *(-a @ s))) for s in shifts]
    (tmp_path / "ts.xf").write_text("\n".join(lines))
    views = read_tilt_series(tmp_path / "ts.mrc", ANGLES, xf=tmp_path / "ts.xf")
    np.testing.assert_allclose(views.shifts, shifts, atol=1e-5)
    assert brightness_at_points(views) > 4


@pytest.mark.parametrize("bin", [2, 3])
def test_binning_keeps_points_in_place_and_the_noise_at_one(tmp_path, bin):
    write_stack(tmp_path / "ts.mrc", simulated(shape=(95, 130), height=0, ramp=0), 2.0)
    views = read_tilt_series(tmp_path / "ts.mrc", ANGLES, bin=bin, contrast="bright")
    assert views.images.shape == (5, 95 // bin, 130 // bin) and views.pixel_size == 2.0 * bin
    np.testing.assert_allclose(views.centre, (np.array([64.5, 47]) - (bin - 1) / 2) / bin)
    assert views.images.std() == pytest.approx(1, abs=0.05)
    write_stack(tmp_path / "b.mrc", simulated(), 2.0)
    views = read_tilt_series(tmp_path / "b.mrc", ANGLES, bin=bin)
    assert brightness_at_points(views) > 3


def test_excluded_images_count_from_one_and_take_their_geometry_along(stack):
    everything = read_tilt_series(stack, ANGLES)
    views = read_tilt_series(stack, ANGLES, exclude=[1, 4])
    assert views.tilt_angles.tolist() == [-30, 0, 60]
    np.testing.assert_array_equal(views.projections, everything.projections[[1, 2, 4]])
    assert views.names == tuple(f"{v}@{stack}" for v in (2, 3, 5))
    assert np.corrcoef(views.images[1].ravel(), everything.images[2].ravel())[0, 1] > 0.999999


# --- weights -------------------------------------------------------------------------------------


def test_weights_are_cosines_times_dose_of_mean_one(stack, tmp_path):
    dose = np.array([120.0, 60.0, 0.0, 30.0, 90.0])
    (tmp_path / "dose.txt").write_text("\n".join(map(str, dose)))
    weights = read_tilt_series(stack, ANGLES, dose=tmp_path / "dose.txt", cos_weights=True).weights
    expected = np.cos(np.deg2rad(ANGLES)) * np.exp(-dose / 2 / (0.245 * 20**1.665 + 2.81))
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(read_tilt_series(stack, ANGLES, dose=dose, cos_weights=True).weights, weights)
    np.testing.assert_array_equal(read_tilt_series(stack, ANGLES).weights, np.ones(5))


def test_critical_exposure_has_the_published_values():
    np.testing.assert_allclose(critical_exposure([0.1, 0.2, 1 / 3]), [14.14, 6.38, 4.34], atol=0.01)
    np.testing.assert_allclose(critical_exposure(0.1, 200), 0.8 * critical_exposure(0.1))
    assert dose_weight(50.0, 0.0) == 1 and dose_weight(0.0, 0.3) == 1
    assert dose_weight(2 * critical_exposure(0.1), 0.1) == pytest.approx(np.exp(-1))


# --- pixels that cannot be used ------------------------------------------------------------------


def raw_stack(path, images):
    """As write_stack, which rightly refuses NaN."""
    write_stack(path, np.nan_to_num(images, posinf=0), 2.0)
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(images.astype("<f4").tobytes())


def test_non_finite_pixels_are_counted_and_the_first_one_located(tmp_path):
    images = simulated()
    images[1, 7, 9], images[3, 0, 0] = np.nan, np.inf
    raw_stack(tmp_path / "ts.mrc", images)
    with pytest.raises(InputError, match=r"2 pixels are NaN .* first in image 2 \(from 1\) at y 7, x 9"):
        read_tilt_series(tmp_path / "ts.mrc", ANGLES)
    assert len(read_tilt_series(tmp_path / "ts.mrc", ANGLES, exclude=[2, 4])) == 3


def test_non_finite_pixels_are_masked_on_request(tmp_path):
    images = simulated()
    images[1, 7, 9], images[3, 0, 0] = np.nan, np.inf
    raw_stack(tmp_path / "ts.mrc", images)
    views, notes = read_tilt_series_with_notes(tmp_path / "ts.mrc", ANGLES, mask_nonfinite=True)
    assert abs(views.images[1, 7, 9]) < 0.05 and abs(views.images[3, 0, 0]) < 0.05
    assert any(note.startswith("2 NaN or infinite pixels were replaced") for note in notes)


def test_constant_images_are_dropped_with_a_warning(tmp_path):
    images = simulated()
    images[[0, 3]] = 17
    write_stack(tmp_path / "ts.mrc", images, 2.0)
    with pytest.warns(InputWarning, match=r"constant images dropped: 1, 4 \(from 1\)"):
        views = read_tilt_series(tmp_path / "ts.mrc", ANGLES)
    assert views.tilt_angles.tolist() == [-30, 0, 60]
    assert views.weights.mean() == pytest.approx(1) and len(views.images) == 3


def test_a_stack_of_constant_images_is_refused(tmp_path):
    write_stack(tmp_path / "ts.mrc", np.zeros((5, 8, 8)), 2.0)
    with pytest.raises(InputError, match="every image is constant"):
        read_tilt_series(tmp_path / "ts.mrc", ANGLES)


# --- input that does not fit together ------------------------------------------------------------


def test_an_unknown_pixel_size_is_asked_for(tmp_path):
    write_stack(tmp_path / "ts.mrc", simulated(), 1.0)
    with pytest.raises(InputError, match="holds no pixel size; try --pixel-size"):
        read_tilt_series(tmp_path / "ts.mrc", ANGLES)
    assert read_tilt_series(tmp_path / "ts.mrc", ANGLES, pixel_size=3.5).pixel_size == 3.5


def test_disagreeing_pixel_sizes_are_both_named_and_the_argument_is_used(stack):
    with pytest.warns(InputWarning, match="2 A per pixel in the header, 2.1 given; 2.1 used"):
        assert read_tilt_series(stack, ANGLES, pixel_size=2.1).pixel_size == 2.1
    assert read_tilt_series(stack, ANGLES, pixel_size=2.01).pixel_size == 2.01


def test_oblong_pixels_are_refused(tmp_path):
    write_stack(tmp_path / "ts.mrc", simulated(), (2.0, 2.1, 2.0))
    with pytest.raises(InputError, match=r"pixels of 2 x 2.1 A; expected square ones"):
        read_tilt_series(tmp_path / "ts.mrc", ANGLES)


def test_all_problems_are_reported_together(stack, tmp_path):
    with pytest.raises(InputError) as error:
        read_tilt_series(
            stack, [1, 2, 3], xf=tmp_path / "no.xf", dose=np.full(5, -1.0), exclude=[0, 6],
            pixel_size=-1, contrast="gray",
        )  # fmt: skip
    lines = str(error.value).splitlines()
    assert lines[0] == f"{stack}: 6 problems:"
    expected = [
        "3 tilt angles, but",
        "no.xf: no such file",
        "dose -1",
        "no image 0",
        "pixel size -1",
        "'gray'",
    ]
    assert all(part in line for part, line in zip(expected, lines[1:], strict=True))


def test_a_missing_stack_does_not_hide_the_other_problems(tmp_path):
    with pytest.raises(InputError, match=r"(?s)2 problems:.*no such file.*all 3 tilt angles are 5"):
        read_tilt_series(tmp_path / "no.mrc", [5, 5, 5])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bin": 0}, "binning 0; expected a whole number from 1 to 48"),
        ({"bin": 1.5}, "binning 1.5"),
        ({"bin": 49}, "binning 49"),
        ({"tilt_axis": np.nan}, "tilt axis nan"),
        ({"tilt_axis": 84.0, "xf": np.tile(np.eye(2, 3), (5, 1, 1))}, "besides an .xf"),
        ({"exclude": [1, 2, 3, 4, 5]}, "all 5 images are excluded"),
        ({"xtilt": [0.0]}, "1 x-axis tilts, but .* has 5 images"),
        ({"xf": np.zeros((5, 2, 3))}, "xf of image 1: determinant 0"),
        ({"dose": [0, 1, np.nan, 3, 4]}, "expected a list of finite doses"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(stack, options, message):
    with pytest.raises(InputError, match=message):
        read_tilt_series(stack, ANGLES, **options)


def test_angles_in_radians_are_refused(stack):
    with pytest.raises(InputError, match="they look like radians"):
        read_tilt_series(stack, np.deg2rad(ANGLES))


@pytest.mark.shared
def test_a_real_series_of_a_gold_bead_is_found_dark_and_made_bright(shared):
    folder = shared / "data/tilt_series_bead"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        views, notes = read_tilt_series_with_notes(
            folder / "p1_unweighted_aligned.mrc", folder / "p1.tlt", pixel_size=10.0
        )
    assert any("dense matter is dark" in note for note in notes)
    y, x = np.unravel_index(np.argmax(views.images.mean(axis=0)), (100, 100))
    assert 45 < x < 60 and 50 < y < 70
    assert 0.7 < np.median(views.images[:, :, :30].std(axis=(1, 2))) < 1.5
