"""Slices for the report: the right sections, the right way up, and one grey for one density whatever the units."""

import io

import numpy as np
import pytest
from PIL import Image

from taigs.slices import PIXELS, SIDE, SLICES, kept_sections, matched_ranges, own_range, slices_of


def decoded(plane, name="a"):
    """(k, height, width) grey values of a sheet."""
    with Image.open(io.BytesIO(plane.sheets[name])) as image:
        assert (image.format, image.mode) == ("JPEG", "L")
        return np.asarray(image, float).reshape(len(plane.labels), plane.height, plane.width)


def ramp(shape, axis):
    """A volume that rises from 0 to 1 along an axis."""
    steps = np.linspace(0, 1, shape[axis]) if shape[axis] > 1 else np.zeros(1)
    return np.broadcast_to(np.moveaxis(steps[:, None, None], 0, axis), shape)


def planes_of(volume, grey_range=(0, 1), **options):
    return slices_of({"a": volume}, {"a": grey_range}, options.pop("voxel_size", 10.0), "", **options).planes


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 64, 65, 100, 333, 1024])
def test_the_middle_section_is_kept_among_few_that_are_evenly_apart(n):
    kept = kept_sections(n)
    assert 1 <= len(kept) <= SLICES and n // 2 in kept
    assert len(kept) == n or len(kept) > SLICES / 2 - 1
    assert 0 <= kept[0] and kept[-1] < n and len(set(np.diff(kept))) <= 1
    assert kept[0] < -(-n // SLICES) and n - 1 - kept[-1] < -(-n // SLICES)


@pytest.mark.parametrize("shape", [(20, 24, 28), (7, 41, 33), (70, 20, 90)])
def test_every_slice_is_the_section_its_label_names(shape):
    """Along the axis across a plane the density tells the section, in the plane it is level."""
    for axis, plane in enumerate(planes_of(ramp(shape, 0))[:1] + planes_of(ramp(shape, 1))[1:2]):
        check_labels(plane, shape[axis])
    check_labels(planes_of(ramp(shape, 2))[2], shape[2])


def check_labels(plane, n):
    levels = decoded(plane).mean(axis=(1, 2)) / 255 * (n - 1)
    named = [int(label.split("slice ")[1].split(" of ")[0]) - 1 for label in plane.labels]
    np.testing.assert_allclose(levels, named, atol=0.02 * n)
    assert named[plane.middle] == n // 2 and plane.labels[0].endswith(f" of {n}")


@pytest.mark.parametrize(("axis", "right", "up"), [(2, "X", None), (1, "Y", "Y"), (0, None, "Z")])
def test_the_first_letter_of_a_plane_points_right_and_the_second_up(axis, right, up):
    for plane in planes_of(ramp((24, 32, 40), axis)):
        tile = decoded(plane)[plane.middle]
        rising = tile.mean(axis=0), tile.mean(axis=1)[::-1]
        assert (rising[0][-1] - rising[0][0] > 200) == (plane.name[0] == right)
        assert (rising[1][-1] - rising[1][0] > 200) == (plane.name[1] == up)


def test_positions_are_in_nanometres_from_the_centre():
    plane = planes_of(np.zeros((4, 5, 6)), voxel_size=20.0)[0]
    assert plane.labels[0] == "z = \N{MINUS SIGN}3.0 nm, slice 1 of 4" and plane.labels[3].startswith("z = 3.0 nm")
    across = [p.labels[p.middle] for p in planes_of(np.zeros((4, 4, 4)), voxel_size=20.0, centre=(2, 2, 2))]
    assert across == [f"{axis} = 0.0 nm, slice 3 of 4" for axis in "zyx"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 12), (5, 1, 3), (2, 2, 2), (3, 500, 40), (1, 3000, 2)])
def test_thin_tiny_and_lopsided_volumes_have_slices(shape):
    for plane, axis in zip(planes_of(ramp(shape, 1)), (0, 1, 2), strict=True):
        tiles = decoded(plane)
        assert plane.labels and plane.labels[plane.middle].endswith(f"slice {shape[axis] // 2 + 1} of {shape[axis]}")
        assert 1 <= max(tiles.shape[1:]) <= SIDE


def test_large_slices_are_averaged_not_thinned_out(rng):
    """A checkerboard becomes grey; picking pixels would keep it black or white."""
    board = np.indices((2, 2 * SIDE, 2 * SIDE)).sum(axis=0) % 2
    plane = planes_of(board)[0]
    assert (plane.width, plane.height) == (SIDE, SIDE)
    np.testing.assert_allclose(decoded(plane), 127.5, atol=3)


def test_slices_of_pure_noise_fit_on_a_page(rng):
    """The worst case: what cannot be compressed, in as many pixels as may be."""
    noise = rng.normal(size=(40, 400, 400)).astype(np.float32)
    volumes = {name: noise for name in "abcd"}
    found = slices_of(volumes, dict.fromkeys(volumes, (-2.5, 2.5)), 10.0, "").planes
    assert sum(len(p.labels) * p.width * p.height * len(volumes) for p in found) < 1.05 * PIXELS
    assert sum(len(sheet) for p in found for sheet in p.sheets.values()) * 4 / 3 < 5e6
    assert (found[0].width, found[0].height) == (228, 228)  # of 320, had two volumes been shown


# --- one contrast --------------------------------------------------------------------------------


def blobs(rng, shape=(24, 30, 36)):
    """Smooth density on an empty ground."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(rng.normal(size=shape), 2)
    return np.maximum(smooth - smooth.std(), 0)


def test_one_density_is_equally_grey_whatever_the_units(rng):
    density = blobs(rng)
    volumes = {"taigs": density, "WBP": -7 + 300 * density, "SIRT": 1e-6 * density + 3}
    planes = slices_of(volumes, matched_ranges(volumes, "taigs"), 10.0, "").planes
    for plane in planes:
        ours = decoded(plane, "taigs")
        assert np.ptp(ours) > 150
        for other in ("WBP", "SIRT"):
            np.testing.assert_allclose(decoded(plane, other), ours, atol=3)


def test_noise_beside_the_signal_does_not_change_its_contrast(rng):
    """A line through noise: the signal keeps its grey values, neither squeezed nor stretched."""
    density = blobs(rng, (60, 60, 60))
    noise = 2 * density.std() * rng.normal(size=density.shape)
    volumes = {"taigs": density, "noisy": 50 * (density + noise) + 9}
    ranges = matched_ranges(volumes, "taigs")
    low, high = ranges["taigs"]
    bottom, top = np.percentile(density, (0.5, 99.7))
    assert (low, high) == pytest.approx((bottom - 0.2 * (top - bottom), top))
    np.testing.assert_allclose(ranges["noisy"], (50 * low + 9, 50 * high + 9), rtol=0.05)
    assert low < 0 == bottom  # empty ground is not black: noise has room below


def test_what_does_not_correlate_or_is_constant_is_drawn_too(rng):
    density = blobs(rng)
    volumes = {"taigs": density, "noise": 8 * rng.normal(size=density.shape), "mirrored": -density}
    ranges = matched_ranges(volumes | {"empty": np.zeros(density.shape)}, "taigs")
    assert all(np.isfinite(r).all() and r[1] >= r[0] for r in ranges.values())
    width = {name: high - low for name, (low, high) in ranges.items()}
    assert width["noise"] / width["taigs"] == pytest.approx(8 / density.std(), rel=0.02)
    assert width["mirrored"] == pytest.approx(width["taigs"])
    empty = {"a": np.ones((4, 4, 4))}
    for grey in (matched_ranges(empty, "a")["a"], own_range(empty["a"])):
        assert decoded(planes_of(empty["a"], grey)[0]).max() == 0


def test_grey_values_of_a_large_volume_come_from_samples_of_all_of_it():
    volume = np.broadcast_to(np.linspace(0, 1, 300)[:, None, None], (300, 300, 300))
    assert own_range(volume) == pytest.approx((0.005, 0.997), abs=0.01)
