"""Resolution of two half maps: the Fourier shell correlations of RELION's postprocessing, and their crossings.

What a half-map FSC tells is how reproducible two independent reconstructions are. It is no comparison with
the truth: what both halves share (a reference, a mask, a smooth model) raises it just as well.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from taigs.errors import InputError
from taigs.masks import check_mask
from taigs.metrics import (
    WEIGHTS,
    checked_pair,
    describe_crossing,
    first_crossing,
    frequencies,
    mean_fsc,
    transform_fsc,
)

HALF_MAP_THRESHOLD = 0.143  # FSC of two half maps whose average has a correlation of 0.5 with the truth
RANDOMISE_BELOW = 0.8  # unmasked FSC from which on phases are randomised
UNCORRECTED_SHELLS = 2  # from there: the mask mixes neighbouring shells, so these still hold true phases
MOST_MASK_CORRELATION = 0.1
RANDOM_STREAM = 0x70686173


@dataclass(frozen=True)
class HalfMapFsc:
    """Curves of two half maps at shells 0 to Nyquist, and what was noticed on the way.

    ``masked``, ``draws`` and ``corrected`` are None without a mask; ``draws`` and ``randomise_from`` also
    where the unmasked FSC never falls below 0.8. One row of ``draws`` is one draw of random phases.
    """

    n: int  # longest edge, voxels
    voxel_size: float  # Angstrom
    unmasked: np.ndarray  # (n // 2 + 1,)
    masked: np.ndarray | None = None  # (n // 2 + 1,)
    draws: np.ndarray | None = None  # (draws, n // 2 + 1)
    corrected: np.ndarray | None = None  # (n // 2 + 1,)
    randomise_from: int | None = None  # shell
    solvent_ratio: float | None = None  # RELION's: volume of the box's ball over that of the mask, nearly
    warnings: tuple = ()

    @property
    def shells(self):
        return np.arange(len(self.unmasked))

    @property
    def frequency(self):
        """Of each shell, 1/Angstrom."""
        return self.shells / (self.n * self.voxel_size)

    @property
    def randomised(self):
        """FSC of the masked maps with random phases: the mean of the draws, or None."""
        return None if self.draws is None else self.draws.mean(axis=0)

    @property
    def best(self):
        """The curve to quote: corrected, or unmasked without a mask."""
        return self.unmasked if self.corrected is None else self.corrected

    @property
    def curves(self):
        """The curves there are, by name."""
        named = {
            "unmasked": self.unmasked,
            "masked": self.masked,
            "phase-randomised": self.randomised,
            "corrected": self.corrected,
        }
        return {name: curve for name, curve in named.items() if curve is not None}

    def crossing(self, threshold=HALF_MAP_THRESHOLD, curve=None):
        """`first_crossing` of the best or a given curve, Angstrom or None."""
        return first_crossing(self.best if curve is None else curve, threshold, self.n, self.voxel_size)

    def relion_crossing(self, threshold=HALF_MAP_THRESHOLD, curve=None):
        """`relion_crossing` of the best or a given curve, Angstrom or None."""
        return relion_crossing(self.best if curve is None else curve, threshold, self.n, self.voxel_size)


def half_map_fsc(half1, half2, voxel_size, mask=None, seed=0, draws=4, weights="relion"):
    """FSC of two half maps, unmasked, masked and corrected for the mask, as relion_postprocess.

    Beyond the shell where the unmasked FSC first falls below 0.8, the phases of both maps are replaced by
    random ones. What FSC is left under the mask, FSC_n, is the mask's; from two shells further on

        FSC_corrected = (FSC_masked - FSC_n) / (1 - FSC_n)        (Chen et al. 2013, Ultramicroscopy 135, 24).

    Parameters
    ----------
    half1, half2 : (nz, ny, nx) array_like
        Reconstructed independently of each other.
    voxel_size : float
        Angstrom.
    mask : (nz, ny, nx) array_like, optional
        Soft, 0 to 1.
    seed : int
        Of the random phases.
    draws : int
        FSC_n is the mean over so many; RELION makes one.
    weights : {"relion", "hermitian"}
        As `taigs.metrics.fsc`.

    Returns
    -------
    HalfMapFsc

    Raises
    ------
    InputError
        The maps are not 3D, not finite, without density or differ in shape; as `taigs.masks.check_mask`.
    """
    a, b = checked_pair(half1, half2)
    for name, volume in (("first", a), ("second", b)):
        if np.ptp(volume) == 0:
            raise InputError(f"{name} half map is constant: there is nothing to correlate; expected density")
    if draws < 1 or weights not in WEIGHTS or not voxel_size > 0:
        raise InputError(
            f"draws {draws}, weights {weights!r}, voxel size {voxel_size}; "
            f"expected at least 1, one of {', '.join(WEIGHTS)}, a positive number of Angstrom"
        )
    n = max(a.shape)
    fa, fb = fft.rfftn(a, workers=-1), fft.rfftn(b, workers=-1)
    unmasked = transform_fsc(fa, fb, a.shape, weights=weights)[0]
    if mask is None:
        return HalfMapFsc(n, voxel_size, unmasked)

    mask, warned = check_mask(mask, a.shape)

    def masked_fsc(a, b):
        return transform_fsc(
            fft.rfftn(a * mask, workers=-1), fft.rfftn(b * mask, workers=-1), a.shape, weights=weights
        )[0]

    masked = masked_fsc(a, b)
    low = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW) + 1
    start = int(low[0]) if len(low) else None
    random, corrected = None, masked
    if start is None:
        warned += (f"the unmasked FSC never falls below {RANDOMISE_BELOW}: the masked FSC is not corrected",)
    else:
        # Not the seed alone: the noise of a simulated map may well come from default_rng(0), and its phases with it.
        rng = np.random.default_rng([seed, RANDOM_STREAM])
        beyond = sum(k**2 for k in frequencies(a.shape)) >= start**2
        random = np.array(
            [masked_fsc(*(randomise_phases(f, a.shape, beyond, rng) for f in (fa, fb))) for _ in range(draws)]
        )
        corrected = correct_for_mask(masked, random.mean(axis=0), start)
    result = HalfMapFsc(n, voxel_size, unmasked, masked, random, corrected, start, solvent_ratio(mask))
    return replace(result, warnings=warned + _doubts(result))


def randomise_phases(transform, shape, where, rng):
    """The volume whose Fourier amplitudes are kept and whose phases are random at some coefficients.

    Parameters
    ----------
    transform : (nz, ny, nx // 2 + 1) complex
        Half transform of a volume.
    shape : (nz, ny, nx)
    where : (nz, ny, nx // 2 + 1) bool
        Coefficients that get a random phase.
    rng : numpy.random.Generator

    Returns
    -------
    (nz, ny, nx) array
    """
    # The phases of real white noise are uniform, and have the symmetry that a real volume needs. (RELION draws
    # both members of a pair on the plane kx = 0, which costs amplitude there and leaves FSC_n a little higher.)
    noise = fft.rfftn(rng.standard_normal(shape), workers=-1)
    noise *= np.abs(transform) / np.maximum(np.abs(noise), np.finfo(float).tiny)
    return fft.irfftn(np.where(where, noise, transform), shape, workers=-1, overwrite_x=True)


def correct_for_mask(masked, randomised, randomise_from):
    """The masked FSC without the mask's share, from two shells beyond `randomise_from`; see `half_map_fsc`."""
    corrected = np.array(masked, np.float64)
    later = slice(randomise_from + UNCORRECTED_SHELLS, None)
    rest = 1 - randomised[later]
    np.divide(corrected[later] - randomised[later], rest, out=corrected[later], where=rest > 0)
    return corrected


def relion_crossing(curve, threshold, n, voxel_size):
    """Resolution as RELION quotes it: that of the last shell before the first below the threshold.

    Parameters as `taigs.metrics.first_crossing`, without interpolation between shells.

    Returns
    -------
    float or None
        Angstrom; None if the curve never falls below the threshold.
    """
    below = np.flatnonzero(np.asarray(curve)[1:] < threshold)
    return float(n * voxel_size / max(below[0], 1)) if len(below) else None  # shell below[0] + 1 is the first


def solvent_ratio(mask):
    """RELION's rlnParticleBoxFractionSolventMask: 0.476 of the box's volume over that of the mask [measured]."""
    return 0.476 * mask.size / max(np.count_nonzero(mask > 0.5), 1)


def solvent_corrected(unmasked, ratio):
    """FSC inside the mask, from the unmasked one and the ratio of volumes (cisTEM's part_FSC)."""
    return ratio * unmasked / (1 + (ratio - 1) * unmasked)


def crossing_table(result):
    """The figures of a `HalfMapFsc`: (header, rows), a row for each curve, resolutions in words."""
    header = ("FSC", "mean FSC", "at 0.5", "at 0.143", "RELION's, at 0.143")
    rows = [
        (
            name,
            mean_fsc(curve),
            in_words(result.crossing(0.5, curve)),
            in_words(result.crossing(curve=curve)),
            in_words(result.relion_crossing(curve=curve)),
        )
        for name, curve in result.curves.items()
    ]
    return header, rows


def in_words(resolution):
    """As `describe_crossing`, to a hundredth of an Angstrom: half maps of one data set are that comparable."""
    return describe_crossing(None) if resolution is None else f"{resolution:.2f} Å"


def _doubts(result):
    """What speaks against quoting the corrected curve."""
    doubts = []
    resolution = result.crossing()
    if result.draws is not None:
        shell = -1 if resolution is None else round(result.n * result.voxel_size / resolution)
        if result.randomised[shell] > MOST_MASK_CORRELATION:
            where = "Nyquist" if resolution is None else f"{resolution:.1f} Å"
            doubts.append(
                f"with random phases the masked FSC is still {result.randomised[shell]:.2f} at {where}: "
                "the mask is too tight or its edge too sharp"
            )
    unmasked = result.crossing(curve=result.unmasked)
    if resolution is not None and (unmasked is None or unmasked < resolution):
        doubts.append("the map resolves less under the mask than without it; does the mask lie on the map?")
    return tuple(doubts)
