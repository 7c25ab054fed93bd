"""Soft masks: made from a map, and checked before use."""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from taigs.errors import InputError
from taigs.metrics import frequencies

STRAY = 1e-3  # how far a mask may leave [0, 1]: interpolation and 16-bit files do
SMOOTHER = (1, 4 / 3, 2, 8 / 3, 4)  # low-passes tried, as multiples of the first, until the structure stands out
NOISE_SIGMAS = 2.5  # the least height of a threshold above the background
SMALLEST_PART = 0.1  # of the largest connected part; smaller ones are taken for noise
BINS = 512


@dataclass(frozen=True)
class SoftMask:
    """A mask made from a map, (nz, ny, nx) float32 in [0, 1], and how."""

    mask: np.ndarray
    threshold: float  # of the low-passed map
    lowpass: float  # Angstrom

    @property
    def fraction(self):
        """Mean of the mask: its share of the volume of the box."""
        return float(self.mask.mean(dtype=np.float64))


def mask_from_map(volume, voxel_size, lowpass=15.0, threshold=None, extend_px=3.0, edge_px=6.0):
    """A soft mask around the bright structure of a map: low-pass, threshold, extend, raised-cosine edge.

    The automatic threshold lies half way between the background (the median) and the threshold that parts
    the grey values into two classes (Otsu 1979), which keeps weak domains. It must stand 2.5 standard
    deviations above the background, as that scatters below its median; while it does not, a smoother map is
    tried. Parts smaller than a tenth of the largest are left out.

    Parameters
    ----------
    volume : (nz, ny, nx) array_like
        Structure bright; for half maps their average.
    voxel_size : float
        Angstrom.
    lowpass : float
        Angstrom; where a Gaussian low-pass falls to half amplitude.
    threshold : float, optional
        Of the low-passed map, in place of the automatic one.
    extend_px, edge_px : float
        Voxels by which the thresholded region grows, and width of the edge around that.

    Returns
    -------
    SoftMask

    Raises
    ------
    InputError
        The map is not finite or not 3D, a width is negative, or no structure stands out.
    """
    volume = np.asarray(volume, np.float64)
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise InputError(f"map of shape {volume.shape}; expected three axes (z, y, x) and finite voxels")
    if not (voxel_size > 0 and lowpass > 0 and extend_px >= 0 and edge_px >= 0):
        raise InputError(
            f"voxel size {voxel_size}, low-pass {lowpass}, extension {extend_px}, edge {edge_px}; "
            "expected the first two positive and no negative width"
        )
    region, threshold, lowpass = _threshold(volume, voxel_size, lowpass, threshold)
    distance = ndimage.distance_transform_edt(~_large_parts(region))
    outside = np.clip((distance - extend_px) / max(edge_px, 1e-6), 0, 1)
    mask = (0.5 + 0.5 * np.cos(np.pi * outside)).astype(np.float32)
    return SoftMask(mask, float(threshold), float(lowpass))


def check_mask(mask, shape):
    """A mask as float64 in [0, 1], and what is odd about it.

    Parameters
    ----------
    mask : array_like
    shape : (nz, ny, nx)
        Of the maps it is for.

    Returns
    -------
    mask : (nz, ny, nx) float64 array
    warnings : tuple of str
        It masks nothing, or its edge is sharp.

    Raises
    ------
    InputError
        It has another shape, is not finite, leaves [0, 1] or is empty.
    """
    mask = np.asarray(mask, np.float64)
    if mask.shape != tuple(shape):
        raise InputError(f"mask has shape {mask.shape}, the maps {tuple(shape)}; expected the same")
    if not np.isfinite(mask).all():
        raise InputError("mask holds NaN or infinite voxels; expected 0 to 1")
    low, high = mask.min(), mask.max()
    if low < -STRAY or high > 1 + STRAY:
        raise InputError(f"mask has values from {low:.4g} to {high:.4g}; expected 0 to 1")
    if high <= STRAY:
        raise InputError("mask is empty: every voxel is 0; expected 1 where the structure is")
    mask = np.clip(mask, 0, 1)
    if low >= 1 - STRAY:
        return mask, ("the mask is 1 everywhere: it masks nothing",)
    soft = np.count_nonzero((mask > STRAY) & (mask < 1 - STRAY))
    surface = 4.8 * np.count_nonzero(mask > 0.5) ** (2 / 3)  # a ball's; that of any other shape is larger
    return mask, () if soft > 2 * surface else ("the mask has a sharp edge, which alone correlates the half maps",)


def _threshold(volume, voxel_size, lowpass, threshold):
    """(region above the threshold, threshold, low-pass); see `mask_from_map`."""
    mean = volume.mean()  # apart, so that a large offset costs no digits
    transform = fft.rfftn(volume - mean, workers=-1)
    k2 = sum(k**2 for k in frequencies(volume.shape)) / (max(volume.shape) * voxel_size) ** 2  # 1/Angstrom^2
    for resolution in np.multiply(SMOOTHER, lowpass):
        smooth = fft.irfftn(transform * 0.5 ** (k2 * resolution**2), volume.shape, workers=-1, overwrite_x=True)
        if threshold is not None:
            region = smooth > threshold - mean
            if not region.any():
                raise InputError(
                    f"no voxel of the low-passed map exceeds {threshold:.4g}; its largest is {smooth.max() + mean:.4g}"
                )
            return region, threshold, resolution
        background, below = np.percentile(smooth, (50, 15.87))
        candidate = (background + _otsu(smooth)) / 2
        if candidate > background + NOISE_SIGMAS * (background - below):
            return smooth > candidate, candidate + mean, resolution
    raise InputError("no structure stands out of the map, even low-passed; expected it bright; try a mask of your own")


def _otsu(values):
    """The threshold with the largest variance between the two classes it parts `values` into."""
    if np.ptp(values) == 0:
        return values.flat[0]
    counts, edges = np.histogram(values, BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    total = np.cumsum(counts * centres)
    above = values.size - below
    return edges[1:-1][np.argmax((total[-1] * below / values.size - total[:-1]) ** 2 / (below * above))]


def _large_parts(region):
    """The connected parts of a bool volume that hold at least a tenth of the voxels of the largest."""
    labels, _ = ndimage.label(region)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= SMALLEST_PART * sizes.max())[labels] & region
