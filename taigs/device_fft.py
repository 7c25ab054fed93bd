"""Transforms of arrays in device memory: which kernels of kernels/fft.py, in which order, between which buffers."""

import numpy as np

from taigs.device import float_type
from taigs.errors import InputError
from taigs.kernels import fft
from taigs.kernels.fft import factors
from taigs.runtime import check_size, ti


class DeviceFFT:
    """Complex transforms in device memory; `values` holds an array, and `other` what a kernel writes.

    Parameters
    ----------
    sizes : tuple of int
        Of the axes that are transformed.
    size : int
        Most complex numbers in an array.

    Raises
    ------
    InputError
        A size has other prime factors than 2, 3 and 5.
    ResourceError
        The array is too large for Taichi.
    """

    def __init__(self, sizes, size):
        for n in sizes:
            if factors(n) is None:
                raise InputError(f"a transform of {n} points; expected a product of 2, 3 and 5; try {next_size(n)}")
        check_size(2 * size, "a transform")
        self.values, self.other = (ti.ndarray(float, 2 * size) for _ in range(2))
        self.tables = {n: _table(n) for n in set(sizes)}

    def along(self, n, n_outer, s, sign):
        """Transform values (n_outer, n, s) along the middle axis; sign 1 forward, -1 inverse (not divided by n)."""
        if n == 1:
            return
        fft.transform(self.values, self.other, self.tables[n], n, n_outer, s, sign)
        if len(factors(n)) % 2:
            self.swap()

    def swap(self):
        self.values, self.other = self.other, self.values


class RealFFT(DeviceFFT):
    """Transforms over the last `n_axes` axes, 2 or 3, of real arrays (nz, ny, nx) in fields of pixel vectors, and back.

    Of images, any number up to nz can be transformed.
    """

    def __init__(self, shape, n_axes):
        self.shape, self.n_axes, self.half = tuple(shape), n_axes, shape[2] // 2 + 1
        nz, ny, nx = shape
        super().__init__(shape[3 - n_axes :], max((nz * ny + 1) // 2 * nx, nz * ny * self.half))

    def forward(self, vectors, blocks, nz=None):
        """Transform rows of `blocks` vectors; `values` is (nz, ny, nx // 2 + 1) then."""
        nz, ny, nx = nz or self.shape[0], *self.shape[1:]
        fft.pack_rows(vectors, self.values, nz * ny, nx, blocks)
        self.along(nx, (nz * ny + 1) // 2, 1, 1)
        fft.split_rows(self.values, self.other, nz * ny, nx)
        self.swap()
        for axis in self._axes(nz):
            self.along(*axis, 1)

    def inverse(self, vectors, blocks, scale, nz=None):
        """The inverse of `forward`, not divided by the number of points, but times `scale`."""
        nz, ny, nx = nz or self.shape[0], *self.shape[1:]
        for axis in reversed(self._axes(nz)):
            self.along(*axis, -1)
        fft.join_rows(self.values, self.other, nz * ny, nx)
        self.swap()
        self.along(nx, (nz * ny + 1) // 2, 1, -1)
        fft.unpack_rows(self.values, vectors, nz * ny, nx, blocks, scale)

    def _axes(self, nz):
        """(n, n_outer, s) of y, and of z in a volume."""
        ny = self.shape[1]
        return [(ny, nz, self.half), (nz, 1, ny * self.half)][: self.n_axes - 1]


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
