"""The fit of a cloud to a set of particles: where it starts, by which objectives and stages, and when it stops."""

from dataclasses import dataclass, replace

import numpy as np

from taigs.checkpoint import storable
from taigs.cloud import GaussianCloud
from taigs.device import DeviceCloud
from taigs.fit import Fit
from taigs.particle_objective import ParticleObjective, particle_renderer
from taigs.schedule import FitConfig, Stage
from taigs.seeds import cloud_from_volume, random_cloud
from taigs.views import Grid
from taigs.volume_objective import VolumeObjective

CONFIG = FitConfig(rate_position_px=0.07, rate_log_sigma=0.01, rate_quaternion=0.01, rate_mass=0.03)
VOXELS_PER_GAUSSIAN = 3.5  # voxels of the seed map for a Gaussian of the last stage
FEWEST_GAUSSIANS = 4000  # in the last stage
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


@storable
@dataclass
class HalfFit:
    """The cloud of a half with its best held-out score, the stages that led to it, and the log."""

    cloud: GaussianCloud
    score: float
    schedule: list
    history: list


class ParticleFit:
    """Fits clouds to ParticleSets, by the objectives of a schedule one after the other; holds the device memory."""

    def __init__(self, views, objective, init, sets, progress, journal=None):
        n, self.pixel_size = views.image_shape[0], views.pixel_size
        self.progress, self.journal = progress, journal
        self.plan, self.init = SCHEDULES[objective], init
        capacity = max(stages(COARSE_TO_FINE, one)[-1].n_gaussians for one in sets)
        self.grid = Grid((n, n, n), self.pixel_size, (n // 2,) * 3)
        names = [name for name, _ in self.plan]
        gaussians = particle_renderer(capacity, n) if "views" in names else DeviceCloud(capacity)
        self.volume_objective = VolumeObjective(gaussians, n, self.pixel_size)
        self.objectives = {"volume": self.volume_objective}
        if "views" in names:
            self.objectives["views"] = ParticleObjective(gaussians, views, self.volume_objective)
        self.bounds = np.full(3, n * self.pixel_size / 2)

    def start(self, particles, rng, part="fit"):
        """The first cloud: drawn from the seed map, or from the volume that a coarse fit of random Gaussians makes."""
        n, sigma = stages(COARSE_TO_FINE, particles)[0].n_gaussians, SEED_SIGMA_PX * self.pixel_size
        seed = particles.seed
        if self.init == "random":
            cloud = random_cloud(n, RANDOM_SPREAD * self.bounds[0], RANDOM_SIGMA_PX * self.pixel_size, rng)
            self.volume_objective.set_data(particles.data)
            cloud = replace(cloud, masses=cloud.masses * self.volume_objective.best_scale(cloud))
            fit = self._fit("volume", f"{part}, from random Gaussians")
            seed = self.volume(fit.repeat(cloud, [replace(FROM_RANDOM, n_gaussians=n)]))
        return cloud_from_volume(seed / self.pixel_size, self.grid, n, sigma, rng)

    def run(self, particles, held_out, rng, part="fit"):
        """Fit until the score on the other half no longer improves. Returns a HalfFit."""
        cloud = self.start(particles, rng, part)
        self._load(particles, held_out, rng)
        found = HalfFit(cloud, np.inf, [], [])
        for name, plan in self.plan:
            fit = self._fit(name, part)
            best = fit.run(found.cloud, stages(plan, particles))
            found.history += fit.history
            if best.score < found.score:
                found.cloud, found.score = best.cloud, best.score
                found.schedule.append((name, best.stages))
        return found

    def repeat(self, schedule, particles, rng, part="refit"):
        """Fit all particles with a schedule of HalfFits. Returns the cloud."""
        cloud = self.start(particles, rng, part)
        self._load(particles, None, rng)
        for name, agreed in schedule:
            fit = self._fit(name, part)
            own = zip(agreed, stages(dict(self.plan)[name], particles), strict=False)
            cloud = fit.repeat(cloud, [replace(one, n_gaussians=mine.n_gaussians) for one, mine in own])
        return cloud

    def volume(self, cloud):
        """(n, n, n) density of a cloud, image units per voxel."""
        self.volume_objective.gaussians.set_cloud(cloud)
        return self.volume_objective.volume()

    def _fit(self, name, part):
        return Fit(self.objectives[name], CONFIG, self.bounds, self.progress, self.journal, f"{part}, {name}")

    def _load(self, particles, held_out, rng):
        self.volume_objective.set_data(particles.data, held_out and held_out.data)
        if "views" in self.objectives:
            self.objectives["views"].set_views(particles.picked, particles.data.noise, rng)


def stages(plan, particles):
    """Stages of a plan; the number of Gaussians goes with the size of the seed map."""
    last = max(FEWEST_GAUSSIANS, np.count_nonzero(particles.seed) / VOXELS_PER_GAUSSIAN)
    return [Stage(floor, int(last * share), steps, rate) for floor, share, steps, rate in plan]


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
