"""Direct Fourier reconstruction: the map that B / W gives without any model. Seed, and yardstick of every result."""

import numpy as np
from scipy import fft
from scipy.special import spherical_in

from taigs.device import float_type

BLOB_RADIUS = 1.9  # Fourier pixels of the unpadded box, and taper, of the kernel that evens the weights out
BLOB_ALPHA = 15.0
WEIGHT_ITERATIONS = 10
SMALLEST_WEIGHT = 1e-3  # of the mean over a cell's shell
EDGE_PX = 3  # soft edge of the sphere outside which a map is empty


def direct_map(sums):
    """The volume whose slices agree best with the images, without regularisation.

    V = IFFT(B x u), with weights u such that W x u, convolved with a small kernel, is 1 (Pipe & Menon 1999), on
    the padded grid; then cropped, divided by the transform of the gridding kernel, and set to 0 outside the
    sphere of diameter n, beyond which the views of a box do not determine anything.

    Parameters
    ----------
    sums : FourierSums

    Returns
    -------
    (n, n, n) float32 array
        Image units per voxel: pixels of its projections are sums over voxels.
    """
    size = sums.grid.shape[1]
    radius = _radius(size)
    shell = np.rint(radius).astype(np.int32).ravel()
    weight = np.where(radius <= sums.n, sums.grid[..., 2], 0)
    mean = np.bincount(shell, weight.ravel()) / np.bincount(shell)
    weight = np.where(radius <= sums.n, np.maximum(weight, SMALLEST_WEIGHT * mean[shell].reshape(radius.shape)), 0)
    weight = weight.astype(float_type())
    data = (sums.grid[..., 0] + 1j * sums.grid[..., 1]) * _even_weights(weight)
    return inside_sphere(unpad(data, sums.n))


def unpad(transform, n):
    """Real volume (n, n, n), origin at n // 2, of a transform gridded on the half z >= 0 of the padded grid.

    The trilinear kernel of the gridding is the product of the transforms of its sides, sinc^2, in real space.
    """
    size = transform.shape[1]
    volume = fft.irfftn(transform, s=(size,) * 3, axes=(1, 2, 0), workers=-1)  # the last of the axes is the halved one
    offset = np.arange(n) - n // 2
    kernel = np.sinc(offset / size) ** 2
    volume = volume[np.ix_(offset % size, offset % size, offset % size)]
    return (volume / (kernel[:, None, None] * kernel[:, None] * kernel)).astype(float_type())


def inside_sphere(volume):
    """A copy that falls to 0 over `EDGE_PX` voxels outside the sphere inscribed in the box."""
    n = len(volume)
    x = np.arange(n) - n // 2
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    edge = np.clip((n / 2 + EDGE_PX - radius) / EDGE_PX, 0, 1)
    return volume * (0.5 - 0.5 * np.cos(np.pi * edge)).astype(volume.dtype)


def _even_weights(weight):
    """u with (weight u) * kernel = 1 where there is weight, else 0; the kernel is a Kaiser-Bessel blob."""
    size = weight.shape[1]
    x2 = np.minimum(np.arange(size), size - np.arange(size)).astype(np.int32) ** 2
    # The blob's transform depends on the distance alone, whose square is an integer.
    r2 = np.arange(3 * (size // 2) ** 2 + 1) / size**2
    argument = np.sqrt(np.maximum(BLOB_ALPHA**2 - (4 * np.pi * BLOB_RADIUS) ** 2 * r2, 1e-6))
    table = spherical_in(1, argument) / argument * (BLOB_ALPHA / spherical_in(1, BLOB_ALPHA))
    blob = table.astype(weight.dtype)[x2[:, None, None] + x2[:, None] + x2]
    even = (weight > 0).astype(weight.dtype)  # and 0 elsewhere: the data have samples' shares beyond the border
    for _ in range(WEIGHT_ITERATIONS):
        density = fft.irfftn(weight * even, s=(size,) * 3, axes=(1, 2, 0), workers=-1) * blob
        density = fft.rfftn(density, axes=(1, 2, 0), workers=-1).real
        even /= np.where(weight > 0, np.maximum(np.abs(density), 1e-6), 1)
    return even


def _radius(size):
    """|k| of the cells of the half grid z >= 0, in cells."""
    k = fft.fftfreq(size, 1 / size).astype(np.float32)
    z = np.arange(size // 2 + 1, dtype=np.float32)
    return np.sqrt(z[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
