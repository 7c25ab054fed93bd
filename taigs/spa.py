"""Particles: a fit of each half-set, stopped by the other, then a fit of all the data with the agreed schedule."""

import time
from dataclasses import dataclass, replace

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.device import DeviceCloud
from taigs.errors import InputError
from taigs.fit import Fit, FitConfig, Stage
from taigs.particle_data import NegatedImages, deal_half_sets, gather
from taigs.particle_objective import ParticleObjective, particle_renderer
from taigs.progress import NoProgress
from taigs.seeds import cloud_from_volume, random_cloud
from taigs.symmetry import symmetry_matrices
from taigs.views import Grid, Views
from taigs.volume_objective import VolumeObjective, ring_correlation

CONFIG = FitConfig(rate_position_px=0.07, rate_log_sigma=0.01, rate_quaternion=0.01, rate_mass=0.03)
VOXELS_PER_GAUSSIAN = 3.5  # voxels of the seed map for a Gaussian of the last stage
FEWEST_GAUSSIANS = 50
SEED_SIGMA_PX = 0.65
RANDOM_SPREAD = 0.3  # of half the box: standard deviation of random positions
RANDOM_SIGMA_PX = 2.0
FROM_RANDOM = Stage(floor_px=0.65, n_gaussians=0, steps=100, rate=8.0)  # random Gaussians have far to go
COARSE_TO_FINE = ((0.5, 0.5, 80, 1.0), (0.35, 1.0, 60, 0.5))  # smallest sigma (px), share of Gaussians, steps, rate
REFINE = ((0.35, 1.0, 60, 0.5),)
SCHEDULES = {  # which objective is minimised in which stages
    "volume": (("volume", COARSE_TO_FINE),),
    "views": (("views", COARSE_TO_FINE),),
    "both": (("volume", COARSE_TO_FINE), ("views", REFINE)),
}


@dataclass
class ParticleResult:
    """What `reconstruct_particles` found.

    Parameters
    ----------
    cloud : GaussianCloud
        Fitted to all particles; masses in image units x A^2.
    volumes : dict of str to (n, n, n) float32 array
        ``map`` is the cloud's density, ``half1`` and ``half2`` those of the halves' own clouds; ``direct``,
        ``direct_half1`` and ``direct_half2`` the direct Fourier maps. Image units per voxel, centre n // 2, unfiltered.
    half_sets : (V,) array of int
        1 or 2 for each view.
    histories : list of dict
        half, step, loss, held_out, gaussians; one half after the other.
    agreement : dict
        "taigs" and "direct Fourier" -> (n // 2 + 1,) correlation in each shell of a half's map with the images of
        the *other* half, mean of both.
    seconds : dict
        Of each part.
    settings : dict
        What was decided on the way.
    notes : list of str
        What a reader should know.
    """

    cloud: GaussianCloud
    volumes: dict
    half_sets: np.ndarray
    histories: list
    agreement: dict
    seconds: dict
    settings: dict
    notes: list


def reconstruct_particles(
    views: Views, symmetry="C1", objective="volume", init="map", contrast="auto", seed=0, progress=None
):
    """Reconstruct particles with known poses as a cloud of Gaussians.

    The half-sets are fitted apart, each from its own direct Fourier map; each stops when its agreement with the
    images of the other no longer grows. All particles are then fitted with the schedule the halves agreed on.

    Parameters
    ----------
    views : Views
        Square images with the centre at n // 2, `ctf` and, if poses were refined in two halves, `half_sets`.
    symmetry : str
        Point group: C1, C2, ..., D2, ..., T, O, I.
    objective : {"volume", "views", "both"}
        Fit the Fourier sums of all particles; mini-batches of particles; or first the one, then the other.
    init : {"map", "random"}
        Where the Gaussians start: drawn from the direct map, or anywhere in the box.
    contrast : {"auto", "bright", "dark"}
        What dense matter looks like; "dark" images are negated.
    seed : int
        Same seed, views and version: same bits on the CPU, whatever the number of threads.
    progress : Progress, optional

    Returns
    -------
    ParticleResult

    Raises
    ------
    InputError
        Images that are not square or not centred at n // 2, or fewer than two views in a half-set.
    """
    n = views.image_shape[0]
    if views.image_shape != (n, n) or tuple(views.centre) != (n // 2, n // 2):
        raise InputError(f"images {views.image_shape}, centre {tuple(views.centre)}; expected square, centre n // 2")
    progress = progress or NoProgress()
    # Random numbers of its own for each fit: no half depends on the other.
    *rngs, dealer = (np.random.default_rng([seed, i]) for i in range(4))
    notes, clock = [], Clock()
    half_sets = deal_half_sets(views, dealer)
    if views.half_sets is None:
        notes.append(
            "No half-sets in the input (rlnRandomSubset): particles were dealt out at random. If their poses were "
            "refined together, the FSC between the halves is too good."
        )
    sets, dark = gather(views, half_sets, symmetry_matrices(symmetry), contrast, progress)
    if dark:
        views = replace(views, images=NegatedImages(views.images))
    notes.append(f"Dense matter is {'dark in the images: they were negated' if dark else 'bright in the images'}.")
    clock.lap("reading, gridding and direct Fourier maps")
    fitter = ParticleFit(views, objective, max(sizes(one)[-1] for one in sets), progress)
    fits = []
    for half in (0, 1):
        progress.stage(f"fitting half {half + 1}")
        start = fitter.start(sets[half], init, rngs[half])
        fits.append(fitter.run(start, sets[half], sets[1 - half], rngs[half]))
    clock.lap("fits of the halves")
    progress.stage("fitting all particles")
    schedule = agree(fits[0].schedule, fits[1].schedule)
    cloud = fitter.repeat(fitter.start(sets[2], init, rngs[2]), schedule, sets[2], rngs[2])
    clock.lap("fit of all particles")
    half_maps = [fitter.volume(fit.cloud) for fit in fits]
    names = ("direct_half1", "direct_half2", "direct")
    volumes = {"map": fitter.volume(cloud), "half1": half_maps[0], "half2": half_maps[1]}
    volumes |= {name: one.direct for name, one in zip(names, sets, strict=True)}
    agreement = {
        name: np.mean([ring_correlation(sets[1 - half].data, maps[half]) for half in (0, 1)], axis=0)
        for name, maps in (("taigs", half_maps), ("direct Fourier", [one.direct for one in sets[:2]]))
    }
    settings = {
        "objective": objective,
        "seeds": "from the direct map" if init == "map" else "at random",
        "symmetry": symmetry.upper(),
        "stages (smallest sigma in px: steps), half 1": describe(fits[0].schedule),
        "stages (smallest sigma in px: steps), half 2": describe(fits[1].schedule),
        "stages (smallest sigma in px: steps), all particles": describe(schedule),
        "held-out score of the halves (1 - mean ring correlation)": ", ".join(f"{fit.score:.4f}" for fit in fits),
    }
    history = [{"half": half + 1, **row} for half, fit in enumerate(fits) for row in fit.history]
    return ParticleResult(cloud, volumes, half_sets, history, agreement, clock.laps, settings, notes)


@dataclass
class HalfFit:
    """The cloud of a half with its best held-out score, the stages that led to it, and the log."""

    cloud: GaussianCloud
    score: float
    schedule: list
    history: list


class ParticleFit:
    """Fits clouds to ParticleSets, by the objectives of a schedule one after the other; holds the device memory."""

    def __init__(self, views, objective, capacity, progress):
        n, self.pixel_size, self.progress = views.image_shape[0], views.pixel_size, progress
        self.plan = SCHEDULES[objective]
        self.grid = Grid((n, n, n), self.pixel_size, (n // 2,) * 3)
        names = [name for name, _ in self.plan]
        gaussians = particle_renderer(capacity, n) if "views" in names else DeviceCloud(capacity)
        self.volume_objective = VolumeObjective(gaussians, n, self.pixel_size)
        self.objectives = {"volume": self.volume_objective}
        if "views" in names:
            self.objectives["views"] = ParticleObjective(gaussians, views, self.volume_objective)
        self.bounds = np.full(3, n * self.pixel_size / 2)

    def start(self, particles, init, rng):
        """The first cloud: drawn from the seed map, or from the volume that a coarse fit of random Gaussians makes."""
        n, sigma = sizes(particles)[0], SEED_SIGMA_PX * self.pixel_size
        seed = particles.seed
        if init == "random":
            cloud = random_cloud(n, RANDOM_SPREAD * self.bounds[0], RANDOM_SIGMA_PX * self.pixel_size, rng)
            self.volume_objective.set_data(particles.data)
            cloud = replace(cloud, masses=cloud.masses * self.volume_objective.best_scale(cloud))
            fit = Fit(self.volume_objective, CONFIG, self.bounds, self.progress)
            seed = self.volume(fit.repeat(cloud, [replace(FROM_RANDOM, n_gaussians=n)]))
        return cloud_from_volume(seed / self.pixel_size, self.grid, n, sigma, rng)

    def run(self, cloud, particles, held_out, rng):
        """Fit until the score on the other half no longer improves. Returns a HalfFit."""
        self._load(particles, held_out, rng)
        found = HalfFit(cloud, np.inf, [], [])
        for name, plan in self.plan:
            fit = Fit(self.objectives[name], CONFIG, self.bounds, self.progress)
            best = fit.run(found.cloud, stages(plan, particles))
            found.history += fit.history
            if best.score < found.score:
                found.cloud, found.score = best.cloud, best.score
                found.schedule.append((name, best.stages))
        return found

    def repeat(self, cloud, schedule, particles, rng):
        """Fit all particles with a schedule of HalfFits. Returns the cloud."""
        self._load(particles, None, rng)
        for name, agreed in schedule:
            fit = Fit(self.objectives[name], CONFIG, self.bounds, self.progress)
            own = zip(agreed, stages(dict(self.plan)[name], particles), strict=False)
            cloud = fit.repeat(cloud, [replace(one, n_gaussians=mine.n_gaussians) for one, mine in own])
        return cloud

    def volume(self, cloud):
        """(n, n, n) density of a cloud, image units per voxel."""
        self.volume_objective.gaussians.set_cloud(cloud)
        return self.volume_objective.volume()

    def _load(self, particles, held_out, rng):
        self.volume_objective.set_data(particles.data, held_out and held_out.data)
        if "views" in self.objectives:
            self.objectives["views"].set_views(particles.picked, particles.data.noise, rng)


def sizes(particles):
    """Gaussians in each stage of `COARSE_TO_FINE`, by the size of the seed map."""
    last = np.count_nonzero(particles.seed) / VOXELS_PER_GAUSSIAN
    return [max(FEWEST_GAUSSIANS, int(last * share)) for _, share, _, _ in COARSE_TO_FINE]


def stages(plan, particles):
    """Stages of a plan for these particles."""
    last = sizes(particles)[-1]
    return [Stage(floor, max(FEWEST_GAUSSIANS, int(last * share)), steps, rate) for floor, share, steps, rate in plan]


def agree(*schedules):
    """The stages that all schedules went through, with the mean of their steps."""
    agreed = []
    for parts in zip(*schedules, strict=False):
        together = zip(*(part_stages for _, part_stages in parts), strict=False)
        mean = [replace(s[0], steps=round(np.mean([one.steps for one in s]))) for s in together]
        agreed.append((parts[0][0], mean))
    return agreed


def describe(schedule):
    """A schedule in words: volume 0.5: 80, 0.35: 15."""
    return "; ".join(f"{name} " + ", ".join(f"{s.floor_px:g}: {s.steps}" for s in part) for name, part in schedule)


class Clock:
    """Seconds between laps, by name."""

    def __init__(self):
        self.laps, self.last = {}, time.perf_counter()

    def lap(self, name):
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
