"""Tilt series: seeds from SIRT, the fit on most views, its score on the others, the refit on all."""

import time
from dataclasses import dataclass, replace

import numpy as np

from taigs.baseline import align_images, unalign_images, weighted_back_projection
from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.fit import Fit
from taigs.held_out import correlations
from taigs.journal import Journal
from taigs.objectives import ViewObjective
from taigs.progress import NoProgress
from taigs.render import Renderer, voxelize
from taigs.schedule import FitConfig, tilt_stages
from taigs.tilt_seeds import WIDEST, make_seed, project_volume
from taigs.views import Grid, Views

BOUNDS = 1.2  # of the volume's height and thickness, beyond which Gaussians are pruned
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
        Method -> (predicted, measured), each (len(held_out), H, W): the held-out views, predicted without them.
        NaN where a method predicts nothing.
    seconds : float
    settings : dict
        What was decided on the way.
    """

    cloud: GaussianCloud
    volume: np.ndarray
    grid: Grid
    history: list
    held_out: np.ndarray
    predictions: dict
    seconds: float
    settings: dict

    def view_correlations(self):
        """Method -> (len(held_out),) array: correlation of prediction and measurement where all methods predict."""
        predicted = np.stack([images for images, _ in self.predictions.values()])
        measured = next(iter(self.predictions.values()))[1]
        return dict(zip(self.predictions, correlations(predicted, measured), strict=True))

    def correlations(self):
        """Method -> mean of the `view_correlations`."""
        return {name: float(values.mean()) for name, values in self.view_correlations().items()}


def reconstruct_tilt_series(views: Views, thickness=None, signed=False, seed=0, progress=None, journal=None):
    """Reconstruct a tomogram as a cloud of Gaussians.

    A few views are held out: they decide how long the seeds are iterated, when the fit stops and how
    much of its detail is noise. Then the same is done with all views.

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
    journal : Journal, optional
        Keeps what was computed, and hands it out again.

    Returns
    -------
    TiltResult

    Raises
    ------
    InputError
        No tilt angles, or fewer than three views.
    """
    started = time.perf_counter()
    check(views)
    journal = journal or Journal()
    progress = journal.watch(progress or NoProgress())
    height, width = views.image_shape
    thickness = max(1, min(height, width) // 2) if thickness is None else thickness
    grid = Grid((thickness, height, width), views.pixel_size)
    rng, again = (np.random.default_rng([seed, i]) for i in range(2))  # for either fit
    stages = tilt_stages(grid.shape, STEPS)
    n, sigma = stages[0].n_gaussians, stages[0].floor_px * views.pixel_size
    held_out = held_out_views(views.tilt_angles)
    train = np.setdiff1d(np.arange(len(views)), held_out)
    config = FitConfig()
    renderer = Renderer(stages[-1].n_gaussians, config.batch, views.image_shape, signed)
    objective = ViewObjective(renderer, views, train, held_out, config.batch, rng, signed)
    bounds = np.array([WIDEST * width, BOUNDS * height, BOUNDS * thickness]) / 2 * views.pixel_size
    fit = Fit(objective, config, bounds, progress, journal, "fit")

    def fitted():
        progress.stage("fitting")
        return fit.run(start.cloud(n, sigma, rng, signed), stages), fit.history

    progress.stage("back-projecting")
    images = align_images(views)
    start = journal.part("seeds", lambda: make_seed(views, grid, images, held_out, signed=signed, progress=progress))
    best, history = journal.part("fit", fitted)
    blur_px = best_blur(objective, best.cloud)
    model = predict(objective, blurred(best.cloud, blur_px * views.pixel_size), held_out)
    back_projected = weighted_back_projection(views.subset(train), grid, images[train])
    measured = np.asarray(views.images)[held_out]
    predictions = {
        "taigs": (model, measured),
        # Compared with the very same images: resampled ones hold less noise.
        "SIRT" if signed else "SIRT+": (
            unalign_images(views, project_volume(views, grid, start.volume), held_out),
            measured,
        ),
        "WBP": (unalign_images(views, project_volume(views, grid, back_projected), held_out), measured),
    }

    def refitted():
        progress.stage("refitting on all views")
        objective.fit_views(np.arange(len(views)), again)
        fit.part = "refit"
        return fit.repeat(start.cloud(n, sigma, again, signed), best.stages)

    progress.stage("back-projecting all views")
    start = journal.part(
        "seeds of all views",
        lambda: make_seed(views, grid, images, iterations=start.iterations, signed=signed, progress=progress),
    )
    cloud = blurred(journal.part("refit", refitted), blur_px * views.pixel_size)
    volume = voxelize(cloud, grid)
    settings = {
        "thickness (px)": thickness,
        "held-out views (from 1, of those used)": ", ".join(str(i + 1) for i in held_out),
        "iterations of SIRT for the seeds": start.iterations,
        "stages (smallest sigma in px: steps)": ", ".join(f"{s.floor_px:g}: {s.steps}" for s in best.stages),
        "blur of the result (px)": round(float(blur_px), 2),
        "held-out score (noise alone: about 1)": round(float(best.score), 4),
    }
    seconds = time.perf_counter() - started
    return TiltResult(cloud, volume, grid, history, held_out, predictions, seconds, settings)


def check(views):
    """Refuse, before any work, views that are no tilt series of at least three."""
    if views.tilt_angles is None:
        raise InputError("views without tilt angles; expected a tilt series")
    if len(views) < 3:
        raise InputError(f"{len(views)} views; expected at least 3")


def held_out_views(tilt_angles):
    """Indices of about every ninth view by angle, never the steepest: the same ones for the same angles."""
    n = len(tilt_angles)
    every = 9 if n >= 18 else max(3, n // 2)
    return np.sort(np.argsort(tilt_angles, kind="stable")[every // 2 : n - 1 : every])


def blurred(cloud, sigma):
    """The cloud convolved with an isotropic Gaussian (A): its variance adds to every axis."""
    return replace(cloud, log_sigmas=0.5 * np.log(np.exp(2 * cloud.log_sigmas) + sigma**2))


def best_blur(objective, cloud):
    """Blur (sigma, pixels) under which the cloud predicts the held-out views best: what is finer is noise.

    By the projection theorem this is the best Gaussian-shaped Wiener filter of the volume.
    """
    objective.renderer.set_cloud(cloud)
    scores = [objective.blurred_score(blur) for blur in BLURS_PX]
    return BLURS_PX[int(np.argmin(scores))]


def predict(objective, cloud, picked):
    """(len(picked), H, W) model images in image units."""
    objective.renderer.set_cloud(cloud)
    out = []
    for i in range(0, len(picked), objective.batch):
        objective.draw(picked[i : i + objective.batch], compare=False)
        out.append(objective.renderer.get_images() / objective.views.pixel_size**2)
    return np.concatenate(out)
