"""Sharpening: the B-factor of a map from its Guinier plot, and the weights that its FSC deserves."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import fft

from taigs.errors import InputError
from taigs.metrics import first_crossing, frequencies, shell_numbers

FIT_FROM = 10.0  # Angstrom: at lower resolution the shape of the molecule, not the B-factor, sets the amplitudes
WORST_RESOLUTION = 5.0  # Angstrom, for an automatic B-factor: below it the window of the fit is too short
FEWEST_SHELLS = 4
LARGEST_BFACTOR = 500.0  # Angstrom^2
LOG_NOTHING = -99.0  # what RELION writes for the logarithm of 0


@dataclass(frozen=True)
class Guinier:
    """ln of the mean amplitude in each shell, and the line fitted to the FSC-weighted one.

    ``slope``, ``intercept`` and ``correlation`` (squared, as RELION gives it) are None where nothing was
    fitted. Amplitudes are those of the transform divided by the number of voxels; the logarithm of 0 is -99.
    """

    resolution_squared: np.ndarray  # 1/d^2 of each shell, 1/Angstrom^2
    original: np.ndarray
    weighted: np.ndarray
    sharpened: np.ndarray
    slope: float | None = None  # Angstrom^2
    intercept: float | None = None
    correlation: float | None = None


@dataclass(frozen=True)
class Sharpened:
    """A sharpened map, (nz, ny, nx) float32."""

    volume: np.ndarray
    bfactor: float  # applied, Angstrom^2; negative sharpens
    guinier: Guinier


def fsc_weights(curve):
    """sqrt(2 FSC / (1 + FSC)): the correlation of each shell of the averaged map with the truth.

    Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721. From the first shell that is not positive on, 0.

    Parameters
    ----------
    curve : (S,) array_like
        FSC of two half maps.

    Returns
    -------
    (S,) float64 array
    """
    curve = np.asarray(curve, np.float64)
    weights = np.where(np.logical_and.accumulate(curve > 0), curve, 0)
    return np.sqrt(2 * weights / (1 + weights))


def sharpen(volume, voxel_size, bfactor=None, fsc=None):
    """Multiply a map by the weights of its FSC and by exp(-B / (4 d^2)).

    The automatic B-factor is four times the slope of ln(weighted amplitude) against 1/d^2, by least squares
    over the shells from 10 Angstrom to the last one with any weight, as RELION does. Where the window is
    short, that slope is the molecule's shape rather than a B-factor: at a resolution worse than 5 Angstrom
    nothing is sharpened, and no B-factor exceeds 500 Angstrom^2 in size.

    Parameters
    ----------
    volume : (nz, ny, nx) array_like
        Average of the half maps.
    voxel_size : float
        Angstrom.
    bfactor : float, optional
        Angstrom^2, negative to sharpen; default automatic, which needs `fsc`.
    fsc : (N // 2 + 1,) array_like, optional
        Corrected FSC of the half maps; without it, nothing is weighted.

    Returns
    -------
    Sharpened

    Raises
    ------
    InputError
        The map is not 3D or not finite, `fsc` has another length, or neither it nor `bfactor` is given.

    Warns
    -----
    UserWarning
        The automatic B-factor was left out or limited.
    """
    volume = np.asarray(volume, np.float64)
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise InputError(f"map of shape {volume.shape}; expected three axes (z, y, x) and finite voxels")
    n = max(volume.shape)
    n_shells = n // 2 + 1
    if fsc is None and bfactor is None:
        raise InputError("an automatic B-factor needs the FSC; expected fsc or bfactor")
    if fsc is not None and len(fsc) != n_shells:
        raise InputError(f"FSC of {len(fsc)} shells; expected {n_shells} for a map of {n} voxels")
    transform = fft.rfftn(volume, workers=-1)
    shells = shell_numbers(volume.shape)

    def log_amplitudes():
        return _log_amplitudes(transform, shells, n_shells, volume.size)

    original = log_amplitudes()
    if fsc is not None:
        transform *= np.append(fsc_weights(fsc), 0)[shells]  # nothing is known beyond Nyquist
    weighted = log_amplitudes()
    squared = (np.arange(n_shells) / (n * voxel_size)) ** 2
    line = (None, None, None)
    if bfactor is None:
        line = fit_line(squared, weighted)
        bfactor = _careful_bfactor(line[0], first_crossing(fsc, 0.143, n, voxel_size) or 2 * voxel_size)
    transform *= np.exp(-bfactor / 4 * sum(k**2 for k in frequencies(volume.shape)) / (n * voxel_size) ** 2)
    guinier = Guinier(squared, original, weighted, log_amplitudes(), *line)
    sharpened = fft.irfftn(transform, volume.shape, workers=-1, overwrite_x=True)
    return Sharpened(sharpened.astype(np.float32), float(bfactor), guinier)


def fit_line(resolution_squared, log_amplitudes, fit_from=FIT_FROM):
    """Least-squares line through a Guinier plot: (slope, intercept, squared correlation), or Nones for too few shells.

    Shells finer than `fit_from` Angstrom that hold anything count.
    """
    used = (resolution_squared >= (1 - 1e-6) / fit_from**2) & (log_amplitudes > LOG_NOTHING)
    if np.count_nonzero(used) < FEWEST_SHELLS:
        return None, None, None
    x, y = resolution_squared[used], log_amplitudes[used]
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1] ** 2)


def _careful_bfactor(slope, resolution):
    if slope is None or resolution > WORST_RESOLUTION:
        warnings.warn(
            f"no B-factor can be fitted at a resolution of {resolution:.1f} Å: that needs {WORST_RESOLUTION:g} Å "
            "or better; the map is weighted by its FSC only; a B-factor can be given",
            stacklevel=3,
        )
        return 0.0
    bfactor = 4 * slope
    if not -LARGEST_BFACTOR <= bfactor <= 0:
        limited = float(np.clip(bfactor, -LARGEST_BFACTOR, 0))
        warnings.warn(
            f"the fitted B-factor of {bfactor:.0f} Å² is not credible; {limited:.0f} Å² is applied", stacklevel=3
        )
        return limited
    return bfactor


def _log_amplitudes(transform, shells, n_shells, voxels):
    sums = np.bincount(shells.ravel(), np.abs(transform).ravel(), n_shells + 1)[:n_shells]
    counts = np.bincount(shells.ravel(), minlength=n_shells + 1)[:n_shells]
    mean = sums / np.maximum(counts, 1) / voxels
    return np.where(mean > 0, np.log(np.maximum(mean, np.finfo(float).tiny)), LOG_NOTHING)
