"""Tilt series: seeds from SIRT, the fit on most views, its score on the others, the refit on all."""

import time
from dataclasses import dataclass, replace

import numpy as np

from taigs.baseline import weighted_back_projection
from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.fit import Fit, FitConfig, Stage
from taigs.objectives import ViewObjective
from taigs.progress import NoProgress
from taigs.render import Renderer, voxelize
from taigs.tilt_seeds import WIDEST, Seeds
from taigs.views import Grid, Views

VOXELS_PER_GAUSSIAN = 60
GAUSSIANS = (2000, 400_000)  # fewest and most at the first stage
FLOORS_PX = (
    0.65,
    0.46,
)  # smallest sigma of the stages; a stage is kept only if the held-out views gain by it
STEPS = 50  # most steps of a stage
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
        renderer.set_cloud(seeds.cloud(n, FLOORS_PX[0] * views.pixel_size, images_used, rng))
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
            name: correlation(images, measured.get(name, seeds.images[held_out]))
            for name, images in predictions.items()
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


def blurred(cloud, sigma):
    """The cloud convolved with an isotropic Gaussian (A): its variance adds to every axis."""
    return replace(cloud, log_sigmas=0.5 * np.log(np.exp(2 * cloud.log_sigmas) + sigma**2))


def best_blur(objective, cloud, views):
    """Blur (A) under which the cloud predicts the held-out views best: what is finer is noise.

    By the projection theorem this is the best Gaussian-shaped Wiener filter of the volume.
    """
    objective.use(views, objective.train)
    objective.renderer.set_cloud(cloud)
    scores = [objective.held_out_score(blur) for blur in BLURS_PX]
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
