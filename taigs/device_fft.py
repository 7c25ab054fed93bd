"""Transforms of arrays in device memory: which passes of kernels/fft.py, in which order, between which buffers."""

from math import prod

import numpy as np

from taigs.device import float_type
from taigs.errors import InputError
from taigs.kernels import fft
from taigs.runtime import check_size, ti


def factors(n):
    """Radices of the passes of a transform of n points, or None if it has other prime factors than 2, 3 and 5."""
    found = []
    for radix in fft.RADICES:
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return found if n == 1 else None


class DeviceFFT:
    """Complex transforms in device memory; `values` holds an array, and `other` what a pass writes.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    size : int, optional
        Room for so many complex numbers, if that is more.

    Raises
    ------
    InputError
        A size of `shape` has other prime factors than 2, 3 and 5.
    ResourceError
        The array is too large for Taichi.
    """

    def __init__(self, shape, size=0):
        for n in shape:
            if factors(n) is None:
                raise InputError(f"a transform of {n} points; expected a product of 2, 3 and 5; try {next_size(n)}")
        size = 2 * max(size, prod(shape))
        check_size(size, "a transform")
        self.shape = tuple(shape)
        self.values, self.other = (ti.ndarray(float, size) for _ in range(2))
        self.tables = {n: _table(n) for n in set(shape)}

    def along(self, n, n_outer, s, sign):
        """Transform values (n_outer, n, s) along the middle axis; sign 1 forward, -1 inverse (not divided by n)."""
        left = n
        for radix in factors(n):
            left //= radix
            step = n // (radix * left)
            fft.fft_pass(self.values, self.tables[n], self.other, radix, n_outer, left, s, step, sign)
            self.swap()
            s *= radix

    def swap(self):
        self.values, self.other = self.other, self.values


class RealFFT(DeviceFFT):
    """Transforms over the last `n_axes` axes of real arrays (nz, ny, nx) in fields of pixel vectors, and back."""

    def __init__(self, shape, n_axes):
        nz, ny, self.width = shape
        self.n_rows, self.n_pairs, self.half = nz * ny, (nz * ny + 1) // 2, self.width // 2 + 1
        self.axes = [(ny, nz, self.half), (nz, 1, ny * self.half)][: n_axes - 1]
        super().__init__(shape[3 - n_axes :], max(self.n_pairs * self.width, self.n_rows * self.half))

    def forward(self, vectors, blocks):
        """Transform rows of `blocks` vectors; `values` is (nz, ny, nx // 2 + 1) then."""
        fft.pack_rows(vectors, self.values, self.n_rows, self.width, blocks)
        self.along(self.width, self.n_pairs, 1, 1)
        fft.split_rows(self.values, self.other, self.n_rows, self.width)
        self.swap()
        for axis in self.axes:
            self.along(*axis, 1)

    def inverse(self, vectors, blocks, scale):
        """The inverse of `forward`, not divided by the number of points, but times `scale`."""
        for axis in reversed(self.axes):
            self.along(*axis, -1)
        fft.join_rows(self.values, self.other, self.n_rows, self.width)
        self.swap()
        self.along(self.width, self.n_pairs, 1, -1)
        fft.unpack_rows(self.values, vectors, self.n_rows, self.width, blocks, scale)


def next_size(n):
    """The smallest even size from n on that can be transformed."""
    n += n % 2
    while factors(n) is None:
        n += 2
    return n


def _table(n):
    angles = 2 * np.pi * np.arange(n) / n
    table = ti.ndarray(float, 2 * n)
    table.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1).reshape(-1).astype(float_type()))
    return table
