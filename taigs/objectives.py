"""What a fit minimises: ``loss_and_gradient()`` on the data it may see, ``held_out_score()`` on the rest."""

import numpy as np

from taigs.batches import Batches, InBatches
from taigs.device import float_type
from taigs.kernels.layout import LAYOUT
from taigs.kernels.residual import collect, residual
from taigs.render import Renderer
from taigs.views import Views

SPARSITY = 0.2  # noise standard deviations; see ViewObjective
MODEL_SPREAD = 0.05  # noise standard deviations between the images of a cloud a few steps apart
GAIN_RANGE = 2.0  # a view's gain stays within this factor of the median view's
GAIN_MEMORY = 0.5
BLURS_PX = (0.0, 0.4, 0.7)  # tried on held-out views


class ViewObjective(InBatches):
    """Mini-batches of views, drawn and compared with the images.

    loss = 1/2 sum_v w_v sum_pixels (gain_v model_v + offset_v - image_v)^2 / sum_v w_v

    Masses are in image units x A^2: a model pixel is the mass on it over its area, whatever the binning.
    Gain and offset of a view are solved for in closed form: background removal leaves an unknown level
    in every image. A free level has a price: a positive cloud explains noise by a uniform slab which the
    level cancels, and once the slab is there, positivity no longer holds noise down. So the level is
    set `sparsity` noise standard deviations above the best one; the residual then has that mean, which
    presses on every mass like an L1 penalty and keeps empty space empty.

    Parameters
    ----------
    renderer : Renderer
        Holds the cloud; room for `batch` views of the largest image.
    views : Views
        Noise standard deviation near 1.
    train, held_out : arrays of int
        Indices of the views to fit, and of those to score.
    batch : int
    rng : numpy.random.Generator
        Order of the views.
    """

    def __init__(self, renderer: Renderer, views: Views, train, held_out, batch, rng, signed=False):
        self.renderer = self.gaussians = renderer
        self.views = views
        self.pixel_size = views.pixel_size
        self.held_out = np.asarray(held_out, int)
        self.batch = batch
        self.sparsity = 0.0 if signed else SPARSITY
        self.fit_views(train, rng)

    def fit_views(self, train, rng):
        """Fit these views from now on, in an order of `rng`, with gains started anew."""
        self.batches = Batches(train, self.views.names, rng)
        self.gains = np.ones(len(self.views))

    def state(self):
        return {"gains": self.gains.copy(), "batches": super().state()}

    def set_state(self, state):
        self.gains = state["gains"].copy()
        super().set_state(state["batches"])

    def loss_and_gradient(self, picked=None):
        """Loss of the next mini-batch per pixel (noise alone: 1); the gradient is left on the device."""
        picked = self.batches.draw(self.batch) if picked is None else picked
        statistics = self.draw(picked)
        self._solve_gains(picked, statistics)
        gain, offset = self._scale(picked), self._offsets(picked, statistics) + self.sparsity
        weights = self.views.weights[picked] / self.views.weights[picked].sum()
        r = self.renderer
        scale = np.zeros(r.images.scale.shape, float_type())
        scale[: len(picked)] = np.stack([gain, offset, weights], 1)
        r.images.scale.from_numpy(scale)
        residual(r.images, len(picked), r.height, r.width, r.blocks)
        r.backward()
        return 2 * self._statistics(len(picked))[:, 5].sum() / (r.height * r.width)

    def held_out_score(self):
        """The `blurred_score` after the blur that suits the cloud best.

        Without the blur a fit would stop as soon as its noise outweighs new detail, which a low-pass
        filter tells apart.
        """
        return min(self.blurred_score(blur) for blur in BLURS_PX)

    def blurred_score(self, blur_px):
        """Mean squared difference of the held-out images and their predictions, per pixel, weighted like the loss.

        The predictions are blurred by `blur_px` (sigma, pixels): the score of the cloud after a low-pass filter.
        """
        total = weight = 0.0
        self.renderer.views.blur[None] = blur_px**2
        for i in range(0, len(self.held_out), self.batch):
            picked = self.held_out[i : i + self.batch]
            s = self.draw(picked)
            n = self.renderer.height * self.renderer.width
            gain, offset = self._scale(picked), self._offsets(picked, s)
            square = (
                gain**2 * s[:, 1] + n * offset**2 + s[:, 4]
                + 2 * (gain * offset * s[:, 0] - gain * s[:, 2] - offset * s[:, 3])
            )  # fmt: skip
            total += (self.views.weights[picked] * square / n).sum()
            weight += self.views.weights[picked].sum()
        self.renderer.views.blur[None] = 0
        return float(total / weight)

    def score_tolerance(self):
        """Difference of held-out scores that noise alone makes between two clouds that draw nearly the same:
        twice the standard error of the mean of noise times their difference of `MODEL_SPREAD` (noise units)."""
        pixels = len(self.held_out) * np.prod(self.views.image_shape)
        return 2 * MODEL_SPREAD / np.sqrt(pixels)

    def draw(self, picked, compare=True):
        """Model images of the views into device memory, with `compare` also the images and the sums for both.

        Returns the sums of kernels/residual.py, (len(picked), 6), or None.
        """
        v, r = self.views, self.renderer
        r.set_views(v.projections[picked] / v.pixel_size, v.shifts[picked] + v.centre, v.image_shape)
        r.forward()
        if not compare:
            return None
        r.load_images(r.images.target, v.images[picked])
        collect(r.images, len(picked), r.n_parts, r.height, r.width, r.blocks)
        return self._statistics(len(picked))

    def _statistics(self, n):
        statistics = self.renderer.images.statistics.to_numpy().astype(np.float64)
        return statistics.reshape(-1, LAYOUT.strips, 6)[:n].sum(axis=1)

    def _scale(self, picked):
        """Image units per mass on a pixel."""
        return self.gains[picked] / self.views.pixel_size**2

    def _offsets(self, picked, s):
        """Least-squares levels given the gains."""
        return (s[:, 3] - self._scale(picked) * s[:, 0]) / (self.renderer.height * self.renderer.width)

    def _solve_gains(self, picked, s):
        """Least-squares gains relative to the batch's median view, averaged over visits."""
        n = self.renderer.height * self.renderer.width
        variance = s[:, 1] - s[:, 0] ** 2 / n
        slope = np.where(variance > 0, (s[:, 2] - s[:, 0] * s[:, 3] / n) / np.maximum(variance, 1e-30), 1.0)
        middle = np.median(slope)
        if middle > 0:
            new = np.clip(slope / middle, 1 / GAIN_RANGE, GAIN_RANGE)
            self.gains[picked] = GAIN_MEMORY * self.gains[picked] + (1 - GAIN_MEMORY) * new
