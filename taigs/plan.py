"""What a run would do, leave and take, before it begins: `taigs plan`.

Work is counted in two units, each of which takes as long as this machine needs for it now (`measure_pace`): a step of
a `Renderer`, for each Gaussian in each view, for what kernels do; and an FFT there and back, for each voxel, for what
NumPy and SciPy do. The factors below are the work of each part in these units, found by timing whole runs part by part
(tests/test_plan.py has the runs).
"""

import math
import time
from dataclasses import dataclass

import numpy as np
from scipy import fft

from taigs import runtime
from taigs.geometry import tilt_rotation
from taigs.io.clouds import BYTES_BESIDES, BYTES_PER_GAUSSIAN
from taigs.kernels.layout import SUPPORT, round_up
from taigs.objectives import BLURS_PX
from taigs.particle_fit import FEWEST_GAUSSIANS, FROM_RANDOM, VOXELS_PER_GAUSSIAN
from taigs.render import Renderer
from taigs.runtime import check_size, ti
from taigs.schedule import FitConfig, tilt_stages
from taigs.seeds import random_cloud
from taigs.slices import PIXELS, SIDE, SLICES
from taigs.symmetry import symmetry_matrices
from taigs.tilt import STEPS as MOST_STEPS
from taigs.tilt import check, held_out_views
from taigs.tilt_seeds import COARSE_STEPS
from taigs.volume_fit import LAST_STEPS, STEPS

# Seconds: Python, the libraries, kernels compiled for new sizes, and figures. Half as long if sizes are as before.
STARTED = {"tilt": 13.0, "spa": 15.0, "fit": 6.0}
STEP = 2000  # Gaussians that the launches of a step are worth
SCORED = 0.5  # of a step: drawing alone
RAY = 0.003  # of a Gaussian in a view: a voxel in a view, projected or projected back
ALIGNED = 8  # transforms that a pixel is worth, resampled by splines
SIRT_ITERATIONS = 8  # at full size, where the held-out score stops them: typical of the 5 to 60 there may be
WIDE = 0.25  # of the voxels: the coarse and wider volume of the seeds
VOXELISED = 12  # of a Gaussian in a view: a Gaussian in a volume, drawn and pulled back
FORM = 1.5  # transforms in a step on Fourier sums, and what is done besides to each voxel
COMPARED = 0.9  # transforms that comparing a voxel of a map with its model is worth
DIRECT = 170  # transforms of the box that a direct map is worth, on its padded grid
SCORES = 150  # likewise the FSC of two half maps, by direction too
INSERTED = 0.23  # of a Gaussian in a view: a pixel added to the sums
IMAGE_FORM = 40  # transforms of an image in a step on images
SEED_SHARE = 0.03  # of the voxels: what stands out of the noise of a direct map, typically
HALF_STEPS = (80, 60)  # of a half and of all particles, typical; the objective "both" takes them twice
CHECKED = 1 + 1 / FitConfig.check_every  # steps, with held-out scores

STATE, CLOUD = 4 * 35, 8 * 11  # bytes for each Gaussian of a fit's state, and of a cloud that is kept
STATES = 3  # kept, and the one being written
SUMS = 48  # bytes of Fourier sums, for each voxel of the box
RECORDS = 20e3  # bytes of config.json, run.log and the like
FIGURES = {"tilt": 150e3, "spa": 1.4e6, "fit": 60e3}  # bytes of the report
SLICE_PIXEL = 0.6  # bytes of it, for each pixel of its slices


@dataclass(frozen=True)
class Pace:
    """Seconds of this machine for a Gaussian in a view, and for a voxel of a transform there and back."""

    gaussian: float
    voxel: float


@dataclass(frozen=True)
class Plan:
    """What a run would do, in words; bytes it leaves, and at most takes on the way; and its work.

    Parameters
    ----------
    work : list of (label, value)
    left, peak : float
        Bytes.
    started : float
        Seconds that do not depend on the data.
    gaussians, voxels : float
        Units of `Pace`.
    remark : str
        On the time.
    """

    work: list
    left: float
    peak: float
    started: float
    gaussians: float
    voxels: float
    remark: str = ""

    def seconds(self, pace):
        """Of the whole run."""
        return self.started + self.gaussians * pace.gaussian + self.voxels * pace.voxel


def measure_pace(seconds=0.3):
    """The Pace now, in about so many seconds once the kernels are compiled: a slow or busy machine shows."""
    n, side = (5000, 64) if runtime.current().is_cpu else (200_000, 512)  # few would leave a GPU idle
    batch = FitConfig.batch
    renderer = Renderer(n, batch, (side, side))
    renderer.set_cloud(random_cloud(n, side / 4, 1.0, np.random.default_rng(0)))
    rotations = tilt_rotation(np.linspace(-60, 60, batch))
    renderer.set_views(rotations[:, :2], np.full((batch, 2), (side - 1) / 2), (side, side))
    cube = np.random.default_rng(0).random((128,) * 3, np.float32)

    def step():
        renderer.forward()
        renderer.backward()
        ti.sync()

    def transform():
        fft.irfftn(fft.rfftn(cube, workers=-1), s=cube.shape, workers=-1)

    return Pace(_timed(step, seconds) / (n * batch), _timed(transform, seconds) / cube.size)


def _timed(function, seconds):
    """Seconds of the quickest call: a disturbance of a moment says nothing of a whole run."""
    function()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def tilt_plan(views, thickness=None, wbp=True, sirt=0):
    """Plan of `taigs tilt` for Views and a thickness in their pixels; refuses what the run would refuse."""
    check(views)
    n, (height, width) = len(views), views.image_shape
    thickness = max(1, min(height, width) // 2) if thickness is None else thickness
    shape = (thickness, height, width)
    for plane in (thickness * width, n * width):
        check_size(round_up(height, SUPPORT) * plane, "a device image")
    voxels, n_held_out = math.prod(shape), len(held_out_views(views.tilt_angles))
    clouds = [stage.n_gaussians for stage in tilt_stages(shape, MOST_STEPS)]
    steps = MOST_STEPS * sum(c + STEP for c in clouds)  # the fit and the refit rarely stop before
    batch, blurs = min(n, FitConfig.batch), len(BLURS_PX)
    fits = steps * (2 * batch + SCORED * blurs * n_held_out / FitConfig.check_every)
    seeds = 2 * (2 * SIRT_ITERATIONS + 2 * COARSE_STEPS * WIDE)  # before the fit, and before the refit
    rays = n * voxels * (seeds + 5 + 2 * sirt)  # WBP twice, three volumes projected
    left = (1 + wbp + bool(sirt)) * 4 * voxels + model_bytes(clouds[-1]) + RECORDS
    left += 4 * 4 * n_held_out * height * width + report_bytes("tilt", shape, 2 + bool(sirt))
    kept = 2 * 4 * voxels * (1 + WIDE) + clouds[-1] * (2 * CLOUD + STATES * (STATE + CLOUD))
    return Plan(
        work=[
            ("images", f"{n} of {width} x {height} px, {n_held_out} of them held out"),
            ("volume", f"{width} x {height} x {thickness} voxels of {views.pixel_size:.4g} Å (x, y, z)"),
            ("Gaussians", f"at most {clouds[-1]:,}"),
        ],
        left=left,
        peak=left + kept,
        started=STARTED["tilt"],
        gaussians=fits + RAY * rays,
        voxels=2 * ALIGNED * n * height * width,
    )


def spa_plan(views, symmetry="C1", objective="volume", init="map", sharpen=None, ranks=1):
    """Plan of `taigs spa` for Views, as `tilt_plan`; several ranks share the reading, and fit the halves at once."""
    n_views, n = len(views), views.image_shape[0]
    check_size(3 * (n + 1) * (2 * n) ** 2, "the Fourier grid")
    voxels, halves = n**3, 2 if ranks == 1 else 1
    last = max(FEWEST_GAUSSIANS, SEED_SHARE * voxels / VOXELS_PER_GAUSSIAN)
    steps = halves * HALF_STEPS[0] * CHECKED + HALF_STEPS[1]
    on_sums = steps * (objective != "views") + (halves + 1) * FROM_RANDOM.steps * (init == "random")
    on_images = steps * (objective != "volume")
    images = n_views * n**2 * len(symmetry_matrices(symmetry)) / ranks
    left = (7 + (sharpen is not None)) * 4 * voxels + model_bytes(last) + RECORDS + report_bytes("spa", (n,) * 3, 2)
    reading = (2 + STATES - 1) * SUMS * voxels  # the sums of one half, of the other so far, and being written
    fitting = 2 * SUMS * voxels + left + last * (3 * CLOUD + STATES * (STATE + CLOUD))
    return Plan(
        work=[
            ("images", f"{n_views:,} of {n} x {n} px"),
            ("volume", f"{n} x {n} x {n} voxels of {views.pixel_size:.4g} Å, for each half and for all particles"),
            ("Gaussians", f"about {last:,.0f}; their number goes with the size of what the images show"),
        ],
        left=left,
        peak=max(reading, fitting),
        started=STARTED["spa"],
        gaussians=INSERTED * images + VOXELISED * last * on_sums + FitConfig.batch * (last + STEP) * on_images,
        voxels=(FORM * on_sums + 3 * DIRECT + 2 * SCORES) * voxels + IMAGE_FORM * FitConfig.batch * n**2 * on_images,
    )


def fit_plan(shape, sizes, has_target=False, report=False):
    """Plan of `taigs fit` for a map (nz, ny, nx) and the Gaussians of each level, all of which count."""
    voxels = math.prod(shape)
    steps = [STEPS] * (len(sizes) - 1) + [LAST_STEPS]
    left = model_bytes(sizes[-1]) + report * report_bytes("fit", shape, 3)
    kept = sum(sizes) * STATE + len(sizes) * sizes[0] * CLOUD + STATES * sizes[-1] * (STATE + CLOUD)
    nz, ny, nx = shape
    return Plan(
        work=[("volume", f"{nx} x {ny} x {nz} voxels (x, y, z)"), ("Gaussians", f"at most {sizes[-1]:,}")],
        left=left,
        peak=left + kept,
        started=STARTED["fit"],
        gaussians=VOXELISED * sum(n * s for n, s in zip(sizes, steps, strict=True)),
        voxels=COMPARED * voxels * sum(steps),
        remark="less if the target is met before" if has_target else "",
    )


def model_bytes(n):
    """Of model.npz."""
    return n * BYTES_PER_GAUSSIAN + BYTES_BESIDES


def report_bytes(command, shape, n_volumes):
    """Of report.html, with slices of volumes (nz, ny, nx) in three planes."""
    scale = min(1, SIDE / max(shape)) ** 2
    pixels = scale * sum(min(n, SLICES) * math.prod(shape) / n for n in shape)
    return FIGURES[command] + SLICE_PIXEL * min(n_volumes * pixels, PIXELS)


def time_in_words(seconds):
    """About 40 s, about 12 min, about 3.5 h: two digits, as none of it is known better."""
    if seconds < 90:
        return f"about {max(5 * round(seconds / 5), 5)} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.2g} min"
    return f"about {seconds / 3600:.2g} h"
