"""The padded Fourier grid in device memory, and the insertion of slices into it."""

import numpy as np

from taigs import runtime
from taigs.device import float_type
from taigs.kernels.gridding import insert_samples, insert_slices, sort_samples
from taigs.kernels.layout import LAYOUT
from taigs.runtime import ti

CHANNELS = 3  # Re B, Im B, W


class FourierGrid:
    """Sums of weighted slices on a grid padded twice.

    Parameters
    ----------
    n : int
        Box, pixels.
    n_views : int
        Most slices that are added at a time.

    Raises
    ------
    ResourceError
        The grid, or the samples of so many slices, are too large for Taichi.
    """

    def __init__(self, n, n_views):
        self.n, self.size, self.planes = n, 2 * n, n + 1
        runtime.check_size(CHANNELS * self.planes * self.size**2, "the Fourier grid")
        self.grid = ti.ndarray(float, shape=CHANNELS * self.planes * self.size**2)
        self.grid.fill(0)
        n_samples = n_views * n * (n // 2 + 1)
        runtime.check_size(CHANNELS * n_samples, "the slices of a batch of images")
        if LAYOUT.lanes > 1:
            self.samples = np.empty(CHANNELS * n_samples, float_type())
            self.places = np.empty(n_samples, np.int32)
            self.starts = np.empty(n_views * (self.planes + 2), np.int32)

    def add(self, slices, matrices):
        """Add slices (V, n, n/2 + 1, 3) of (Re, Im, weight) of views with `matrices` (V, 2, 3) volume -> image."""
        matrices = matrices.astype(float_type()).reshape(-1)
        sizes = (len(slices), self.n, self.size / self.n, self.size, self.planes)
        slices = slices.reshape(-1)
        if LAYOUT.lanes > 1:
            held = (self.samples, self.places, self.starts)
            sort_samples(slices, matrices, *held, *sizes)
            insert_samples(*held, matrices, self.grid, *sizes)
        else:
            insert_slices(slices, matrices, self.grid, *sizes)

    def load(self, sums):
        """Go on from what `to_numpy` gave."""
        self.grid.from_numpy(sums.reshape(-1))

    def to_numpy(self):
        """(n + 1, 2 n, 2 n, 3) sums: z = 0 ... n, y and x in the order of an FFT."""
        return self.grid.to_numpy().reshape(self.planes, self.size, self.size, CHANNELS)
