"""Two half maps and their mask, read from files and checked against each other."""

import os
import warnings
from dataclasses import dataclass

import numpy as np

from taigs.errors import InputError, InputWarning
from taigs.io.mrc import read_volume
from taigs.masks import check_mask, mask_from_map

VOXEL_SIZE_TOLERANCE = 0.01
AUTO_MASK = "auto_mask.mrc"


@dataclass(frozen=True)
class HalfMaps:
    """Two maps of one shape, [z, y, x], and the mask they are scored under, if any."""

    names: tuple
    volumes: tuple
    voxel_size: float  # Angstrom
    mask: np.ndarray | None = None
    mask_name: str | None = None
    mask_words: str = "none"

    @property
    def average(self):
        return (self.volumes[0] + self.volumes[1]) / 2

    @property
    def box(self):
        """Sizes x, y, z in words."""
        return _box(self.volumes[0])


def read_half_maps(path1, path2, voxel_size=None, mask=None, auto_mask=False):
    """Read two half maps, and read or make their mask.

    Parameters
    ----------
    path1, path2 : path-like
        MRC files.
    voxel_size : float, optional
        Angstrom, in place of the headers'.
    mask : path-like, optional
    auto_mask : bool
        Make the mask from the average of the maps.

    Returns
    -------
    HalfMaps

    Raises
    ------
    InputError
        The files are one and the same, or the maps differ in shape or by more than 1 % in voxel size, have
        none, or hold NaN; the mask does not fit.
    ResourceError
        A file may not be read.

    Warns
    -----
    InputWarning
        The maps are identical; the mask's voxel size differs.
    """
    if os.path.exists(path1) and os.path.exists(path2) and os.path.samefile(path1, path2):
        raise InputError(f"{path1}, {path2}: one and the same file; expected two half maps")
    (a, header_a), (b, header_b) = (_read_finite(path) for path in (path1, path2))
    if a.shape != b.shape:
        raise InputError(f"{path1} is {_box(a)}, {path2} is {_box(b)} voxels (x, y, z); expected the same")
    voxel_size = voxel_size or _common_voxel_size((path1, path2), (header_a, header_b))
    if np.array_equal(a, b):
        warnings.warn(
            f"{path1} and {path2} hold the same map: its FSC is 1 whatever it shows", InputWarning, stacklevel=2
        )
    found, name, words = None, None, "none"
    if mask is not None:
        found = read_mask(mask, a.shape, voxel_size)
        name, words = str(mask), f"{mask}, {found.mean(dtype=np.float64):.1%} of the box"
    elif auto_mask:
        made = mask_from_map((a + b) / 2, voxel_size)
        found, name, words = made.mask, AUTO_MASK, _describe_made(made)
    return HalfMaps((str(path1), str(path2)), (a, b), voxel_size, found, name, words)


def read_mask(path, shape, voxel_size):
    """A mask from a file, (nz, ny, nx), checked by `check_mask` against maps of `shape`.

    Raises
    ------
    InputError, ResourceError
        As `read_half_maps`.

    Warns
    -----
    InputWarning
        Its voxel size differs by more than 1 %.
    """
    mask, header = _read_finite(path)
    try:
        check_mask(mask, shape)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if header.voxel_size and abs(header.voxel_size[0] / voxel_size - 1) > VOXEL_SIZE_TOLERANCE:
        text = f"{path}: voxel size {header.voxel_size[0]:g} Å, the half maps {voxel_size:g} Å; the maps' is used"
        warnings.warn(text, InputWarning, stacklevel=3)
    return mask


def _read_finite(path):
    volume, header = read_volume(path)
    bad = ~np.isfinite(volume)
    if bad.any():
        first = tuple(int(i) for i in np.unravel_index(bad.argmax(), volume.shape))
        raise InputError(f"{path}: {np.count_nonzero(bad)} NaN or infinite voxels, the first at (z, y, x) = {first}")
    return volume, header


def _common_voxel_size(paths, headers):
    sizes = []
    for path, header in zip(paths, headers, strict=True):
        if header.voxel_size is None:
            raise InputError(f"{path}: no voxel size in the header; try --pixel-size")
        if max(header.voxel_size) / min(header.voxel_size) - 1 > VOXEL_SIZE_TOLERANCE:
            text = " x ".join(f"{size:g}" for size in header.voxel_size)
            raise InputError(f"{path}: voxels of {text} Å; expected cubes; try --pixel-size")
        sizes.append(header.voxel_size[0])
    if abs(sizes[1] / sizes[0] - 1) > VOXEL_SIZE_TOLERANCE:
        raise InputError(
            f"{paths[0]} has voxels of {sizes[0]:g} Å, {paths[1]} of {sizes[1]:g} Å; "
            "expected the same; try --pixel-size"
        )
    return sizes[0]


def _describe_made(made):
    return (
        f"made from the average: low-pass {made.lowpass:.0f} Å, threshold {made.threshold:.3g}, "
        f"{made.fraction:.1%} of the box"
    )


def _box(volume):
    return " x ".join(str(n) for n in volume.shape[::-1])
