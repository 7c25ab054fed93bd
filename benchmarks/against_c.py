"""The CPU kernels against the same algorithms in C with AVX2 (reference.c), interleaved, on one thread.

python benchmarks/against_c.py [--csv FOLDER] [--quick]     needs gcc and an x86 processor with AVX2 and FMA
"""

import argparse
import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from kernels import SIGMAS, SIZES, Step, cloud_in_ball
from measure import Table, machine, seconds_of

from taigs import runtime
from taigs.render import Renderer, Voxelizer
from taigs.views import Grid

GCC = ("gcc", "-O3", "-mavx2", "-mfma", "-ffast-math", "-shared", "-fPIC")
ROUNDS = 15
VIEWS = 8


def build():
    """The functions of reference.c; arrays are passed as they are, numbers as C int and float."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "reference.so"
        subprocess.run([*GCC, Path(__file__).with_name("reference.c"), "-o", library], check=True)
        return ctypes.CDLL(str(library))


def call(function, *arguments):
    function(*(ctypes.c_float(a) if isinstance(a, float) else getattr(a, "ctypes", a) for a in arguments))


class Cloud:
    """Parameters of a renderer's cloud as the C code takes them."""

    def __init__(self, c, fields, n):
        self.c, self.n, self.unit = c, n, float(fields.unit[None])
        self.raw = np.stack([row.to_numpy()[:n] for row in fields.raw])
        self.cov, self.mass = np.empty((6, n), np.float32), np.empty(n, np.float32)
        self.v_raw = np.zeros((11, n), np.float32)
        self.covariance()

    def covariance(self):
        call(self.c.covariance, self.n, self.raw, self.unit, self.cov, self.mass)

    @property
    def arguments(self):
        return self.n, self.raw, self.cov, self.mass


class StepInC:
    """As kernels.Step, of the same cloud and views."""

    def __init__(self, c, step, n):
        r = step.renderer
        self.c, self.size, self.n_views = c, step.box, step.n_views
        self.cloud = Cloud(c, r.cloud, n)
        self.views = r.views.table.to_numpy()
        shape = (self.n_views, self.size, self.size)
        self.images, self.residual = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.targets = step.targets.astype(np.float32)
        self.scale = np.ones((self.n_views, 3), np.float32)
        self.sums = np.empty((self.n_views, 6), np.float32)
        self.moments = np.zeros((2, 11, n), np.float32)
        self.rates = np.zeros(11, np.float32)

    def forward(self):
        self.cloud.covariance()
        call(self.c.forward, *self.cloud.arguments, self.n_views, self.views, self.size, self.size, self.images)

    def compare(self):
        sums = (self.scale, self.residual, self.sums)
        call(self.c.compare, self.n_views, self.size**2, self.images, self.targets, *sums)

    def backward(self):
        a, shape = self.cloud, (self.size, self.size)
        call(self.c.backward, *a.arguments, a.unit, self.n_views, self.views, *shape, self.residual, a.v_raw)

    def update(self):
        a = self.cloud
        call(self.c.adam, a.n, a.raw, a.v_raw, *self.moments, self.rates, 0.9, 0.99, 1.0, 1.0)

    def whole(self):
        self.forward()
        self.compare()
        self.backward()
        self.update()


def assert_same(ours, theirs, what):
    """The yardstick must do the same work, up to what float32 allows."""
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error < 1e-3, f"{what}: the C reference differs by {error:.1e} of the largest value"


def gradient(fields, n):
    return np.stack([row.to_numpy()[:n] for row in fields.v_raw])


def interleaved(pairs):
    """For each pair of calls (ours, in C): median seconds of both, and the median ratio of neighbours in time."""
    for pair in pairs:
        for work in pair:
            work()  # compiled and warm
    rounds = np.array([[[seconds_of(work) for work in pair] for pair in pairs] for _ in range(ROUNDS)])
    ratios = np.median(rounds[..., 0] / rounds[..., 1], axis=0)
    return [(*map(float, pair), float(ratio)) for pair, ratio in zip(np.median(rounds, axis=0), ratios, strict=True)]


def steps(c, table, sizes):
    for box, n in sizes:
        for sigmas in SIGMAS:
            step = Step(box, n, sigmas, VIEWS, np.random.default_rng(0))
            in_c = StepInC(c, step, n)
            for each in (step, in_c):
                each.whole()
            r = step.renderer
            assert_same(gradient(r.cloud, n), in_c.cloud.v_raw, "gradient")
            step.forward()
            assert_same(r.get_images(), in_c.images, "images")
            names = ("forward", "backward", "whole")
            for name, (ours, theirs, ratio) in zip(
                names, interleaved([(getattr(step, name), getattr(in_c, name)) for name in names]), strict=True
            ):
                scale = 1e9 / (n * VIEWS)
                table.add(box, n, f"{sigmas[0]:g}-{sigmas[1]:g}", name, ours * scale, theirs * scale, ratio)


def volumes(c, table, sizes):
    for box, n in sizes:
        if box > 256:
            continue
        for sigmas in SIGMAS:
            renderer = Renderer(n, 1, (8, 8))
            renderer.set_cloud(cloud_in_ball(n, box, sigmas, np.random.default_rng(0)))
            grid = Grid((box,) * 3, 1.0, (box // 2,) * 3)
            voxelizer = Voxelizer(renderer, grid, whole=True)
            cloud = Cloud(c, renderer.cloud, n)
            corner = np.array([*grid.lower, grid.voxel_size], np.float32)
            volume = np.empty((box,) * 3, np.float32)

            def in_c(cloud=cloud, corner=corner, volume=volume):
                cloud.covariance()
                call(c.voxelize, *cloud.arguments, corner, *volume.shape, volume)

            def vjp_in_c(cloud=cloud, corner=corner, volume=volume):
                cloud.covariance()
                call(c.voxelize_vjp, *cloud.arguments, cloud.unit, corner, *volume.shape, volume, cloud.v_raw)

            def draw(v=voxelizer, n=n):
                list(v.draw(n))

            def vjp(v=voxelizer, n=n):
                v.prepare(n)  # as C does, though a fit has just drawn the volume
                v.vjp()

            for work in (draw, vjp, in_c, vjp_in_c):
                work()
            drawn = voxelizer.add(n, np.zeros_like(volume))
            assert_same(drawn, volume, "volume")
            assert_same(gradient(renderer.cloud, n), cloud.v_raw, "gradient")
            pairs = interleaved([(draw, in_c), (vjp, vjp_in_c)])
            for name, (ours, theirs, ratio) in zip(("voxelize", "its gradient"), pairs, strict=True):
                table.add(box, n, f"{sigmas[0]:g}-{sigmas[1]:g}", name, 1e9 * ours / n, 1e9 * theirs / n, ratio)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="folder for CSV files")
    parser.add_argument("--quick", action="store_true", help="the smallest size only")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # processors of shared machines differ
    running = runtime.init("cpu")
    c = build()
    print(machine(running))
    sizes = SIZES[:1] if options.quick else SIZES
    columns = ("box px", "Gaussians", "sigma px", "work", "taigs", "C with AVX2", "ratio")
    of_steps = Table("Views, ns per Gaussian and view", columns)
    steps(c, of_steps, sizes)
    of_volumes = Table("Volumes, ns per Gaussian", columns)
    volumes(c, of_volumes, sizes)
    if options.csv:
        of_steps.write(options.csv / "against_c_views.csv")
        of_volumes.write(options.csv / "against_c_volumes.csv")


if __name__ == "__main__":
    main()
