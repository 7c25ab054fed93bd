"""Images in Fourier space: coarser pixels by cropping, and shells of equal frequency."""

import operator

import numpy as np
from scipy import fft

from taigs.errors import InputError

BATCH_PIXELS = 1 << 23  # of uncropped images in memory at a time


def fourier_crop(images, n):
    """Images with coarser pixels: only frequencies below the new Nyquist frequency are kept.

    Values keep their scale, so the mean stays. Pixel N // 2, the centre, becomes pixel n // 2. Both signs of
    an even n's Nyquist frequency fall on one coefficient, which cannot hold them: it is left empty.

    Parameters
    ----------
    images : (..., N, N) array
    n : int
        New box, at most N; N returns the images as they are.

    Returns
    -------
    (..., n, n) array
        float32 if the images are, else float64.
    """
    images = np.asarray(images)
    size = images.shape[-1]
    if images.shape[-2] != size or not 1 <= n <= size:
        raise InputError(f"images of shape {images.shape} cropped to {n} pixels; expected square ones not below that")
    if n == size:
        return images
    spectrum = fft.rfft2(fft.ifftshift(images, axes=(-2, -1)))
    rows = np.rint(fft.fftfreq(n, 1 / n)).astype(int)  # negative frequencies count from the end, as in the spectrum
    cropped = spectrum[..., rows, : n // 2 + 1] * spectrum.real.dtype.type((n / size) ** 2)
    if n % 2 == 0:
        cropped[..., n // 2, :] = 0
        cropped[..., n // 2] = 0
    return fft.fftshift(fft.irfft2(cropped, (n, n)), axes=(-2, -1))


def shell_indices(n):
    """(n, n // 2 + 1) int: distance from zero frequency, rounded, of each coefficient of an n x n `rfft2`."""
    return np.rint(np.hypot(fft.fftfreq(n, 1 / n)[:, None], np.arange(n // 2 + 1))).astype(int)


class CroppedImages:
    """Images cropped in Fourier space when they are indexed; see `fourier_crop`.

    Parameters
    ----------
    images : (V, N, N) array_like
        Anything that an index array turns into images, such as `taigs.io.stacks.StackImages`.
    n : int
        New box.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, images, n):
        fourier_crop(np.empty((0, *images.shape[1:])), n)  # for its checks
        self.images, self.shape = images, (len(images), n, n)

    @property
    def paths(self):
        """Of the stack files behind the images."""
        return self.images.paths

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        """Image of one index (n, n), or images of many (m, n, n): slice, list, index or bool array."""
        if not isinstance(index, slice) and np.ndim(index) == 0:
            return fourier_crop(self.images[operator.index(index)], self.shape[1])
        picked = np.arange(len(self))[index]
        cropped = np.empty((len(picked), *self.shape[1:]), self.dtype)
        batch = max(1, BATCH_PIXELS // int(np.prod(self.images.shape[1:])))
        for start in range(0, len(picked), batch):
            part = slice(start, start + batch)
            cropped[part] = fourier_crop(self.images[picked[part]], self.shape[1])
        return cropped

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or self.dtype, copy=False)
