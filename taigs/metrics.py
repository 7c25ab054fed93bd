"""Scores of one volume against another: Fourier shell correlation, correlation, PSNR.

All volumes are [z, y, x]. Shell s holds the coefficients with round(|k| N) = s, where |k| is in cycles
per voxel and N is the longest edge, so that the shells of a slab mean the same frequency on every axis.
The real transform stores half of Fourier space. With hermitian weights a coefficient whose mirror image is
not stored counts twice, which makes every sum the sum over the whole of Fourier space; RELION's weights are
1 for whatever is stored, so that the plane kx = 0 counts twice as much as the rest.
"""

import numpy as np
from scipy import fft

from taigs.errors import InputError

FIRST_RELIABLE_SHELL = 3  # shells 1 and 2 hold few coefficients: a dip there is not a resolution
WEIGHTS = ("hermitian", "relion")


def fsc(a, b, mask=None, region=None, weights="hermitian"):
    """Fourier shell correlation of two volumes.

    FSC(s) = Re sum F_a conj(F_b) / sqrt(sum |F_a|^2 sum |F_b|^2), sums over shell s (Harauz & van Heel 1986).

    Parameters
    ----------
    a, b : (nz, ny, nx) array_like
    mask : (nz, ny, nx) array_like, optional
        Both volumes are multiplied by it first.
    region : (nz, ny, nx // 2 + 1) bool array, optional
        Coefficients that count, as from `wedge_region`; default all.
    weights : {"hermitian", "relion"}
        "relion" gives the numbers of relion_postprocess, "hermitian" those of the definition.

    Returns
    -------
    curve : (N // 2 + 1,) float64 array
        0 where a shell is empty or without power.
    counts : (N // 2 + 1,) float64 array
        Fourier coefficients per shell.

    Raises
    ------
    InputError
        The arrays are not 3D, differ in shape, or are not finite.
    """
    a, b = checked_pair(a, b)
    if mask is not None:
        mask = _same_shape("mask", mask, a.shape)
        a, b = a * mask, b * mask
    return transform_fsc(fft.rfftn(a, workers=-1), fft.rfftn(b, workers=-1), a.shape, region, weights)


def wedge_region(shape, max_tilt_deg):
    """The part of Fourier space that a single-axis tilt series measures.

    Tilt axis y, beam z: |kz| <= |kx| tan(max_tilt), k in cycles per voxel.

    Parameters
    ----------
    shape : (nz, ny, nx)
    max_tilt_deg : float
        Largest tilt angle, between 0 and 90 degrees.

    Returns
    -------
    (nz, ny, nx // 2 + 1) bool array
        True where measured; its negation is the missing wedge.

    Raises
    ------
    InputError
        The angle is not between 0 and 90 degrees.
    """
    if not 0 < max_tilt_deg < 90:
        raise InputError(f"largest tilt {max_tilt_deg} degrees; expected between 0 and 90")
    kz, _, kx = frequencies(shape)
    # The tolerance keeps coefficients that lie exactly on the border on the measured side.
    measured = np.abs(kz) <= np.abs(kx) * np.tan(np.radians(max_tilt_deg)) + 1e-9
    return np.broadcast_to(measured, (*shape[:2], shape[2] // 2 + 1))


def mean_fsc(curve):
    """Mean of an FSC curve over shells 1 to Nyquist, by the trapezoid rule; in [-1, 1]."""
    curve = np.asarray(curve, np.float64)[1:]
    return float((curve[1:] + curve[:-1]).sum() / 2 / (len(curve) - 1))


def first_crossing(curve, threshold, n, voxel_size):
    """Resolution at which an FSC curve first falls below a threshold.

    Parameters
    ----------
    curve : (n // 2 + 1,) array_like
        FSC at shells 0 to Nyquist.
    threshold : float
        0.143 for independent half maps, 0.5 against a known truth.
    n : int
        Longest edge of the volumes, voxels.
    voxel_size : float
        Angstrom.

    Returns
    -------
    float or None
        Angstrom, linear between shells; None if the curve never falls below the threshold.
    """
    curve = np.asarray(curve, np.float64)
    below = np.flatnonzero(curve[FIRST_RELIABLE_SHELL:] < threshold)
    if len(below) == 0:
        return None
    shell = below[0] + FIRST_RELIABLE_SHELL
    above, under = curve[shell - 1], curve[shell]
    # Below the threshold from the start on: only the shell before is known.
    step = (above - threshold) / (above - under) if above >= threshold else 0.0
    return float(n * voxel_size / (shell - 1 + step))


def describe_crossing(resolution):
    """A `first_crossing` in words: a curve that never crosses has no resolution to quote."""
    return "not crossed: at or beyond Nyquist" if resolution is None else f"{resolution:.1f} Å"


def ncc(a, b, mask=None):
    """Normalised cross-correlation of two arrays about their means.

    Parameters
    ----------
    a, b : arrays of one shape
    mask : array of that shape, optional
        Weight of each voxel, in the means too; default 1.

    Returns
    -------
    float
        In [-1, 1]; 0 if either array is constant.

    Raises
    ------
    InputError
        The shapes differ.
    """
    a = np.asarray(a, np.float64)
    b = _same_shape("second volume", b, a.shape)
    w = np.ones(a.shape) if mask is None else _same_shape("mask", mask, a.shape)
    a = a - (w * a).sum() / w.sum()
    b = b - (w * b).sum() / w.sum()
    power = (w * a * a).sum() * (w * b * b).sum()
    return float((w * a * b).sum() / np.sqrt(power)) if power > 0 else 0.0


def psnr(volume, truth):
    """Peak signal-to-noise ratio in dB, after the best scale and offset of `volume`.

    10 log10(range(truth)^2 / mean squared error): reconstructions have no absolute scale.

    Parameters
    ----------
    volume, truth : arrays of one shape

    Returns
    -------
    float
        inf if the fit is exact.

    Raises
    ------
    InputError
        The shapes differ.
    """
    truth = np.asarray(truth, np.float64)
    volume = _same_shape("volume", volume, truth.shape)
    # The least-squares line leaves (1 - r^2) of the truth's variance.
    error = truth.var() * (1 - ncc(volume, truth) ** 2)
    return float(10 * np.log10(np.ptp(truth) ** 2 / error)) if error > 0 else float("inf")


def wedge_scores(volume, truth, max_tilt_deg):
    """How well a tomogram agrees with the truth, inside and outside the missing wedge.

    Parameters
    ----------
    volume, truth : (nz, ny, nx) array_like
    max_tilt_deg : float
        Largest tilt angle of the series, degrees; tilt axis y, beam z.

    Returns
    -------
    dict
        ``ncc``; mean FSC over all coefficients (``fsc``), in the measured region (``fsc_measured``)
        and in the missing wedge (``fsc_wedge``).

    Raises
    ------
    InputError
        As `fsc` and `wedge_region`.
    """
    volume, truth = checked_pair(volume, truth)
    measured = wedge_region(truth.shape, max_tilt_deg)
    transforms = [fft.rfftn(v, workers=-1) for v in (volume, truth)]
    scores = {"ncc": ncc(volume, truth)}
    for name, region in (("fsc", None), ("fsc_measured", measured), ("fsc_wedge", ~measured)):
        scores[name] = mean_fsc(transform_fsc(*transforms, truth.shape, region)[0])
    return scores


def transform_fsc(fa, fb, shape, region=None, weights="hermitian"):
    """`fsc` of two volumes of `shape` from their half transforms, (nz, ny, nx // 2 + 1) complex."""
    if weights not in WEIGHTS:
        raise InputError(f"weights {weights!r}; expected one of {', '.join(WEIGHTS)}")
    weight = np.ones(fa.shape[2])
    if weights == "hermitian":
        weight[1 : (shape[2] + 1) // 2] = 2.0  # not kx = 0 and, for even nx, Nyquist: their mirror images are stored
    weight = np.broadcast_to(weight, fa.shape)
    if region is not None:
        weight = weight * _same_shape("region", region, fa.shape)
    n_shells = max(shape) // 2 + 1
    shells = shell_numbers(shape).ravel()

    def shell_sum(values):
        return np.bincount(shells, (weight * values).ravel(), n_shells + 1)[:n_shells]

    cross = shell_sum(fa.real * fb.real + fa.imag * fb.imag)
    power = np.sqrt(shell_sum(np.abs(fa) ** 2) * shell_sum(np.abs(fb) ** 2))
    curve = np.divide(cross, power, out=np.zeros(n_shells), where=power > 0)
    return curve, shell_sum(1.0)


def shell_numbers(shape):
    """Shell of each coefficient of the half transform; N // 2 + 1 for all beyond Nyquist, the corners."""
    kz, ky, kx = frequencies(shape)
    shells = np.rint(np.sqrt(kx**2 + ky**2 + kz**2)).astype(np.int64)
    return np.minimum(shells, max(shape) // 2 + 1)


def frequencies(shape):
    """(kz, ky, kx) of the half transform, broadcastable, in units of 1 / (longest edge)."""
    n = max(shape)
    kz = fft.fftfreq(shape[0])[:, None, None] * n
    ky = fft.fftfreq(shape[1])[None, :, None] * n
    kx = fft.rfftfreq(shape[2])[None, None, :] * n
    return kz, ky, kx


def checked_pair(a, b):
    """Two finite float64 volumes of one shape, or InputError."""
    a = np.asarray(a, np.float64)
    if a.ndim != 3:
        raise InputError(f"first volume has shape {a.shape}; expected three axes (z, y, x)")
    b = _same_shape("second volume", b, a.shape)
    for name, volume in (("first", a), ("second", b)):
        if not np.isfinite(volume).all():
            raise InputError(f"{name} volume holds NaN or infinite voxels; expected finite numbers")
    return a, b


def _same_shape(name, array, shape):
    array = np.asarray(array, np.float64)
    if array.shape != tuple(shape):
        raise InputError(f"{name} has shape {array.shape}; expected {tuple(shape)}")
    return array
