"""The quadratic forms of images: a mini-batch of projections against its particles, on the host or on the device."""

import numpy as np
from scipy import fft

from taigs.accumulate import weigh, weigh_into
from taigs.device import float_type
from taigs.kernels.spectra import scale_terms
from taigs.quadratic_form import DeviceSpectra, on_device


class HostImages:
    """sum_k (1/2 w CTF^2 |P|^2 - Re conj(w CTF F) P) per_noise / n^3 over images, transformed by SciPy.

    Parameters
    ----------
    renderer : Renderer
        Draws the projections and takes the gradient.
    n : int
        Box, pixels.
    factor : float
        Image units per mass on a pixel.
    """

    def __init__(self, renderer, n, factor):
        self.renderer, self.factor = renderer, factor
        self.mates = np.where(np.arange(n // 2 + 1) == 0, 1.0, 2.0)

    def terms(self, views, per_noise):
        """(sum w CTF^2 |P|^2, sum Re conj(w CTF F) P), and the gradient into images.residual.

        `per_noise` (n, n // 2 + 1) counts twice in column 0, where `weigh` halves.
        """
        n = views.image_shape[0]
        slices = weigh(views, fft.rfft2(fft.ifftshift(views.images, axes=(1, 2)), workers=-1))
        slices *= per_noise[..., None]
        self.renderer.forward()
        images = self.renderer.get_images() * self.factor
        transform = fft.rfft2(fft.ifftshift(images, axes=(1, 2)), workers=-1)
        product, data = slices[..., 2] * transform, slices[..., 0] + 1j * slices[..., 1]
        residual = fft.irfft2(product - data, s=views.image_shape, workers=-1) * (self.factor / n)
        self.renderer.load_images(self.renderer.images.residual, fft.fftshift(residual, axes=(1, 2)))
        square, cross = ((self.mates * (transform.conj() * one).real).sum() / n**3 for one in (product, data))
        return float(square), float(cross)


class DeviceImages:
    """As HostImages, but only the images go to the device, and only parts of the two sums come back."""

    def __init__(self, renderer, n, factor):
        self.renderer = renderer
        self.spectra = DeviceSpectra((renderer.views.table.shape[0], n, n), 2, factor)

    def terms(self, views, per_noise):
        r, device = self.renderer, self.spectra
        # Model and images are transformed about the same pixel, whichever it is.
        r.load_images(r.images.target, views.images)
        device.fft.forward(r.images.target, r.blocks, len(views))
        weigh_into(device.terms, views, device.fft.values)
        period = per_noise.size
        scale_terms(device.terms, per_noise.astype(float_type()).reshape(-1), len(views) * period, period)
        r.forward()
        return device.compare(r.images.parts, r.images.residual, r.blocks, len(views))


def image_form(renderer, n, factor):
    """The form that suits the backend and the size."""
    return (DeviceImages if on_device(n) else HostImages)(renderer, n, factor)
