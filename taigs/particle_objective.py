"""The view objective of particles: mini-batches of images, splatted, with their CTF, compared in 2D."""

import numpy as np

from taigs.batches import Batches, InBatches
from taigs.image_form import image_form
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
    / noise, with the F of the image moved to the centre. Over all views, their sum is the volume objective, and has
    its scale: 1 / n^3 before the sum over k.
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
        self.form = image_form(renderer, self.n, self.pixel_size**-2)

    def set_views(self, picked, noise, rng):
        """Fit these views from now on, in an order of `rng`; noise (n // 2 + 1,) per shell."""
        table = np.full(self.n + 1, np.inf)
        table[: len(noise)] = noise
        self.per_noise = 1 / table[shell_indices(self.n)]
        self.per_noise[:, 0] *= 2  # both mates of column 0 are stored, each with half of the weight
        self.batches = Batches(picked, self.views.names, rng)

    def loss_and_gradient(self, picked=None):
        """Loss of the next mini-batch, scaled to all views; the gradient is left on the device."""
        picked = self.batches.draw(self.batch) if picked is None else picked
        part, renderer = self.views.subset(picked), self.gaussians
        centre = np.full((len(picked), 2), self.n // 2)
        renderer.set_views(part.projections / self.pixel_size, centre, part.image_shape)
        square, cross = self.form.terms(part, self.per_noise * (len(self.batches.picked) / len(picked)))
        renderer.backward()
        return 0.5 * square - cross
