"""The quadratic form of a likelihood in Fourier space, on the host by SciPy or in device memory throughout.

L(V) = sum_k (1/2 W |T|^2 - Re conj(B) T) / n^3, T the transform of V = factor x density of a cloud.
"""

import logging

import numpy as np
from scipy import fft

from taigs import runtime
from taigs.device import float_type
from taigs.device_fft import RealFFT, factors, next_size
from taigs.kernels.spectra import compare_spectra
from taigs.render import Voxelizer
from taigs.runtime import check_size, ti

log = logging.getLogger("taigs")
PARTS = 1 << 14  # of a sum over a transform


class HostForm:
    """The form in the volume of a cloud, computed by SciPy, which is faster on a CPU.

    Parameters
    ----------
    gaussians : DeviceCloud
    grid : Grid
        A cube of n voxels.
    factor : float
        Image units per density of a voxel.
    """

    def __init__(self, gaussians, grid, factor):
        self.shape, self.factor = grid.shape, factor
        self.voxelizer = Voxelizer(gaussians, grid)

    def load(self, weight, linear):
        """W (n, n, n // 2 + 1), and B as the volume (n, n, n) it is the transform of, centred as the cloud's."""
        self.weight, self.linear = weight.astype(float_type()), linear.astype(float_type())

    def terms(self, n):
        """(sum W |T|^2, sum Re conj(B) T) / n^3 of the first n Gaussians."""
        volume = self.voxelizer.add(n, np.zeros(self.shape, float_type()), self.factor)
        product = fft.irfftn(self.weight * fft.rfftn(volume, workers=-1), s=self.shape, workers=-1)
        square, cross = float(np.vdot(volume, product)), float(np.vdot(volume, self.linear))
        product -= self.linear
        product *= self.factor
        self.v_volume = product
        return square, cross

    def pull(self):
        """Gradient of the form where `terms` was last computed, left on the device."""
        self.voxelizer.vjp(self.v_volume)


class DeviceForm:
    """As HostForm, but nothing leaves the device except parts of the two sums.

    Raises
    ------
    InputError
        The size has other prime factors than 2, 3 and 5.
    ResourceError
        The volume is too large for Taichi.
    """

    def __init__(self, gaussians, grid, factor):
        self.voxelizer = Voxelizer(gaussians, grid, whole=True)
        self.spectra = DeviceSpectra(grid.shape, 3, factor)

    def load(self, weight, linear):
        data = fft.rfftn(linear, workers=-1)
        terms = np.stack([data.real, data.imag, weight], axis=-1).astype(float_type(), copy=False)
        self.spectra.terms.from_numpy(terms.reshape(-1))

    def terms(self, n):
        (_,) = self.voxelizer.draw(n)  # one slab, the volume
        slab = self.voxelizer.voxels.slab
        return self.spectra.compare(slab, slab, self.voxelizer.blocks)

    def pull(self):
        self.voxelizer.vjp()


class DeviceSpectra:
    """The form in real arrays (nz, ny, nx) in a field of vectors, by their transforms over the last `n_axes` axes.

    `terms` holds (Re B, Im B, W) for each of (nz, ny, nx // 2 + 1).
    """

    def __init__(self, shape, n_axes, factor):
        nz, ny, self.width = shape
        self.n, self.factor, self.scale = nz * ny * (self.width // 2 + 1), factor, self.width**-3
        check_size(3 * self.n, "the Fourier sums on the device")
        self.fft = RealFFT(shape, n_axes)
        self.terms, self.partial = ti.ndarray(float, 3 * self.n), ti.ndarray(float, 2 * PARTS)

    def compare(self, arrays, result, blocks, nz=None):
        """(sum W |T|^2, sum Re conj(B) T) / nx^3; the vectors `result` become the gradient of the form."""
        n = self.n if nz is None else self.n // self.fft.shape[0] * nz
        self.fft.forward(arrays, blocks, nz)
        compare_spectra(self.fft.values, self.terms, self.partial, n, self.width, self.factor, PARTS)
        self.fft.inverse(result, blocks, self.factor * self.scale, nz)
        square, cross = self.partial.to_numpy().reshape(PARTS, 2).sum(axis=0, dtype=np.float64)
        return float(square * self.scale), float(cross * self.scale)


def quadratic_form(gaussians, grid, factor):
    """The form that suits the backend and the size."""
    n = grid.shape[0]
    if on_device(n):
        return DeviceForm(gaussians, grid, factor)
    if not runtime.current().is_cpu:
        log.warning(
            "a box of %d pixels: its transforms take the way over the CPU, slower; try one of %d", n, next_size(n)
        )
    return HostForm(gaussians, grid, factor)


def on_device(n):
    """Whether transforms of n points are to stay on the device: on a GPU, if it can do them."""
    return not runtime.current().is_cpu and factors(n) is not None
