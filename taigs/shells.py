"""Shells of equal frequency of the half transform of a cubic volume, for sums over the whole of Fourier space."""

from functools import lru_cache

import numpy as np
from scipy import fft


class Shells:
    """Shells of the `rfftn` of an n x n x n volume.

    Parameters
    ----------
    n : int

    Attributes
    ----------
    index : (n, n, n // 2 + 1) int32 array
        round(|k|), at most n // 2 + 1: the corners beyond Nyquist are one last shell.
    count : (n // 2 + 2,) array
        Coefficients of the whole transform in each shell.
    """

    def __init__(self, n):
        self.n = n
        k = fft.fftfreq(n, 1 / n)
        radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(n // 2 + 1) ** 2)
        self.index = np.minimum(np.rint(radius), n // 2 + 1).astype(np.int32)
        self.inside = radius <= n / 2
        mates = np.full(n // 2 + 1, 2.0, np.float32)  # a coefficient and its mirror image, which is not stored
        mates[0] = 1.0
        if n % 2 == 0:
            mates[-1] = 1.0
        self.mates = mates
        self.count = self.sum(np.ones_like(radius))

    def sum(self, values):
        """(n // 2 + 2,) sums of a real array over the shells of the whole transform."""
        return np.bincount(self.index.ravel(), (values * self.mates).ravel(), self.n // 2 + 2)

    def spread(self, per_shell):
        """The array that holds each shell's value; `per_shell` has n // 2 + 1 or n // 2 + 2 entries, 0 beyond."""
        table = np.zeros(self.n // 2 + 2, np.float32)
        table[: len(per_shell)] = per_shell
        return table[self.index]


@lru_cache(maxsize=2)
def shells(n):
    """Shells of a box, made once."""
    return Shells(n)
