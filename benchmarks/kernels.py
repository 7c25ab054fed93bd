"""Nanoseconds per Gaussian and view of every kernel of a step, for clouds in a ball of 0.8 boxes.

python benchmarks/kernels.py [--arch cpu|cuda|vulkan] [--threads N] [--csv FOLDER] [--quick]
"""

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from limits import limits
from measure import Table, machine, timed
from scipy import fft
from scipy.spatial.transform import Rotation

from taigs import runtime
from taigs.accumulate import views_at_a_time, weigh
from taigs.cloud import GaussianCloud
from taigs.device import DeviceCloud, read_scalars
from taigs.fourier_grid import FourierGrid
from taigs.imaging.ctf import Ctf
from taigs.kernels.adam import adam
from taigs.kernels.layout import SUPPORT
from taigs.kernels.residual import collect, residual
from taigs.particle_objective import IMAGE_PIXELS, ParticleObjective
from taigs.quadratic_form import quadratic_form
from taigs.render import Renderer, Voxelizer
from taigs.views import Grid, Views

SIZES = ((128, 20_000), (256, 50_000), (512, 200_000))
SIGMAS = ((1.0, 1.5), (2.0, 3.0))  # pixels


def cloud_in_ball(n, box, sigmas, rng):
    directions = rng.normal(size=(n, 3))
    radii = 0.4 * box * rng.random((n, 1)) ** (1 / 3)
    positions = radii * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    log_sigmas = rng.uniform(*np.log(sigmas), (n, 3))
    return GaussianCloud(positions, log_sigmas, rng.normal(size=(n, 4)), rng.uniform(0.5, 1.5, n))


class Step:
    """One step of the view objective without the reading of images."""

    def __init__(self, box, n, sigmas, n_views, rng):
        self.box, self.n_views = box, n_views
        self.renderer = r = Renderer(n, n_views, (box, box))
        r.set_cloud(cloud_in_ball(n, box, sigmas, rng))
        rotations = Rotation.random(n_views, random_state=0).as_matrix()
        r.set_views(rotations[:, :2], np.full((n_views, 2), box // 2), (box, box))
        self.targets = rng.normal(size=(n_views, box, box))
        r.load_images(r.images.target, self.targets)
        scale = np.ones((n_views, 3), np.float32)
        r.images.scale.from_numpy(scale)

    def forward(self):
        self.renderer.forward()

    def compare(self):
        r = self.renderer
        collect(r.images, self.n_views, r.n_parts, r.height, r.width, r.blocks)
        residual(r.images, self.n_views, r.height, r.width, r.blocks)

    def backward(self):
        self.renderer.backward()

    def update(self):
        r = self.renderer  # rates of 0: the cloud stays what it is
        adam(r.cloud, r.n_chunks, 0.9, 0.99, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -10.0, 10.0)

    def whole(self):
        self.forward()
        self.compare()
        self.backward()
        self.update()


def support_size(step, n):
    """Mean number of pixels in the support of an ellipse, which the forward adds to and the backward reads."""
    r = step.renderer
    fields = [r.ellipses.x, r.ellipses.y, r.ellipses.rx, r.ellipses.ry]
    capacity = r.ellipses.capacity
    x, y, rx, ry = read_scalars(fields, step.n_views * capacity).reshape(4, step.n_views, capacity)[:, :, :n]
    rows = np.minimum(np.floor(y + ry), step.box - 1) - np.maximum(np.ceil(y - ry), 0) + 1
    first, last = np.ceil(x - rx) // SUPPORT, np.floor(x + rx) // SUPPORT
    blocks = np.minimum(last, (step.box - 1) // SUPPORT) - np.maximum(first, 0) + 1
    return float((SUPPORT * np.maximum(rows, 0) * np.maximum(blocks, 0)).mean())


def views(table, sizes, n_views):
    for box, n in sizes:
        for sigmas in SIGMAS:
            step = Step(box, n, sigmas, n_views, np.random.default_rng(0))
            step.whole()
            parts = [timed(getattr(step, name))[0] for name in ("forward", "compare", "backward", "update", "whole")]
            each = [1e9 * seconds / (n * n_views) for seconds in parts]
            pixels = support_size(step, n)
            table.add(box, n, n_views, f"{sigmas[0]:g}-{sigmas[1]:g}", pixels, *each, n_views / parts[-1])


def particles(table, sizes, n_views):
    """Steps of the view objective of particles: images to the device, projections, CTF, loss, gradient."""
    rng = np.random.default_rng(0)
    for box, n in sizes:
        batch = min(n_views, IMAGE_PIXELS // box**2)
        ctf = Ctf(300, 2.7, 0.1, *rng.uniform(8000, 16000, (2, batch)), rng.uniform(-90, 90, batch))
        rotations = Rotation.random(batch, random_state=0).as_matrix()
        images = rng.normal(size=(batch, box, box)).astype(np.float32)
        data = Views(images, rotations[:, :2], np.zeros((batch, 2)), 1.0, np.full(2, box // 2), np.ones(batch), ctf=ctf)
        renderer = Renderer(n, batch, (box, box))
        renderer.set_cloud(cloud_in_ball(n, box, SIGMAS[0], rng))
        objective = ParticleObjective(renderer, data, SimpleNamespace(held_out_score=None, score_tolerance=None))
        objective.set_views(np.arange(batch), np.ones(box // 2 + 1), rng)
        seconds = timed(objective.loss_and_gradient, repeats=3)[0]
        table.add(box, n, batch, 1e3 * seconds, 1e9 * seconds / (n * batch), batch / seconds)


def volume_steps(table, sizes):
    """Steps of the volume objective: volume, its transform, loss and gradient; on a GPU nothing leaves it."""
    rng = np.random.default_rng(0)
    for box, n in sizes:
        if box > 256:
            continue
        gaussians = DeviceCloud(n)
        gaussians.set_cloud(cloud_in_ball(n, box, SIGMAS[0], rng))
        form = quadratic_form(gaussians, Grid((box,) * 3, 1.0, (box // 2,) * 3), 1.0)
        form.load(rng.random((box, box, box // 2 + 1)), rng.normal(size=(box, box, box)))

        def step(form=form, n=n):
            form.terms(n)
            form.pull()

        seconds = timed(step, repeats=3)[0]
        table.add(box, n, 1e3 * seconds, 1 / seconds)


def gridding(table):
    """From images in memory to W and B: transforms on the host, slices and their insertion by kernels."""
    rng = np.random.default_rng(0)
    for box in (64, 128, 256):
        n = views_at_a_time(box)
        ctf = Ctf(300, 2.7, 0.1, *rng.uniform(8000, 16000, (2, n)), rng.uniform(-90, 90, n))
        rotations = Rotation.random(n, random_state=0).as_matrix()
        images = rng.normal(size=(n, box, box)).astype(np.float32)
        data = Views(images, rotations[:, :2], np.zeros((n, 2)), 1.0, np.full(2, box // 2), np.ones(n), ctf=ctf)
        transforms = fft.rfft2(images, workers=-1)
        slices, grid = weigh(data, transforms), FourierGrid(box, n)

        parts = [
            timed(lambda images=images: fft.rfft2(images, workers=-1), repeats=3)[0],
            timed(lambda data=data, transforms=transforms: weigh(data, transforms), repeats=3)[0],
            timed(lambda data=data, slices=slices, grid=grid: grid.add(slices, data.projections), repeats=3)[0],
        ]
        table.add(box, *(1e6 * seconds / n for seconds in parts), parts[0] / sum(parts), n / sum(parts))


def volumes(table, sizes):
    for box, n in sizes:
        if box > 256:
            continue
        for sigmas in SIGMAS:
            renderer = Renderer(n, 1, (8, 8))
            renderer.set_cloud(cloud_in_ball(n, box, sigmas, np.random.default_rng(0)))
            voxelizer = Voxelizer(renderer, Grid((box,) * 3, 1.0, (box // 2,) * 3), whole=True)
            draw = timed(lambda v=voxelizer, n=n: list(v.draw(n)), repeats=3)[0]
            v_cloud = timed(lambda v=voxelizer, n=n: (v.prepare(n), v.vjp()), repeats=3)[0]  # of the volume just drawn
            table.add(box, n, f"{sigmas[0]:g}-{sigmas[1]:g}", 1e9 * draw / n, 1e9 * v_cloud / n)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="cpu", choices=("cpu", "cuda", "vulkan"))
    parser.add_argument("--threads", type=int, help="CPU threads; default all")
    parser.add_argument("--views", type=int, help="views in a batch; default 8 on the CPU, 32 on a GPU")
    parser.add_argument("--csv", type=Path, help="folder for CSV files")
    parser.add_argument("--quick", action="store_true", help="the smallest size only")
    options = parser.parse_args()
    running = runtime.init(options.arch, threads=options.threads)
    sizes = SIZES[:1] if options.quick else SIZES
    print(machine(running))
    columns = ("forward", "compare", "backward", "Adam", "whole step")
    steps = Table(
        "Views: ns per Gaussian and view",
        ("box px", "Gaussians", "views", "sigma px", "pixels", *columns, "views/s"),
    )
    views(steps, sizes, options.views or (8 if running.is_cpu else 32))
    steps_of_particles = Table(
        "Particles: images to the device, projections, CTF, loss and gradient",
        ("box px", "Gaussians", "views", "ms", "ns per Gaussian and view", "views/s"),
    )
    particles(steps_of_particles, sizes, options.views or 64)
    steps_in_volumes = Table("Volume objective: loss and gradient", ("box px", "Gaussians", "ms", "steps/s"))
    volume_steps(steps_in_volumes, sizes)
    drawn = Table("Volumes: ns per Gaussian", ("box px", "Gaussians", "sigma px", "voxelize", "its gradient"))
    volumes(drawn, sizes)
    gridded = Table(
        "W and B: microseconds an image",
        ("box px", "transform", "CTF and weights", "insertion", "transform's share", "images/s"),
    )
    gridding(gridded)
    limits(Table("The device", ("what", "measured", "unit")), running.is_cpu)
    if options.csv:
        steps.write(options.csv / f"views_{running.arch}.csv")
        steps_of_particles.write(options.csv / f"particles_{running.arch}.csv")
        steps_in_volumes.write(options.csv / f"volume_objective_{running.arch}.csv")
        drawn.write(options.csv / f"volumes_{running.arch}.csv")
        gridded.write(options.csv / f"gridding_{running.arch}.csv")


if __name__ == "__main__":
    main()
