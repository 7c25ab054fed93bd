"""Tilt series: seeds from SIRT, the fit on most views, its score on the others, the refit on all."""

import time
from dataclasses import dataclass, replace

import numpy as np

from taigs.baseline import TiltGeometry, align_images, sirt_steps, weighted_back_projection
from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.fit import Fit, FitConfig, Stage
from taigs.objectives import ViewObjective
from taigs.progress import NoProgress
from taigs.render import Renderer, voxelize
from taigs.seeds import cloud_from_volume
from taigs.views import Grid, Views

VOXELS_PER_GAUSSIAN = 100
GAUSSIANS = (2000, 400_000)  # fewest and most at the first stage
FLOORS_PX = (0.8, 0.57)  # smallest sigma of the stages; a stage is kept only if the held-out views gain by it
STEPS = 60  # most steps of a stage
SIRT_STEPS = (10, 60)  # fewest and most iterations for the seeds
COARSE_STEPS = 30
WIDEST = 2.0  # images: how far the surroundings reach that only tilted views see
BLURS_PX = np.arange(0, 1.01, 0.1)


@dataclass
class TiltResult:
    """What `reconstruct_tilt_series` found.

    Parameters
    ----------
    cloud : GaussianCloud
        Masses in image units x A^2; the volume is its density.
    volume : (nz, ny, nx) float32 array
        Image units per A, right-handed, z = thickness.
    grid : Grid
    history : list of dict
        step, loss, held_out, gaussians.
    held_out : array of int
        Views that were left out to decide when to stop.
    predictions : dict
        Method -> (len(held_out), H, W) images of the held-out views, predicted without them, on aligned axes.
    correlations : dict
        Method -> mean correlation of those with the measured images.
    seconds : float
    settings : dict
        What was decided on the way: stages, steps, blur, iterations.
    """

    cloud: GaussianCloud
    volume: np.ndarray
    grid: Grid
    history: list
    held_out: np.ndarray
    predictions: dict
    correlations: dict
    measured: np.ndarray
    seconds: float
    settings: dict


def reconstruct_tilt_series(views: Views, thickness=None, signed=False, seed=0, progress=None):
    """Reconstruct a tomogram as a cloud of Gaussians.

    Parameters
    ----------
    views : Views
        With tilt angles; noise standard deviation near 1 (as `read_tilt_series` gives).
    thickness : int, optional
        Pixels; default half of the shorter image side.
    signed : bool
        Allow negative density.
    seed : int
        Same seed, views and version: same bits on the CPU, whatever the number of threads.
    progress : Progress, optional

    Returns
    -------
    TiltResult

    Raises
    ------
    InputError
        No tilt angles, or fewer than three views.
    """
    started = time.perf_counter()
    if views.tilt_angles is None:
        raise InputError("views without tilt angles; expected a tilt series")
    if len(views) < 3:
        raise InputError(f"{len(views)} views; expected at least 3")
    progress = progress or NoProgress()
    height, width = views.image_shape
    thickness = max(1, min(height, width) // 2) if thickness is None else thickness
    grid = Grid((thickness, height, width), views.pixel_size)
    rng = np.random.default_rng(seed)
    held_out = held_out_views(len(views))
    train = np.setdiff1d(np.arange(len(views)), held_out)
    n = int(np.clip(np.prod(grid.shape, dtype=float) / VOXELS_PER_GAUSSIAN, *GAUSSIANS))
    stages = [Stage(1, floor, int(n * 1.4**i), STEPS) for i, floor in enumerate(FLOORS_PX)]
    config = FitConfig()

    progress.stage("back-projecting")
    seeds = Seeds(views, grid, held_out, signed)
    renderer = Renderer(stages[-1].n_gaussians, min(config.batch, len(train)), views.image_shape, signed)
    objective = ViewObjective(renderer, views, train, held_out, config.batch, rng, signed)
    bounds = np.array([WIDEST * width, 1.2 * height, 2 * thickness]) / 2 * views.pixel_size

    def start(images_used):
        renderer.set_cloud(seeds.cloud(n, images_used, rng))
        return Fit(objective, config, views.pixel_size, bounds, progress)

    progress.stage("fitting")
    fit = start(train)
    best = fit.run(stages, views.binned, train)
    blur = best_blur(objective, best.cloud, views)
    predictions = {
        "taigs": predict(objective, blurred(best.cloud, blur), views, held_out),
        "SIRT+": seeds.project(seeds.volume(train))[held_out],
        "WBP": seeds.project(weighted_back_projection(views.subset(train), grid, seeds.images[train]))[held_out],
    }
    progress.stage("refitting on all views")
    everything = np.arange(len(views))
    cloud = blurred(start(everything).repeat(best.stages, views.binned, everything), blur)
    progress.stage("writing the volume")
    measured = {"taigs": np.asarray(views.images)[held_out]}
    return TiltResult(
        cloud=cloud,
        volume=voxelize(cloud, grid),
        grid=grid,
        history=fit.history,
        held_out=held_out,
        predictions=predictions,
        correlations={
            name: correlation(images, measured.get(name, seeds.images[held_out])) for name, images in predictions.items()
        },
        measured=measured["taigs"],
        seconds=time.perf_counter() - started,
        settings={
            "held-out views (from 1)": ", ".join(str(i + 1) for i in held_out),
            "SIRT+ iterations of the seeds": seeds.iterations,
            "stages (smallest sigma in px: steps)": ", ".join(f"{s.floor_px:g}: {s.steps}" for s in best.stages),
            "blur of the result (px)": round(float(blur), 2),
            "held-out score (noise alone: about 1)": round(float(best.score), 4),
        },
    )


def held_out_views(n):
    """About every tenth view, never the first or last: the same ones for the same number of views."""
    every = 9 if n >= 18 else max(3, n // 2)
    return np.arange(every // 2, n - 1, every)


class Seeds:
    """SIRT with positivity at full size, for any subset of the views, after as many steps as the held-out views favour.

    Tilted views also see matter beside the volume. A coarse SIRT in a wider volume finds it; its
    projections are taken off the images before the fine SIRT, and seeds of its own stand for it.
    """

    def __init__(self, views, grid, held_out, signed):
        self.views, self.grid, self.signed = views, grid, signed
        self.images = align_images(views)
        self.geometry = TiltGeometry(views.tilt_angles, self.images.shape[1:], grid.shape)
        self._surroundings()
        self.known = {}
        best = np.inf
        for i, (volume, score) in enumerate(sirt_steps(views, grid, not signed, self.inside_images, held_out)):
            # the score is that of the volume before this step
            if i >= SIRT_STEPS[0] and (score > best * (1 - 1e-4) or i == SIRT_STEPS[1]):
                break
            best, kept = min(best, score), volume
        self.iterations = i
        self.known[len(views) - len(held_out)] = kept

    def _surroundings(self):
        """Coarse volume beside the grid, and the images without its projections."""
        views, (nz, ny, nx) = self.views, self.grid.shape
        steepest = np.radians(np.abs(views.tilt_angles).max())
        reach = min(WIDEST, (1 + nz / nx * np.sin(steepest)) / max(np.cos(steepest), 1e-3))
        coarse = self.views_coarse = replace_images(views, self.images).binned(2)
        side = int(np.ceil((reach - 1) * nx / 4))
        h, w = coarse.image_shape
        self.wide = Grid((max(1, round(nz / 2)), h, w + 2 * side), coarse.pixel_size)
        steps = sirt_steps(coarse, self.wide, not self.signed)
        for _ in range(COARSE_STEPS):
            volume, _ = next(steps)
        volume[:, :, side : side + w] = 0
        self.outside = volume
        geometry = TiltGeometry(views.tilt_angles, coarse.image_shape, self.wide.shape)
        shadow = geometry.project(volume) * np.float32(coarse.pixel_size)
        shadow = np.repeat(np.repeat(shadow, 2, axis=1), 2, axis=2)
        self.inside_images = self.images.copy()
        self.inside_images[:, : 2 * h, : 2 * w] -= shadow

    def volume(self, used):
        """SIRT+ volume of the views `used`, (nz, ny, nx)."""
        if len(used) not in self.known:
            unused = np.setdiff1d(np.arange(len(self.views)), used)
            steps = sirt_steps(self.views, self.grid, not self.signed, self.inside_images, unused)
            for _ in range(self.iterations):
                volume, _ = next(steps)
            self.known[len(used)] = volume
        return self.known[len(used)]

    def cloud(self, n, used, rng):
        """n Gaussians for the volume and its surroundings."""
        volume = self.volume(used)
        sigma = FLOORS_PX[0] * self.grid.voxel_size
        beside = np.abs(self.outside).sum() * self.wide.voxel_size**3
        inside = np.abs(volume).sum() * self.grid.voxel_size**3
        n_beside = int(n * beside / (8 * inside + beside)) if inside > 0 else 0  # coarser by 2 on each axis
        clouds = [cloud_from_volume(volume, self.grid, n - n_beside, sigma, rng, self.signed)]
        if n_beside:
            clouds.append(cloud_from_volume(self.outside, self.wide, n_beside, 2 * sigma, rng, self.signed))
        return GaussianCloud.merge(clouds)

    def project(self, volume):
        """Line integrals through a volume on the grid, in image units."""
        return self.geometry.project(volume) * np.float32(self.grid.voxel_size)


def replace_images(views, images):
    """Views of aligned images: vertical tilt axis, no shifts, centre (n - 1) / 2."""
    t = np.radians(views.tilt_angles)
    zero, one = np.zeros_like(t), np.ones_like(t)
    projections = np.stack([np.stack([np.cos(t), zero, np.sin(t)], -1), np.stack([zero, one, zero], -1)], 1)
    h, w = images.shape[1:]
    return replace(
        views, images=images, projections=projections, shifts=np.zeros((len(t), 2)), centre=np.array([w - 1, h - 1]) / 2
    )


def blurred(cloud, sigma):
    """The cloud convolved with an isotropic Gaussian (A): its variance adds to every axis."""
    return replace(cloud, log_sigmas=0.5 * np.log(np.exp(2 * cloud.log_sigmas) + sigma**2))


def best_blur(objective, cloud, views):
    """Blur (A) under which the cloud predicts the held-out views best: what is finer is noise.

    By the projection theorem this is the best Gaussian-shaped Wiener filter of the volume.
    """
    objective.use(views, objective.train)
    scores = []
    for blur in BLURS_PX * views.pixel_size:
        objective.renderer.set_cloud(blurred(cloud, blur))
        scores.append(objective.held_out_score())
    return BLURS_PX[int(np.argmin(scores))] * views.pixel_size


def predict(objective, cloud, views, picked):
    """(len(picked), H, W) model images in image units."""
    objective.use(views, objective.train)
    objective.renderer.set_cloud(cloud)
    out = []
    for i in range(0, len(picked), objective.batch):
        objective.draw(picked[i : i + objective.batch])
        out.append(objective.renderer.get_images() / views.pixel_size**2)
    return np.concatenate(out)


def correlation(predicted, measured):
    """Mean over views of the correlation coefficient."""
    return float(np.mean([np.corrcoef(p.ravel(), m.ravel())[0, 1] for p, m in zip(predicted, measured, strict=True)]))
