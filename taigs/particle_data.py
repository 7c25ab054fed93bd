"""What the fit of particles needs of its images: half-sets, and for each its Fourier sums, direct map and seeds."""

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter

from taigs.accumulate import accumulate
from taigs.direct import direct_map
from taigs.errors import InputError
from taigs.journal import Journal
from taigs.shells import shells
from taigs.volume_objective import VolumeData

SEED_LOWPASS_PX = 1.0  # sigma of the filter of the seed map
SEED_THRESHOLD = 2.0  # standard deviations of the filtered map
SMALLEST_SSNR = 0.05
CONTRAST_LOWPASS_PX = 2.0
SPHERE_SHARE = np.pi / 6  # of the box: a direct map is empty outside its sphere


@dataclass
class ParticleSet:
    """A half-set, or all particles.

    Parameters
    ----------
    picked : array of int
        Indices of the views.
    direct : (n, n, n) array
        Direct Fourier map, image units per voxel.
    data : VolumeData
    seed : (n, n, n) array
        The direct map low-passed by its own signal-to-noise ratio, 0 where it is lost in noise.
    """

    picked: np.ndarray
    direct: np.ndarray
    data: VolumeData
    seed: np.ndarray


def gather(views, half_sets, operators, contrast, progress, journal, ranks):
    """([ParticleSet of half 1, of half 2, of all], whether dense matter is dark), from one pass over the images.

    Nothing of a half enters the other's but the sign of the contrast; the padded grids are gone afterwards.
    Of several ranks, each reads a share of one half; those that do not lead get (None, None).

    Raises
    ------
    InputError
        No image has content, or as the reading of images.
    """
    picked = [np.flatnonzero(half_sets == half) for half in (1, 2)]
    names = ["reading half 1", "reading half 2"]

    def read(half):
        own = ranks.share(picked[half])
        whole = len(own) == len(picked[half])  # what a share adds up to is no state of a half
        sums = accumulate(views, own, operators, progress, journal if whole else Journal(), names[half])
        weight = np.array([sums.view_weight])
        ranks.add_up(sums.grid, sums.power, weight)
        sums.view_weight = float(weight[0])
        return sums

    sums = ranks.halves(names, read, progress, journal)
    if sums is None:
        return None, None
    progress.stage("direct Fourier maps")
    directs = [direct_map(s) for s in sums]
    if not any(s.power[1:].any() for s in sums):
        raise InputError("every image is constant; expected images with content")
    dark = contrast == "dark" or (contrast == "auto" and sum(map(skewness, directs)) < 0)
    if dark:
        for s, direct in zip(sums, directs, strict=True):
            s.grid[..., :2] *= -1
            direct *= -1
    sets = [_particle_set(*one) for one in zip(picked, sums, directs, strict=True)]
    sums[0].add(sums.pop())
    return [*sets, _particle_set(np.arange(len(views)), sums[0], direct_map(sums[0]))], dark


def _particle_set(picked, sums, direct):
    data = VolumeData.from_sums(sums)
    data.estimate_noise(np.maximum(low_passed(direct, data), 0))
    seed = low_passed(direct, data)
    return ParticleSet(picked, direct, data, np.where(seed > SEED_THRESHOLD * seed.std(), seed, 0))


def low_passed(direct, data):
    """The direct map after a Wiener filter for its own noise, and a Gaussian of `SEED_LOWPASS_PX`."""
    n = len(direct)
    s = shells(n)
    transform = fft.rfftn(fft.ifftshift(direct), workers=-1)
    power = s.sum(np.abs(transform) ** 2) / s.count
    weight = np.maximum(s.sum(data.weight) / s.count, 1e-30)
    ssnr = np.maximum((power * weight)[: n // 2 + 1] / (SPHERE_SHARE * data.noise) - 1, SMALLEST_SSNR)
    ssnr[0] = ssnr[1]
    smooth = np.exp(-2 * (np.pi * SEED_LOWPASS_PX * np.arange(n // 2 + 1) / n) ** 2)
    return fft.fftshift(fft.irfftn(transform * s.spread(ssnr / (1 + ssnr) * smooth), s=direct.shape, workers=-1))


def skewness(direct):
    """Of the low-passed map, as third moment / variance^1.5: positive if dense matter, which is compact, is bright."""
    smooth = gaussian_filter(direct, CONTRAST_LOWPASS_PX)
    smooth = smooth - smooth.mean()
    return float((smooth**3).mean() / max(float(smooth.std()), 1e-30) ** 3)


class NegatedImages:
    """Images of the opposite contrast, negated when they are indexed."""

    def __init__(self, images):
        self.images, self.shape = images, images.shape

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return -self.images[index]


def deal_half_sets(views, rng):
    """(half-sets of the views, whether they are their own): else particles are dealt out at random.

    Raises
    ------
    InputError
        A half-set has fewer than two views.
    """
    half_sets = views.half_sets
    if half_sets is None or len(np.unique(half_sets)) == 1:  # one half-set was picked while reading
        particles = np.arange(len(views)) if views.particles is None else views.particles
        unique, inverse = np.unique(particles, return_inverse=True)
        half_sets = (1 + rng.permutation(len(unique)) % 2)[inverse]
    for half in (1, 2):
        if (half_sets == half).sum() < 2:
            raise InputError(f"{(half_sets == half).sum()} views in half-set {half}; expected at least 2")
    return np.asarray(half_sets), half_sets is views.half_sets
