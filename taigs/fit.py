"""The loop: objective -> Adam -> densify -> held-out score -> stop, from coarse to fine."""

import logging
import math
from dataclasses import replace

import numpy as np

from taigs.device import read_rows, read_scalars
from taigs.errors import NumericalError
from taigs.journal import Journal
from taigs.kernels.adam import adam, gradient_size
from taigs.kernels.densify import EMPTY, add_score, assign, clear_scores, empty_marked, mark, split_marked
from taigs.schedule import FitResult, Place

log = logging.getLogger("taigs")
GROWTH = 100.0  # times the loss of the first steps: more is divergence
FIRST_STEPS = 10
RISES = 50  # steps in a row, each with a larger loss: likewise


class Fit:
    """A cloud on the device, its Adam state, and the log.

    Parameters
    ----------
    objective : ViewObjective or VolumeObjective
        `loss_and_gradient`, `held_out_score`, `score_tolerance`, `leave_out_bad`, `state` and `set_state`,
        `pixel_size`, and `gaussians`: the cloud in device memory.
    config : FitConfig
    bounds : (3,) array
        Half-widths (A) of the box beyond which Gaussians are pruned.
    progress : Progress
    journal : Journal, optional
        Keeps the state of the fit, from which `run` and `repeat` then go on.
    part : str
        Name of the fit in the journal.
    """

    def __init__(self, objective, config, bounds, progress, journal=None, part="fit"):
        self.objective = objective
        self.gaussians = objective.gaussians
        self.pixel_size = objective.pixel_size
        self.config = config
        self.bounds = bounds
        self.progress = progress
        self.journal = journal or Journal()
        self.part = part
        self.history = []

    def run(self, cloud, stages):
        """Fit a cloud stage by stage, each until its held-out score no longer falls. Returns a FitResult."""
        self.begin(cloud)
        total = sum(stage.steps for stage in stages)
        tie = self.objective.score_tolerance()
        while self.at.stage < len(stages):
            stage = stages[self.at.stage]
            self.enter(stage)
            while self.at.taken < stage.steps and self.at.since < self.config.patience:
                loss, score = self.advance(stage), None
                if self.at.taken % self.config.check_every == 0 or self.at.taken == stage.steps:
                    score = self.check(loss, tie)
                self.report(self.at.step, total, loss, score)
            if not self.at.improved:
                break  # a finer floor only fits noise
            self.best.stages.append(replace(stage, steps=self.at.steps_to_best))
            self.leave()
        return self.best

    def repeat(self, cloud, stages):
        """Fit a cloud for exactly the steps of the stages, without scores. Returns the cloud."""
        self.begin(cloud)
        total = sum(stage.steps for stage in stages)
        while self.at.stage < len(stages):
            self.complete(stages[self.at.stage], total)
            self.leave()
        return self.gaussians.get_cloud()

    def complete(self, stage, total=None):
        """All steps of a stage, one of `total` steps or by itself."""
        self.enter(stage)
        while self.at.taken < stage.steps:
            loss = self.advance(stage)
            self.report(*((self.at.step, total) if total else (self.at.taken, stage.steps)), loss)

    def begin(self, cloud):
        """A new cloud, step 0; or where the journal says that this fit stood."""
        self.gaussians.set_cloud(cloud)
        self.at, self.best, self.history = Place(), FitResult(cloud, math.inf, []), []
        self.resume()

    def resume(self):
        """Go on where the journal says that this fit stood, if it does."""
        if (kept := self.journal.restore(self.part)) is not None:
            self.set_state(kept)
            self.good = kept  # otherwise the first stage begins with one

    def enter(self, stage):
        """Give the cloud the size of a stage, once."""
        if not self.at.entered:
            self.densify(stage)
            self.gaussians.sort(max(self.bounds))
            self.at.entered = True
            self.good = self.state()

    def leave(self):
        """On to the next stage."""
        at = self.at
        self.at = Place(at.step, at.stage + 1, slowed=at.slowed, loss=at.loss, first_loss=at.first_loss)

    def advance(self, stage):
        """A step of a stage, and from time to time a copy of the state to roll back to. Returns the loss."""
        loss = self.take_step(stage)
        while self.diverges(loss):
            self.roll_back()
            loss = self.take_step(stage)
        self.at.taken += 1
        if self.at.taken % self.config.check_every == 0:
            self.good = self.state()
        return loss

    def take_step(self, stage):
        """Render, compare, pull back, update. Returns the loss.

        Raises
        ------
        NumericalError
            Loss or gradient is not finite; the cloud is as it was before, and in the journal.
        """
        held = self.gaussians
        loss = self.objective.loss_and_gradient()
        while not self._is_finite(loss):
            self.refuse(loss)
            loss = self.objective.loss_and_gradient()
        self.at.step += 1
        c, step, rate = self.config, self.at.step, self.at.slowed * stage.rate_at(self.at.taken)
        add_score(held.cloud, held.n_chunks)
        adam(
            held.cloud, held.n_chunks, c.beta1, c.beta2, 1 / (1 - c.beta1**step), 1 / (1 - c.beta2**step),
            *(rate * own for own in (c.rate_position_px * self.pixel_size, c.rate_log_sigma,
                                     c.rate_quaternion, c.rate_mass)),
            np.log(stage.floor_px * self.pixel_size), np.log(c.ceiling_px * self.pixel_size),
        )  # fmt: skip
        return loss

    def densify(self, stage):
        """Prune what does not matter and split where the residual pulls most, up to the stage's size.

        The memory there is bounds the size too; and where everything would be pruned, nothing is.
        """
        cloud, n = self.gaussians.cloud, self.gaussians.n
        if self.at.step == 0:
            return
        limit = min(stage.n_gaussians, cloud.capacity)
        if n < limit < stage.n_gaussians:
            log.warning("no memory for more than %d Gaussians: %d were wanted", limit, stage.n_gaussians)
        scores, mass = read_rows(cloud, n)[-2:]
        useful = np.abs(mass) >= self.config.mass_min * np.abs(mass).mean()
        wanted = min(limit - useful.sum(), useful.sum())
        threshold = np.inf
        if wanted > 0:
            threshold = np.sort(scores[useful])[-wanted - 1] if wanted < useful.sum() else -1
        mark(
            cloud, n, float(threshold), self.config.mass_min * float(np.abs(mass).mean()),
            np.log(self.config.ceiling_px * self.pixel_size) + 1e-3, *map(float, self.bounds),
        )  # fmt: skip
        if not (read_scalars([cloud.action], n, np.int32) != EMPTY).any():
            log.warning(
                "step %d: all %d Gaussians are outside, too wide or too light; none is pruned",
                self.at.step,
                n,
            )
            return
        self.gaussians.n = assign(cloud, n, limit)
        empty_marked(cloud, n)
        split_marked(cloud, n, np.log(stage.floor_px * self.pixel_size))
        clear_scores(cloud, self.gaussians.n)

    def check(self, loss, tie):
        """Score the held-out data and keep the cloud if it is the best so far. Returns the score."""
        at, best, score = self.at, self.best, self.objective.held_out_score()
        self.history.append(
            {"step": at.step, "loss": float(loss), "held_out": score, "gaussians": int(self.gaussians.n)}
        )
        at.since = 0 if score < at.stage_best + tie else at.since + 1
        at.stage_best = min(score, at.stage_best)
        # Within a stage a tie goes to the later step: fine detail weighs little in the score.
        if score < (best.score + tie if at.improved else best.score):
            best.cloud, at.improved, at.steps_to_best = self.gaussians.get_cloud(), True, at.taken
            best.score = min(score, best.score)
        return score

    def report(self, step, total, loss, score=None):
        """What follows every step: a checkpoint if one is due, and a word to who is waiting."""
        self.journal.tick(self.part, self.at.step, self.state)
        self.progress.update(step, total, loss, score, self.gaussians.n)

    def diverges(self, loss):
        """Whether the loss grows as it never should."""
        at = self.at
        if at.step <= FIRST_STEPS:
            at.first_loss = max(at.first_loss, abs(loss))
        at.rises = at.rises + 1 if loss > at.loss else 0
        at.loss = loss
        return loss > GROWTH * at.first_loss or at.rises >= RISES

    def roll_back(self):
        """Back to the last good state, with half the rates; the second time, the fit is given up."""
        loss, step, again = self.at.loss, self.at.step, self.at.slowed < 1
        self.set_state(self.good)
        if again:
            self.journal.save(self.part, self.at.step, self.state())
            raise NumericalError(
                f"{self.part}: diverged again at step {step} (loss {loss:.4g}), with half the rates; "
                "are pixel size, weights or CTF wrong?"
            )
        self.at.slowed = 0.5
        log.warning("%s: diverged at step %d (loss %.4g); back to step %d", self.part, step, loss, self.at.step)

    def refuse(self, loss):
        """Leave out the views whose loss or gradient is not finite; end the fit if that does not help."""
        try:
            self.objective.leave_out_bad(self._is_finite)
        except NumericalError as error:
            self.journal.save(self.part, self.at.step, self.state())
            raise NumericalError(f"{self.part}, step {self.at.step + 1}: loss {loss}: {error}") from None

    def _is_finite(self, loss):
        return np.isfinite(loss) and np.isfinite(gradient_size(self.gaussians.cloud, self.gaussians.n_chunks))

    def state(self):
        """All that later steps depend on, for `set_state`."""
        return {
            "place": replace(self.at),
            "best": replace(self.best, stages=list(self.best.stages)),
            "history": list(self.history),
            "cloud": self.gaussians.state(),
            "objective": self.objective.state(),
        }

    def set_state(self, state):
        self.at = replace(state["place"])
        self.best = replace(state["best"], stages=list(state["best"].stages))
        self.history = list(state["history"])
        self.gaussians.set_state(state["cloud"])
        self.objective.set_state(state["objective"])
