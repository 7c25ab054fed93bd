"""What a fit does when things go wrong: views that are not finite are left out, divergence is rolled back once."""

import logging

import numpy as np
import pytest

from taigs.batches import Batches, InOneSum
from taigs.device import DeviceCloud, read_scalars
from taigs.errors import NumericalError
from taigs.fit import FIRST_STEPS, GROWTH, RISES, Fit
from taigs.progress import NoProgress
from taigs.schedule import FitConfig, Stage
from taigs.seeds import random_cloud

STAGE = Stage(0.5, 40, 100)


class Told(InOneSum):
    """An objective whose loss is told in advance, with a gradient of `pull` on every position."""

    pixel_size = 1.0

    def __init__(self, gaussians, losses, pull=1.0):
        self.gaussians, self.losses, self.pull, self.calls = gaussians, list(losses), pull, 0

    def loss_and_gradient(self):
        self.calls += 1
        for field in self.gaussians.cloud.v_raw[:3]:
            field.fill(self.pull)
        return self.losses.pop(0) if len(self.losses) > 1 else self.losses[0]

    def held_out_score(self):
        return -float(self.calls)

    def score_tolerance(self):
        return 0.0


@pytest.fixture
def told(cpu32, renderers, rng, open_journal):
    """A function that prepares a fit by the losses it is told."""
    if "guards" not in renderers:
        renderers["guards"] = DeviceCloud(64)
    seeds = random_cloud(30, 5.0, 1.0, rng)

    def prepare(losses, **options):
        fit = Fit(
            Told(renderers["guards"], losses, **options), FitConfig(), np.full(3, 1e3), NoProgress(), open_journal()
        )
        fit.begin(seeds)
        return fit, seeds

    return prepare


def raw(fit):
    return read_scalars(fit.gaussians.cloud.raw, fit.gaussians.n)


@pytest.mark.parametrize("pull", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_never_reaches_the_model_and_the_state_is_kept(told, checkpoints, pull):
    fit, _ = told([1.0], pull=pull)
    before = raw(fit)
    with pytest.raises(NumericalError, match=r"fit, step 1: loss 1\.0: the objective is not finite"):
        fit.take_step(STAGE)
    np.testing.assert_array_equal(raw(fit), before)
    assert (checkpoints / "fit.step-00000000.npz").exists()


def test_a_loss_that_explodes_is_rolled_back_once_with_half_the_rates(told, caplog):
    quiet = [1.0] * (FIRST_STEPS + 2)
    fit, seeds = told([*quiet, 2 * GROWTH, 1.0])
    with caplog.at_level(logging.WARNING):
        fit.repeat(seeds, [Stage(0.5, 40, 15)])
    # The last good state is that of step 10, so steps 11 and 12 are taken again, after the one that exploded.
    assert "diverged at step 13 (loss 200); back to step 10" in caplog.text
    assert fit.at.step == 15 and fit.at.slowed == 0.5 and fit.objective.calls == 15 + 3

    slow, fast = (told([1.0], pull=1.0)[0] for _ in range(2))
    slow.at.slowed = 0.5
    moved = []
    for one in (slow, fast):
        one.begin(seeds)
        one.at.slowed = 0.5 if one is slow else 1.0
        before = raw(one)
        one.take_step(STAGE)
        moved.append(raw(one) - before)
    np.testing.assert_allclose(moved[0][:3], 0.5 * moved[1][:3], rtol=1e-3)
    assert np.abs(moved[0][:3]).min() > 0


def test_the_second_time_the_fit_is_given_up_and_the_last_good_state_kept(told, open_journal):
    fit, seeds = told([*[1.0] * 12, 2 * GROWTH])
    with pytest.raises(NumericalError, match=r"fit: diverged again at step 11 \(loss 200\), with half the rates"):
        fit.repeat(seeds, [STAGE])
    good = raw(fit)
    kept = open_journal(resume=True).restore("fit")
    np.testing.assert_array_equal(kept["cloud"]["rows"][:11, : len(seeds)], good)
    assert kept["place"].step == 10 and np.isfinite(good).all()


def test_a_loss_that_rises_without_end_is_divergence_and_one_that_trembles_is_not(told):
    rising = (1 + 1e-3 * np.arange(1000)).tolist()
    fit, seeds = told(rising)
    with pytest.raises(NumericalError, match="diverged again"):
        fit.repeat(seeds, [Stage(0.5, 40, 3 * RISES)])
    trembling = np.random.default_rng(0).uniform(1, 0.9 * GROWTH, 1000).tolist()
    fit, seeds = told([GROWTH, *trembling])
    fit.repeat(seeds, [Stage(0.5, 40, 3 * RISES)])
    assert fit.at.slowed == 1


def test_a_negative_loss_as_of_particles_is_no_divergence(told):
    fit, seeds = told(np.linspace(-1.0, -900.0, 60).tolist())
    fit.repeat(seeds, [Stage(0.5, 40, 60)])
    assert fit.at.slowed == 1


# --- views ------------------------------------------------------------------------------------------------


def test_batches_are_all_views_again_and_again(rng):
    batches = Batches(np.arange(10, 17), (), rng)
    drawn = np.concatenate([batches.draw(3) for _ in range(14)])
    assert (np.bincount(drawn)[10:] == 6).all()
    assert len(batches.draw(100)) == 7


def test_bad_views_are_left_out_by_name_up_to_a_thousandth(rng, caplog):
    batches = Batches(np.arange(2500), [f"{i + 1}@p.mrcs" for i in range(2500)], rng)
    bad = set(batches.draw(50)[[3, 8]].tolist())
    with caplog.at_level(logging.WARNING):
        batches.leave_out(bad.__contains__)
    assert all(f"{view + 1}@p.mrcs" in caplog.text for view in bad)
    assert not bad & {view for _ in range(100) for view in batches.draw(50).tolist()}
    another = int(batches.draw(50)[0])
    with pytest.raises(NumericalError, match=f"^{another + 1}@p.mrcs: loss or gradient is not finite"):
        batches.leave_out(lambda view: view == another)


def test_when_no_view_is_to_blame_that_is_said(rng):
    batches = Batches(np.arange(5000), (), rng)
    batches.draw(8)
    with pytest.raises(NumericalError, match="no view is to blame"):
        batches.leave_out(lambda view: False)


def test_batches_go_on_where_they_were(rng):
    first = Batches(np.arange(3000), (), rng)
    first.draw(64)
    first.leave_out(lambda view: view == first.last[5])
    state = first.state()
    expected = [first.draw(64).tolist() for _ in range(60)]
    again = Batches(np.arange(3000), (), np.random.default_rng(99))
    again.set_state(state)
    assert [again.draw(64).tolist() for _ in range(60)] == expected and again.allowed == first.allowed
