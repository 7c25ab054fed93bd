"""The pictures of single particles: true to their input, and drawn whatever it is."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from taigs import figures, figures_spa
from taigs.geometry import euler_to_matrix, quaternion_to_matrix

N = 24


def pixels(png):
    """(H, W, 4) of a picture that is no single colour and as wide as a page."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and b"matplotlib" not in png
    image = imread(io.BytesIO(png))
    assert image.shape[1:] == (figures.WIDTH * figures.DPI, 4)
    assert image[..., :3].min() < 0.5 and image[..., :3].max() == 1
    return image


def random_projections(rng, n):
    return quaternion_to_matrix(rng.normal(size=(n, 4)))[:, :2]


# --- orientations --------------------------------------------------------------------------------


def test_a_view_lies_at_its_rot_and_tilt_whatever_psi_and_the_magnification(rng):
    rot, tilt, psi = rng.uniform([[-180], [0], [-180]], [[180], [180], [180]], (3, 20))
    x, y, z = figures_spa._directions(1.02 * euler_to_matrix(rot, tilt, psi)[:, :2]).T
    np.testing.assert_allclose(np.degrees(np.arctan2(y, x)), rot)
    np.testing.assert_allclose(np.degrees(np.arccos(z)), tilt)


@pytest.mark.parametrize("rings", [9, 20])
def test_bins_have_one_area(rings):
    number, n = figures_spa._equal_area_bins(rings)
    # A grid in rot and cos tilt samples the sphere evenly.
    rot, cosine = np.meshgrid((np.arange(1440) + 0.5) / 4 - 180, (np.arange(4000) + 0.5) / 2000 - 1)
    counts = np.bincount(number(rot.ravel(), cosine.ravel()), minlength=n)
    assert len(counts) == n
    np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.05)


def test_every_direction_has_a_bin():
    number, n = figures_spa._equal_area_bins(9)
    rot, cosine = np.array([-180, 180, 0, 1e-300, -1e-300, 360]), np.array([1, -1, 0])
    bins = number(rot[:, None], cosine)
    assert bins.min() == 0 and bins.max() < n
    np.testing.assert_array_equal(bins[0], bins[1])


def test_the_map_coordinates_of_mollweide_are_inverted(rng):
    rot, cosine = rng.uniform(-180, 180, 100), rng.uniform(-0.999, 0.999, 100)
    x, y = figures_spa._to_mollweide(rot, cosine)
    again = figures_spa._from_mollweide(x, y)
    np.testing.assert_allclose(again[0], rot, atol=1e-3)
    np.testing.assert_allclose(again[1], cosine, atol=1e-5)
    # An equal-area map of the unit sphere: the pole is sqrt 2 above the centre, the date line twice that aside.
    np.testing.assert_allclose(figures_spa._to_mollweide(0, 1), (0, 2**0.5), atol=1e-12)
    np.testing.assert_allclose(figures_spa._to_mollweide(180, 0), (2 * 2**0.5, 0), atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 60, 2000])
def test_orientations_are_drawn_for_few_views_and_many(rng, n):
    pixels(figures_spa.orientation_figure(random_projections(rng, n)))


def test_views_all_along_the_axis_are_drawn():
    pixels(figures_spa.orientation_figure(np.tile(np.eye(3)[:2], (500, 1, 1))))
    pixels(figures_spa.orientation_figure(euler_to_matrix(0, 180, np.arange(500))[:, :2]))


def test_a_preferred_orientation_shows_at_its_place():
    """Views within 20 degrees of rot 90, tilt 90: the right half of the map is coloured, the left grey."""
    rng = np.random.default_rng(0)
    matrices = euler_to_matrix(rng.uniform(70, 110, 3000), rng.uniform(70, 110, 3000), 0)
    image = pixels(figures_spa.orientation_figure(matrices[:, :2]))[:, :1000, :3]  # without the colour bar
    coloured = np.argwhere(np.ptp(image, axis=2) > 0.2)
    height, left, right = image.shape[0], *np.percentile(coloured[:, 1], [1, 99])
    assert len(coloured) > 3000
    assert 600 < left < right < 950
    assert abs(np.median(coloured[:, 0]) - height / 2) < 0.05 * height


# --- particles beside the model ------------------------------------------------------------------


@pytest.mark.parametrize("n, shape", [(1, (N, N)), (3, (N, 2 * N)), (6, (N, N)), (9, (2 * N, N))])
def test_a_gallery_is_drawn_for_any_number_and_shape(rng, n, shape):
    images = rng.normal(size=(n, *shape)).astype(np.float32)
    pixels(figures_spa.gallery_figure(images, images + rng.normal(size=images.shape), 4.0))


def test_a_gallery_of_constant_images_is_drawn():
    pixels(figures_spa.gallery_figure(np.ones((2, N, N)), np.zeros((2, N, N)), 4.0))


def test_the_difference_from_the_model_is_drawn_on_the_scale_of_the_images(rng, monkeypatch):
    monkeypatch.setattr(figures_spa, "_png", lambda figure: figure)
    images = rng.normal(size=(3, N, N))
    axes = np.reshape(figures_spa.gallery_figure(images, 0.75 * images, 4.0).axes, (4, 6))
    for column in range(3):
        _, smooth, _, difference = (ax.images[0] for ax in axes[:, column])
        np.testing.assert_allclose(difference.get_array(), 0.25 * smooth.get_array(), rtol=1e-5, atol=1e-9)
        assert difference.get_clim() == smooth.get_clim()


def test_the_correlation_of_a_particle_with_the_model_is_written_above_it(rng):
    a = rng.normal(size=(N, N))
    assert figures_spa._correlation(a, 3 * a + 5) == "CC 1.00"
    assert figures_spa._correlation(a, -a) == "CC -1.00"
    assert figures_spa._correlation(a, np.ones((N, N))) == "CC not defined"


@pytest.mark.parametrize(
    "width, length", [(50, "2 nm"), (125, "5 nm"), (256, "10 nm"), (499, "10 nm"), (501, "20 nm"), (20, "0.5 nm")]
)
def test_the_scale_bar_has_a_round_length_that_fits(width, length):
    ax = figures._figure(3).subplots()
    figures_spa._scale_bar(ax, width, 2.0)
    assert ax.texts[0].get_text() == length
    drawn = np.ptp(ax.lines[0].get_xdata()) * 2.0
    assert drawn == pytest.approx(10 * float(length.split()[0]))
    assert 0.15 * width < drawn <= 0.4 * width


# --- FSC --------------------------------------------------------------------------------


def test_bands_are_drawn_for_one_cone_and_many_and_more_maps_than_colours(rng):
    frequency = np.arange(12) / 48
    falling = np.exp(-frequency * 20)
    cones = falling + 0.1 * rng.normal(size=(40, 12))
    for curves in ({"map": cones}, {"one axis": falling[None]}, {f"map {i}": cones - i / 10 for i in range(7)}):
        pixels(figures_spa.fsc_bands_figure(frequency, curves))
