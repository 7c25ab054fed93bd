"""A run that is stopped after every few steps, and resumed each time, ends in the bits of one that was not."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import reference
from scenes import PIXEL_SIZE, random_cloud
from test_spa import gathered, simulated
from test_tilt_pipeline import GRID, aligned, phantom

from taigs import particle_fit
from taigs.accumulate import accumulate
from taigs.errors import StoppedError
from taigs.fit import Fit
from taigs.geometry import imod_views_geometry
from taigs.journal import Journal
from taigs.objectives import ViewObjective
from taigs.particle_fit import ParticleFit
from taigs.progress import NoProgress
from taigs.render import Renderer
from taigs.schedule import FitConfig, Stage
from taigs.tilt import reconstruct_tilt_series
from taigs.views import Grid, Views
from taigs.volume_fit import fit_volume


class Stopping(Journal):
    """Stops its run after some steps, as a signal would."""

    steps = 1

    def tick(self, name, step, make_state):
        self.steps -= 1
        self.stop = None if self.steps else signal.SIGTERM
        super().tick(name, step, make_state)


def resumed(open_journal, run, steps, minutes=60.0):
    """(result of `run(journal)` in processes that take no more than some steps each, how many of them)."""
    kind = type("Stopping", (Stopping,), {"steps": steps})
    for n in range(1, 1000):
        try:
            return run(open_journal(resume=n > 1, minutes=minutes, kind=kind)), n
        except StoppedError:
            continue
    raise AssertionError("no end")


def same_bits(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    return same_bits(vars(a), vars(b)) if hasattr(a, "__dataclass_fields__") else a == b


STAGES = [Stage(1.2, 60, 6), Stage(0.8, 110, 5, rate=0.7, last_rate=0.1)]
SHAPE = (32, 40)


@pytest.fixture
def renderer(cpu32, renderers):
    if "resume" not in renderers:
        renderers["resume"] = Renderer(200, 3, SHAPE)
    return renderers["resume"]


def views_of(cloud, rng, renderer):
    """Nine noisy views."""
    projections, shifts = imod_views_geometry(np.linspace(-60, 60, 9))
    views = Views(np.zeros((9, *SHAPE)), projections, shifts, PIXEL_SIZE, np.array([19.5, 15.5]), np.ones(9))
    images = []
    for i in range(0, 9, 3):
        renderer.set_cloud(cloud)
        renderer.set_views(projections[i : i + 3] / PIXEL_SIZE, shifts[i : i + 3] + views.centre, SHAPE)
        renderer.forward()
        images.append(renderer.get_images() / PIXEL_SIZE**2)
    clean = np.concatenate(images)
    return replace(views, images=clean + rng.normal(0, 0.5 * clean.std(), clean.shape))


@pytest.mark.parametrize("method", ["run", "repeat"])
def test_a_fit_to_views_resumed_at_every_step(renderer, rng, open_journal, method):
    views = views_of(random_cloud(rng, 12, (24, 14, 14), sigmas=(1.5, 3.0)), rng, renderer)
    seeds = random_cloud(rng, 60, (30, 20, 20), sigmas=(1.5, 3.0))

    def fit(journal):
        objective = ViewObjective(renderer, views, np.setdiff1d(np.arange(9), 4), [4], 3, np.random.default_rng(5))
        one = Fit(objective, FitConfig(batch=3, check_every=2), np.full(3, 1e3), NoProgress(), journal)
        return getattr(one, method)(seeds, STAGES), one.history, one.state()

    undisturbed = fit(Journal())
    found, n = resumed(open_journal, fit, 1)
    assert n == 12, "11 steps, and the rest of the last"
    assert same_bits(undisturbed, found)


def test_sums_of_images_resumed_after_every_chunk(cpu32, open_journal, monkeypatch):
    views = simulated()
    monkeypatch.setattr("taigs.accumulate.CHUNK_PIXELS", 40 * views.images[0].size)

    def sums(journal):
        return accumulate(views, np.arange(7, 150), np.eye(3)[None], NoProgress(), journal, "reading")

    undisturbed = sums(Journal())
    found, n = resumed(open_journal, sums, 1)
    assert n == 5, "143 images in chunks of 40, and the end"
    assert same_bits(undisturbed, found)


@pytest.mark.parametrize("objective", ["volume", "both"])
def test_a_fit_to_particles_resumed_every_few_steps(cpu32, open_journal, monkeypatch, objective):
    for name, plan in (
        ("COARSE_TO_FINE", ((0.5, 0.5, 7, 1.0), (0.35, 1.0, 4, 0.5))),
        ("REFINE", ((0.35, 1.0, 3, 0.5),)),
    ):
        monkeypatch.setattr(particle_fit, name, plan)
    monkeypatch.setattr(particle_fit, "FEWEST_GAUSSIANS", 300)
    coarse, refine = particle_fit.COARSE_TO_FINE, particle_fit.REFINE
    monkeypatch.setattr(
        particle_fit, "SCHEDULES", {"volume": (("volume", coarse),), "both": (("volume", coarse), ("views", refine))}
    )
    sets, _ = gathered()
    sets = [replace(one, seed=np.where(one.seed > np.sort(one.seed.ravel())[-900], one.seed, 0)) for one in sets]
    fitter = ParticleFit(simulated(), objective, "map", sets, NoProgress())

    def run(journal):
        fitter.journal = journal
        found = journal.part("half 1", lambda: fitter.run(sets[0], sets[1], np.random.default_rng(1), "half 1"))
        return found, journal.part(
            "all", lambda: fitter.repeat(found.schedule, sets[2], np.random.default_rng(2), "all")
        )

    undisturbed = run(Journal())
    found, n = resumed(open_journal, run, 3)
    assert n > 4
    assert same_bits(undisturbed, found)


def test_a_fit_to_a_map_resumed_every_few_steps(cpu32, rng, open_journal, monkeypatch):
    volume = reference.voxelize(random_cloud(rng, 25, (14, 11, 7), sigmas=(1.0, 2.0)), Grid((13, 18, 21), PIXEL_SIZE))
    for name, steps in (("STEPS", 8), ("LAST_STEPS", 9)):
        monkeypatch.setattr(f"taigs.volume_fit.{name}", steps)

    def fit(journal):
        result = fit_volume(volume, PIXEL_SIZE, gaussians=100, journal=journal)
        return result.cloud, result.volume, [replace(row, seconds=0) for row in result.rows]

    undisturbed = fit(Journal())
    for minutes in (0, 60.0):  # levels kept, and computed again
        found, n = resumed(open_journal, fit, 5, minutes)
        assert n > 3 and len(found[2]) > 1
        assert same_bits(undisturbed, found)


def test_a_tomogram_resumed_every_few_steps(cpu32, open_journal, monkeypatch):
    monkeypatch.setattr("taigs.tilt.STEPS", 20)
    views = aligned(phantom()[0])

    def run(journal):
        result = reconstruct_tilt_series(views, GRID.shape[0], journal=journal)
        return result.cloud, result.volume, result.history, result.settings

    undisturbed = run(Journal())
    found, n = resumed(open_journal, run, 25, 0)
    assert n > 2
    assert same_bits(undisturbed, found)
