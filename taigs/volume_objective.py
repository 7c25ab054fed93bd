"""The volume objective: with fixed poses, all images together are one quadratic form in the volume."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from taigs.accumulate import in_circle
from taigs.batches import InOneSum
from taigs.device import DeviceCloud, float_type
from taigs.direct import inside_sphere, unpad
from taigs.imaging.fourier import shell_indices
from taigs.quadratic_form import quadratic_form
from taigs.shells import shells
from taigs.views import Grid

NOISE_RANGE = (0.3, 1.0)  # of the images' power, within which the noise is looked for


@dataclass
class VolumeData:
    """W and B of a set of images on the grid of the volume itself.

    The log likelihood of a volume V is sum_k (Re conj(B) V - 1/2 W |V|^2) / noise(|k|), V its transform. Cropping
    the transforms of W and B from the padded grid to the box in real space leaves out only what would
    pair voxels further apart than half a box (measured: no difference in the result).

    Parameters
    ----------
    weight : (n, n, n // 2 + 1) float array
    data : (n, n, n // 2 + 1) complex array
    power : (n // 2 + 1,) array
        sum w |F|^2 over each shell of the images.
    noise : (n // 2 + 1,) array
        Noise variance of a coefficient of an image, per shell.
    """

    weight: np.ndarray
    data: np.ndarray
    power: np.ndarray
    noise: np.ndarray

    @classmethod
    def from_sums(cls, sums):
        """Reduce FourierSums; the noise is the power of the images until `estimate_noise`."""
        n = sums.n
        inside = shells(n).inside * 8.0  # a cell of the volume's grid stands for 8 of the padded one
        kernel = inside_sphere(unpad(sums.grid[..., 2] + 0j, n))
        weight = np.maximum(fft.rfftn(fft.ifftshift(kernel), workers=-1).real, 0)
        data = fft.rfftn(fft.ifftshift(unpad(sums.grid[..., 0] + 1j * sums.grid[..., 1], n)), workers=-1)
        mates = np.where(np.arange(n // 2 + 1) == 0, 1.0, 2.0)  # both mates of column 0 are stored
        coefficients = np.bincount(shell_indices(n).ravel(), (in_circle(n) * mates).ravel())[: n // 2 + 1]
        return cls(weight * inside, data * inside, sums.power, sums.power / (sums.view_weight * coefficients))

    def estimate_noise(self, volume):
        """Take for noise what a volume (n, n, n) leaves unexplained of the images' power; once.

        sum |F - CTF V|^2 = sum |F|^2 - 2 Re conj(B) V + W |V|^2: rotation keeps shells, so no image is needed.
        """
        transform = fft.rfftn(fft.ifftshift(volume), workers=-1)
        signal = 2 * (self.data.conj() * transform).real - self.weight * np.abs(transform) ** 2
        explained = shells(len(volume)).sum(signal)[: len(self.power)]
        left = np.clip(1 - explained / np.maximum(self.power, 1e-30), *NOISE_RANGE)
        self.noise = self.noise * left
        self.noise[0] = self.noise[1]  # the mean of an image says nothing


class VolumeObjective(InOneSum):
    """loss = 1/2 sum_k (W |V|^2 - 2 Re conj(B) V) / noise, V the transform of the cloud's volume.

    A step costs one voxelisation, two FFTs and one gather, whatever the number of images. The held-out score
    is 1 - the mean over the shells of the Fourier ring correlation between held-out images and the model's
    projections: Re<B', V> / sqrt(<V, W' V> P'), with W', B' and the images' power P' of the held-out set. It does
    not depend on the scale of a shell, as resolution does not.

    Parameters
    ----------
    gaussians : DeviceCloud
        Holds the cloud.
    n : int
        Box of the volume, voxels.
    pixel_size : float
        Angstrom.
    """

    def __init__(self, gaussians: DeviceCloud, n, pixel_size):
        self.gaussians = gaussians
        self.n = n
        self.pixel_size = pixel_size
        self.form = quadratic_form(gaussians, Grid((n, n, n), pixel_size, (n // 2,) * 3), pixel_size**-2)

    def set_data(self, fitted, held_out=None):
        """Fit `fitted` from now on, and score by `held_out` (VolumeData)."""
        per_noise = shells(self.n).spread(1 / fitted.noise)
        linear = fft.irfftn(fitted.data * per_noise, s=(self.n,) * 3, workers=-1)
        self.form.load(fitted.weight * per_noise, fft.fftshift(linear))
        self.held_out = held_out

    def volume(self):
        """(n, n, n) density of the cloud, image units per voxel."""
        volume = np.zeros((self.n,) * 3, float_type())
        return self.form.voxelizer.add(self.gaussians.n, volume, self.pixel_size**-2)

    def best_scale(self, cloud):
        """Factor on a cloud's masses under which it fits the data best."""
        self.gaussians.set_cloud(cloud)
        square, cross = self.form.terms(self.gaussians.n)
        return cross / square

    def loss_and_gradient(self):
        """Loss per image coefficient less a constant; the gradient is left on the device."""
        square, cross = self.form.terms(self.gaussians.n)
        self.form.pull()
        return 0.5 * square - cross

    def held_out_score(self):
        """1 - mean Fourier ring correlation with the held-out images, shells 1 to Nyquist."""
        return 1 - float(ring_correlation(self.held_out, self.volume())[1:].mean())

    def score_tolerance(self):
        """None: the score is smooth along a fit, since the data do not change from step to step."""
        return 0.0


def ring_correlation(data, volume):
    """Fourier ring correlation between the images of `data` (VolumeData) and a volume's projections with their CTF."""
    n = len(volume)
    transform = fft.rfftn(fft.ifftshift(volume), workers=-1)
    cross = shells(n).sum((data.data.conj() * transform).real)[: n // 2 + 1]
    square = shells(n).sum(data.weight * np.abs(transform) ** 2)[: n // 2 + 1]
    norm = np.sqrt(np.maximum(square * data.power, 0))
    # In the first shells W and B are known less exactly than a correlation near 1 asks for.
    return np.clip(np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0), -1, 1)
