"""What a cloud fitted to a map is worth: beside voxels of as many bytes, and what keeps it from being truer."""

import numpy as np
from scipy import fft

from taigs.errors import InputError
from taigs.masks import mask_from_map
from taigs.metrics import describe_crossing, first_crossing, frequencies, fsc, ncc, transform_fsc

NEARLY = 0.9  # of Nyquist: an FSC that holds so far is not limited by anything worth a word
NEGATIVE = 0.995  # CC of the map with its positive part, below which that limits a cloud worth mentioning
EVEN = 0.5  # share of what is missed: with more of it outside the molecule, that is background for the most part


def fidelity_in_words(fit, target):
    """Size and fidelity of a VolumeFit, and whether coarser voxels of as many bytes do better, in two sentences.

    Parameters
    ----------
    fit : taigs.volume_fit.VolumeFit
    target : (nz, ny, nx) array
        What was fitted.

    Returns
    -------
    str
    """
    last, voxel_size = fit.rows[-1], fit.grid.voxel_size
    cc, resolution = coarse_voxels(target, last.ratio, voxel_size)
    truer, finer = last.cc > cc, (last.resolution or 0) < (resolution or 0)
    verdict = {
        (True, True): "is better by both measures",
        (True, False): "is better by correlation, but not by FSC",
        (False, True): "is better by FSC, but not by correlation",
        (False, False): "is not better by either measure",
    }[truer, finer]
    return (
        f"{last.gaussians:,} Gaussians reach a correlation of {last.cc:.4f} with the map at 1/{last.ratio:.1f} of its "
        f"bytes, FSC 0.5: {describe_crossing(last.resolution)}. Compared with voxels of "
        f"{voxel_size * last.ratio ** (1 / 3):.1f} Å, which take as many bytes (correlation {cc:.4f}, FSC 0.5: "
        f"{describe_crossing(resolution)}), the model {verdict}."
    )


def coarse_voxels(target, ratio, voxel_size):
    """The map on a coarser grid, of 1 / ratio as many voxels.

    Cropping in Fourier space is the best that such a grid can hold.

    Returns
    -------
    cc : float
        Correlation with the map.
    resolution : float or None
        Angstrom, where the FSC with the map falls below 0.5.
    """
    transform = fft.rfftn(target, workers=-1)
    edge = 0.5 / ratio ** (1 / 3)
    kz, ky, kx = (np.abs(k) / max(target.shape) < edge for k in frequencies(target.shape))
    cropped = transform * (kz & ky & kx)
    curve, _ = transform_fsc(cropped, transform, target.shape)
    cc = ncc(fft.irfftn(cropped, target.shape, workers=-1), target)
    return cc, first_crossing(curve, 0.5, max(target.shape), voxel_size)


def negative_limit(target, signed):
    """That negative density limits a positive model, in a sentence; "" where it hardly does."""
    best = ncc(np.maximum(target, 0), target)
    if signed or not target.max() > 0 or best >= NEGATIVE:
        return ""
    return f"without --signed, negative density limits the CC to about {best:.3f}"


def fsc_limit(fit, target):
    """What limits the FSC of a VolumeFit, as far as it can be measured, in a sentence or two; "" if nothing does.

    Beyond the first crossing of FSC = 0.5, does the model miss the molecule, or what lies around it? Around a molecule
    there is nothing to be found: what a map holds there is noise, or an artefact of the reconstruction.

    Parameters
    ----------
    fit : taigs.volume_fit.VolumeFit
    target : (nz, ny, nx) array
        What was fitted.

    Returns
    -------
    str
    """
    resolution, voxel_size = fit.rows[-1].resolution, fit.grid.voxel_size
    if resolution is None or resolution <= 2 * voxel_size / NEARLY:
        return ""
    share = _power(_finer(target, resolution, voxel_size)) / _power(target - target.mean(dtype=np.float64))
    start = f"What is finer than {resolution:.1f} Å makes up {share:.1%} of the map's variance"
    try:
        soft = mask_from_map(target, voxel_size)
    except InputError:
        return f"{start}; no molecule stands out of the map, to tell density from noise."
    missed = _finer(target - fit.volume, resolution, voxel_size)
    outside = _power(missed[soft.mask == 0]) / _power(missed)
    inside = first_crossing(fsc(fit.volume, target, soft.mask)[0], 0.5, max(target.shape), voxel_size)
    cause = (
        "outside the molecule, where a map holds noise: noise is what limits the FSC, for the most part"
        if outside > EVEN
        else "outside the molecule: its own detail limits the FSC, more than noise around it"
    )
    return (
        f"{start}; {outside:.0%} of what the model misses there lies {cause}. Within a mask around the molecule "
        f"({soft.fraction:.0%} of the box), FSC 0.5: {describe_crossing(inside)}."
    )


def _finer(volume, resolution, voxel_size):
    """The part of a volume that is finer than a resolution (A), up to Nyquist."""
    n = max(volume.shape)
    shell = np.sqrt(sum(k**2 for k in frequencies(volume.shape)))
    band = (shell >= n * voxel_size / resolution) & (shell <= n / 2)
    return fft.irfftn(fft.rfftn(volume, workers=-1) * band, volume.shape, workers=-1)


def _power(values):
    return float(np.vdot(values, values))
