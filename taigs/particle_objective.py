"""The view objective of particles: mini-batches of images, splatted, with their CTF, compared in 2D."""

import numpy as np
from scipy import fft

from taigs.accumulate import weigh
from taigs.batches import Batches, InBatches
from taigs.imaging.fourier import shell_indices
from taigs.render import Renderer

BATCH = 64  # views
IMAGE_PIXELS = 1 << 20  # of one batch


def particle_renderer(capacity, n):
    """A Renderer with room for one mini-batch of n x n images."""
    return Renderer(capacity, int(np.clip(IMAGE_PIXELS // (n * n), 1, BATCH)), (n, n))


class ParticleObjective(InBatches):
    """As the volume objective, but with the likelihood of some images at a time.

    The likelihood of an image is a quadratic form in the projection P: sum_k (1/2 w CTF^2 |P|^2 - Re conj(w CTF F) P)
    / noise, with the F of the image moved to the centre. Over all views, their sum is the volume objective.
    The score is the volume objective's own.

    Parameters
    ----------
    renderer : Renderer
        Holds the cloud; its number of views is the batch.
    views : Views
    volume_objective : VolumeObjective
        Of the same cloud, with the held-out data.
    """

    def __init__(self, renderer, views, volume_objective):
        self.gaussians, self.views = renderer, views
        self.n, self.pixel_size = views.image_shape[0], views.pixel_size
        self.held_out_score = volume_objective.held_out_score
        self.score_tolerance = volume_objective.score_tolerance
        self.batch = renderer.views.table.shape[0]
        self.mates = np.where(np.arange(self.n // 2 + 1) == 0, 1.0, 2.0)

    def set_views(self, picked, noise, rng):
        """Fit these views from now on, in an order of `rng`; noise (n // 2 + 1,) per shell."""
        table = np.full(self.n + 1, np.inf)
        table[: len(noise)] = noise
        self.per_noise = 1 / table[shell_indices(self.n)]
        self.batches = Batches(picked, self.views.names, rng)

    def loss_and_gradient(self, picked=None):
        """Loss of the next mini-batch, scaled to all views; the gradient is left on the device."""
        picked = self.batches.draw(self.batch) if picked is None else picked
        n_views = len(picked)
        part, renderer = self.views.subset(picked), self.gaussians
        slices = weigh(part, fft.rfft2(fft.ifftshift(part.images, axes=(1, 2)), workers=-1))
        slices[:, :, 0] *= 2  # both mates of column 0 are stored, each with half of the weight
        slices *= self.per_noise[..., None] * (len(self.batches.picked) / n_views)
        centre = np.full((n_views, 2), self.n // 2)
        renderer.set_views(part.projections / self.pixel_size, centre, part.image_shape)
        renderer.forward()
        images = renderer.get_images() * self.pixel_size**-2
        transform = fft.rfft2(fft.ifftshift(images, axes=(1, 2)), workers=-1)
        product, data = slices[..., 2] * transform, slices[..., 0] + 1j * slices[..., 1]
        # The loss and its gradient have the scale of the volume objective: 1 / n^3 before the sum over k.
        loss = (self.mates * (transform.conj() * (0.5 * product - data)).real).sum() / self.n**3
        residual = fft.irfft2(product - data, s=part.image_shape, workers=-1) * (self.pixel_size**-2 / self.n)
        renderer.load_images(renderer.images.residual, fft.fftshift(residual, axes=(1, 2)))
        renderer.backward()
        return float(loss)
