"""Masks cover what they should, whatever the map's background; masks from elsewhere are checked."""

import numpy as np
import pytest
from scipy import ndimage

from taigs import masks
from taigs.errors import InputError

VOXEL_SIZE = 3.0


def structure(shape=(48, 48, 48), seed=0):
    """(density, region): blobs of 7 Angstrom radius strewn in a ball off the centre, and where they are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(60, 3))
    centres *= 10 * rng.random((60, 1)) ** (1 / 3) / np.linalg.norm(centres, axis=1, keepdims=True)
    seeds = np.zeros(shape)
    index = np.rint(centres + np.array(shape) / 2 + (2, -1, 0)).astype(int)
    np.add.at(seeds, tuple(index.T), 1)
    return ndimage.gaussian_filter(seeds, 7 / 3 / VOXEL_SIZE), seeds > 0


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("positive on nothing, as a voxelised model", lambda v, rng: v),
        ("as large numbers on an offset", lambda v, rng: 1e5 * v + 300),
        ("in white noise as strong as itself", lambda v, rng: v + v.std() * rng.normal(size=v.shape)),
        ("in three times as much noise", lambda v, rng: v + 3 * v.std() * rng.normal(size=v.shape)),
    ],
)
def test_the_mask_covers_the_structure_and_little_else(kind, make, rng):
    volume, region = structure()
    made = masks.mask_from_map(make(volume, rng), VOXEL_SIZE)
    assert made.mask[region].mean() > 0.99
    # Twice the volume that the structure has within 3 + 3 voxels, where the edge is half way.
    near = ndimage.distance_transform_edt(~region) <= 6
    assert 0.5 * near.mean() < made.fraction < 2 * near.mean()
    assert made.mask.dtype == np.float32
    assert masks.check_mask(made.mask, volume.shape)[1] == ()


def test_more_noise_is_met_by_more_smoothing():
    volume, _ = structure()
    noise = np.random.default_rng(1).normal(size=volume.shape)
    clean, noisy = (masks.mask_from_map(volume + k * volume.std() * noise, VOXEL_SIZE) for k in (0.1, 4))
    assert clean.lowpass == 15 < noisy.lowpass


def test_the_grid_of_the_map_does_not_change_the_threshold_much():
    volume, _ = structure()
    coarse = volume.reshape(24, 2, 24, 2, 24, 2).mean(axis=(1, 3, 5))
    fine, rough = masks.mask_from_map(volume, VOXEL_SIZE), masks.mask_from_map(coarse, 2 * VOXEL_SIZE)
    assert rough.threshold == pytest.approx(fine.threshold, rel=0.2)


def test_the_mask_is_one_inside_falls_as_a_cosine_and_ends():
    volume = np.zeros((40, 40, 40))
    volume[20, 20, 20] = 1
    made = masks.mask_from_map(volume, 1.0, lowpass=1e-6, threshold=0.5, extend_px=3, edge_px=6)
    profile = made.mask[20, 20, 20:]
    np.testing.assert_array_equal(profile[:4], 1)
    np.testing.assert_allclose(profile[3:10], (1 + np.cos(np.pi * np.arange(7) / 6)) / 2, atol=1e-6)
    np.testing.assert_array_equal(profile[9:], 0)
    assert made.fraction == pytest.approx(made.mask.mean())


def test_an_edge_of_no_width_is_sharp_and_said_to_be():
    volume, _ = structure()
    made = masks.mask_from_map(volume, VOXEL_SIZE, edge_px=0)
    assert set(np.unique(made.mask)) == {0, 1}
    assert "sharp edge" in masks.check_mask(made.mask, volume.shape)[1][0]


def test_small_parts_are_left_out_and_large_ones_kept():
    volume = np.zeros((48, 48, 48))
    volume[8:20, 8:20, 8:20] = 1
    volume[28:36, 28:36, 28:36] = 1  # 30 % of the first
    volume[40:43, 8:11, 40:43] = 1
    made = masks.mask_from_map(volume, 1.0, lowpass=2.0, extend_px=0, edge_px=6)
    assert made.mask[14, 14, 14] == made.mask[32, 32, 32] == 1
    assert made.mask[41, 9, 41] == 0


def test_a_mask_of_a_volume_that_is_no_cube_has_its_shape():
    volume, _ = structure((40, 52, 46))
    assert masks.mask_from_map(volume, VOXEL_SIZE).mask.shape == (40, 52, 46)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volume": np.ones((8, 8))}, "three axes"),
        ({"volume": np.full((8, 8, 8), np.nan)}, "finite voxels"),
        ({"voxel_size": 0.0}, "expected the first two positive"),
        ({"edge_px": -1.0}, "no negative width"),
        ({"threshold": 1e9}, "no voxel of the low-passed map exceeds"),
        ({"volume": np.random.default_rng(0).normal(size=(32, 32, 32))}, "no structure stands out"),
        ({"volume": np.zeros((16, 16, 16))}, "no structure stands out"),
        ({"volume": -structure()[0]}, "no structure stands out"),
    ],
)
def test_maps_without_a_mask_are_refused(changes, message):
    arguments = {"volume": structure()[0], "voxel_size": VOXEL_SIZE}
    with pytest.raises(InputError, match=message):
        masks.mask_from_map(**(arguments | changes))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((8, 8, 7)), r"mask has shape \(8, 8, 7\), the maps \(8, 8, 8\)"),
        (np.full((8, 8, 8), np.inf), "NaN or infinite"),
        (np.full((8, 8, 8), 1.1), "values from 1.1 to 1.1; expected 0 to 1"),
        (np.full((8, 8, 8), -0.1), "values from -0.1"),
        (np.zeros((8, 8, 8)), "mask is empty"),
    ],
)
def test_unusable_masks_are_named_and_refused(mask, message):
    with pytest.raises(InputError, match=message):
        masks.check_mask(mask, (8, 8, 8))


def test_a_mask_of_ones_is_used_and_named():
    mask, warned = masks.check_mask(np.ones((8, 8, 8)), (8, 8, 8))
    np.testing.assert_array_equal(mask, 1)
    assert warned == ("the mask is 1 everywhere: it masks nothing",)


def test_rounding_beyond_the_limits_is_cut_off():
    mask, _ = masks.check_mask(np.linspace(-5e-4, 1 + 5e-4, 512).reshape(8, 8, 8), (8, 8, 8))
    assert mask.min() == 0 and mask.max() == 1
