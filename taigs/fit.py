"""The loop: objective -> Adam -> densify -> held-out score -> stop, from coarse to fine."""

import logging
from dataclasses import asdict, dataclass, replace

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.device import read_integers, read_scalars
from taigs.errors import InputError, NumericalError
from taigs.kernels.adam import adam
from taigs.kernels.densify import EMPTY, add_score, assign, clear_scores, empty_marked, mark, split_marked

log = logging.getLogger("taigs")


@dataclass(frozen=True)
class Stage:
    """One level of a coarse-to-fine fit.

    Parameters
    ----------
    floor_px : float
        Smallest sigma in pixels: the main regulariser.
    n_gaussians : int
        Size to which the cloud is densified when the stage begins.
    steps : int
        Most steps; the held-out score usually ends the stage earlier.
    rate : float
        Factor on the rates of all parameters.
    """

    floor_px: float
    n_gaussians: int
    steps: int
    rate: float = 1.0


@dataclass(frozen=True)
class FitConfig:
    """Rates are per step; a stage may end before its last step, never after it."""

    rate_position_px: float = 0.03  # pixels
    rate_log_sigma: float = 0.01
    rate_quaternion: float = 0.01
    rate_mass: float = 0.2  # raw mass
    beta1: float = 0.9
    beta2: float = 0.99
    batch: int = 8  # views
    check_every: int = 5  # steps between held-out scores
    patience: int = 3  # checks without a better score that end a stage
    ceiling_px: float = 6.0  # largest sigma, pixels
    mass_min: float = 0.01  # of the mean mass: lighter Gaussians are pruned

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"{name} is {value}; expected a positive number")
        if not max(self.beta1, self.beta2) < 1:
            raise InputError(f"beta1 {self.beta1}, beta2 {self.beta2}; expected less than 1")


@dataclass
class FitResult:
    """The cloud with the best held-out score, that score, and the stages with the steps they took to reach it."""

    cloud: GaussianCloud
    score: float
    stages: list


class Fit:
    """A cloud on the device, its Adam state, and the log.

    Parameters
    ----------
    objective : ViewObjective or VolumeObjective
        `loss_and_gradient`, `held_out_score`, `score_tolerance`, `pixel_size`, and `gaussians`: the cloud in
        device memory.
    config : FitConfig
    bounds : (3,) array
        Half-widths (A) of the box beyond which Gaussians are pruned.
    progress : Progress
    """

    def __init__(self, objective, config, bounds, progress):
        self.objective = objective
        self.gaussians = objective.gaussians
        self.pixel_size = objective.pixel_size
        self.config = config
        self.bounds = bounds
        self.progress = progress
        self.history = []

    def run(self, cloud, stages):
        """Fit a cloud stage by stage, each until its held-out score no longer falls. Returns a FitResult."""
        self.begin(cloud)
        self.history = []
        best = FitResult(cloud, np.inf, [])
        total = sum(stage.steps for stage in stages)
        tie = self.objective.score_tolerance()
        for stage in stages:
            self.densify(stage)
            improved, since, taken, stage_best = False, 0, 0, np.inf
            while taken < stage.steps and since < self.config.patience:
                for _ in range(min(self.config.check_every, stage.steps - taken)):
                    loss = self.take_step(stage)
                    taken += 1
                score = self.objective.held_out_score()
                self.log(loss, score)
                self.progress.update(self.step, total, loss, score, self.gaussians.n)
                since = 0 if score < stage_best + tie else since + 1
                stage_best = min(score, stage_best)
                # Within a stage a tie goes to the later step: fine detail weighs little in the score.
                if score < (best.score + tie if improved else best.score):
                    best.cloud, improved, steps_to_best = self.gaussians.get_cloud(), True, taken
                    best.score = min(score, best.score)
            if not improved:
                break  # a finer floor only fits noise
            best.stages.append(replace(stage, steps=steps_to_best))
        return best

    def repeat(self, cloud, stages):
        """Fit a cloud for exactly the steps of the stages, without scores. Returns the cloud."""
        self.begin(cloud)
        total = sum(stage.steps for stage in stages)
        for stage in stages:
            self.densify(stage)
            for _ in range(stage.steps):
                loss = self.take_step(stage)
                self.progress.update(self.step, total, loss, None, self.gaussians.n)
        return self.gaussians.get_cloud()

    def begin(self, cloud):
        """A new cloud, step 0."""
        self.gaussians.set_cloud(cloud)
        self.step = 0

    def take_step(self, stage):
        """Render, compare, pull back, update. Returns the loss."""
        loss = self.objective.loss_and_gradient()
        if not np.isfinite(loss):
            raise NumericalError(f"step {self.step + 1}: the loss is {loss}; are images or weights extreme?")
        self.step += 1
        c, held = self.config, self.gaussians
        add_score(held.cloud, held.n_chunks)
        adam(
            held.cloud, held.n_chunks, c.beta1, c.beta2, 1 / (1 - c.beta1**self.step), 1 / (1 - c.beta2**self.step),
            *(stage.rate * rate for rate in (c.rate_position_px * self.pixel_size, c.rate_log_sigma,
                                             c.rate_quaternion, c.rate_mass)),
            np.log(stage.floor_px * self.pixel_size), np.log(c.ceiling_px * self.pixel_size),
        )  # fmt: skip
        return loss

    def densify(self, stage):
        """Prune what does not matter and split where the residual pulls most, up to the stage's size.

        The memory there is bounds the size too; and where everything would be pruned, nothing is.
        """
        cloud, n = self.gaussians.cloud, self.gaussians.n
        if self.step == 0:
            return
        limit = min(stage.n_gaussians, cloud.capacity)
        if n < limit < stage.n_gaussians:
            log.warning("no memory for more than %d Gaussians: %d were wanted", limit, stage.n_gaussians)
        scores, mass = read_scalars([cloud.score, cloud.mass], n)
        useful = np.abs(mass) >= self.config.mass_min * np.abs(mass).mean()
        wanted = min(limit - useful.sum(), useful.sum())
        threshold = np.inf
        if wanted > 0:
            threshold = np.sort(scores[useful])[-wanted - 1] if wanted < useful.sum() else -1
        mark(
            cloud, n, float(threshold), self.config.mass_min * float(np.abs(mass).mean()),
            np.log(self.config.ceiling_px * self.pixel_size) + 1e-3, *map(float, self.bounds),
        )  # fmt: skip
        if not (read_integers(cloud.action, n) != EMPTY).any():
            log.warning(
                "step %d: all %d Gaussians are outside the volume, too wide or too light; none is pruned", self.step, n
            )
            return
        self.gaussians.n = assign(cloud, n, limit)
        empty_marked(cloud, n)
        split_marked(cloud, n, np.log(stage.floor_px * self.pixel_size))
        clear_scores(cloud, self.gaussians.n)

    def log(self, loss, held_out):
        self.history.append(
            {"step": self.step, "loss": float(loss), "held_out": held_out, "gaussians": int(self.gaussians.n)}
        )
