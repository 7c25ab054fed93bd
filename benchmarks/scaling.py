"""How the time of a step on the CPU grows with threads, Gaussians, pixels, views and particles, and what a start takes.

python benchmarks/scaling.py [--csv FOLDER]     each figure comes from a process of its own; needs Linux, and gcc for C
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from measure import Table, processor, timed

BOX, GAUSSIANS, SIGMAS, VIEWS = 256, 50_000, (1.0, 1.5), 8
ROUNDS = 3


def in_a_process(function, *arguments, processors=None):
    """What a function returns in a new process, which runs on some processors only."""
    with get_context("spawn").Pool(1, _keep_to, (processors,)) as pool:
        return pool.apply(function, arguments)


def _keep_to(processors):
    if processors is not None:
        os.sched_setaffinity(0, processors)


def step(box, n, n_views):
    """ns per Gaussian and view of (forward, backward, whole step) on the processors of this process."""
    from kernels import Step

    from taigs import runtime

    runtime.init("cpu")
    work = Step(box, n, SIGMAS, n_views, np.random.default_rng(0))
    work.whole()
    return [1e9 * timed(f)[0] / (n * n_views) for f in (work.forward, work.backward, work.whole)]


def voxels(box, n):
    """ns per Gaussian of (density, its gradient)."""
    from kernels import cloud_in_ball

    from taigs import runtime
    from taigs.render import Renderer, Voxelizer
    from taigs.views import Grid

    runtime.init("cpu")
    renderer = Renderer(n, 1, (8, 8))
    renderer.set_cloud(cloud_in_ball(n, box, SIGMAS, np.random.default_rng(0)))
    voxelizer = Voxelizer(renderer.cloud, Grid((box,) * 3, 1.0, (box // 2,) * 3), whole=True)
    return [1e9 * timed(f)[0] / n for f in (lambda: list(voxelizer.draw(n)), lambda: voxelizer.vjp(n))]


def step_in_c(seconds):
    """Steps per second of the reference in C, for so many seconds."""
    from against_c import StepInC, build
    from kernels import Step

    from taigs import runtime

    runtime.init("cpu")
    work = StepInC(build(), Step(BOX, GAUSSIANS, SIGMAS, 2, np.random.default_rng(0)), GAUSSIANS)
    while time.time() < seconds[0]:  # all begin together
        pass
    started, n = time.perf_counter(), 0
    while time.perf_counter() - started < seconds[1]:
        work.whole()
        n += 1
    return n / (time.perf_counter() - started)


def threads(table, available):
    """The last row is what the machine itself allows: the C code in as many processes at once as in one."""
    found = {}
    for _ in range(ROUNDS):
        for kept in ([available[0]], available):
            figures = in_a_process(step, BOX, GAUSSIANS, VIEWS, processors=kept)
            found.setdefault(len(kept), []).append(figures + in_a_process(voxels, 128, 20_000, processors=kept))
    one, all_of_them = (np.median(found[n], axis=0) for n in (1, len(available)))
    for name, a, b in zip(
        ("forward", "backward", "whole step", "voxelize", "its gradient"), one, all_of_them, strict=True
    ):
        table.add(name, float(a), float(b), float(a / b))
    alone, together = (c_rates(kept) for kept in (available[:1], available))
    table.add("C, a process on each, steps/s", alone, together, together / alone)


def c_rates(processors):
    """Steps per second of all the processes together, one on each processor."""
    context, moment = get_context("spawn"), time.time() + 15
    pools = [context.Pool(1, _keep_to, ({p},)) for p in processors]
    results = [pool.apply_async(step_in_c, ((moment, 5),)) for pool in pools]
    rates = [result.get() for result in results]
    for pool in pools:
        pool.terminate()
    return sum(rates)


def sizes(table):
    for box, n, n_views in (
        *((BOX, n, VIEWS) for n in (5_000, 20_000, 50_000, 200_000)),
        *((box, GAUSSIANS, VIEWS) for box in (64, 128, 512)),
        *((BOX, GAUSSIANS, n_views) for n_views in (1, 2, 4, 16)),
    ):
        whole = in_a_process(step, box, n, n_views)[2]
        table.add(box, n, n_views, whole, 1e9 / (whole * n))


def sums(folder, n, box):
    """(seconds, peak MB) of reading n images and adding them up."""
    from taigs import runtime
    from taigs.accumulate import accumulate
    from taigs.io.mrc import write_stack
    from taigs.io.particles import read_particles
    from taigs.journal import Journal
    from taigs.progress import NoProgress

    rng, path = np.random.default_rng(0), Path(folder) / f"{n}.star"
    images = rng.normal(size=(500, box, box)).astype(np.float32)
    write_stack(path.with_suffix(".mrcs"), images, 2.0)
    labels = "ImageName AngleRot AngleTilt AnglePsi DefocusU DefocusV DefocusAngle Voltage SphericalAberration"
    labels += " AmplitudeContrast DetectorPixelSize Magnification"
    head = "data_\n\nloop_\n" + "".join(f"_rln{label}\n" for label in labels.split())
    angles = rng.uniform(-180, 180, (n, 3))
    path.write_text(head + "".join(
        f"{i % 500 + 1}@{path.with_suffix('.mrcs')} {a:.2f} {b:.2f} {c:.2f} 10000 10000 0 300 2.7 0.1 2 10000\n"
        for i, (a, b, c) in enumerate(angles)
    ))  # fmt: skip
    del images
    runtime.init("cpu")
    views = read_particles(path)
    accumulate(views, np.arange(64), np.eye(3)[None], NoProgress(), Journal(), "warm")
    started = time.perf_counter()
    accumulate(views, np.arange(n), np.eye(3)[None], NoProgress(), Journal(), "sums")
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def particles(table):
    with tempfile.TemporaryDirectory() as folder:
        for n in (1_000, 10_000):
            seconds, peak = in_a_process(sums, folder, n, 128)
            table.add(n, 128, seconds, n / seconds, peak)


START = """
import time
started = time.perf_counter()
import numpy as np
import taigs.tilt_run
from kernels import Step
from taigs import runtime
runtime.init("cpu")
imported = time.perf_counter()
step = Step(64, 2000, (1.0, 1.5), 8, np.random.default_rng(0))
step.whole()
runtime.ti.sync()
print(imported - started, time.perf_counter() - imported)
"""


def start(table):
    """Warm: what was compiled before is found in the cache."""
    found = []
    for _ in range(ROUNDS + 1):
        done = subprocess.run([sys.executable, "-c", START], cwd=Path(__file__).parent, capture_output=True, check=True)
        found.append([float(word) for word in done.stdout.split()])
    imports, step_ = (statistics.median(column) for column in zip(*found[1:], strict=True))
    table.add(imports, step_, imports + step_)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="folder for CSV files")
    options = parser.parse_args()
    available = sorted(os.sched_getaffinity(0))
    print(f"{processor()}, {len(available)} processors")
    tables = {
        "start": Table("Start, kernels cached, s", ("imports, backend", "to the end of a first step", "together"))
    }
    start(tables["start"])
    columns = ("work", "1 thread", f"{len(available)} threads", "ratio")
    tables["threads"] = Table(f"{BOX} px, {GAUSSIANS:,} Gaussians; volumes of 128 px, 20,000; ns for each", columns)
    threads(tables["threads"], available)
    columns = ("box px", "Gaussians", "views", "ns per Gaussian and view", "views/s")
    tables["sizes"] = Table("Whole step, all threads", columns)
    sizes(tables["sizes"])
    tables["particles"] = Table("W and B from a stack", ("images", "box px", "s", "images/s", "peak MB"))
    particles(tables["particles"])
    if options.csv:
        for name, table in tables.items():
            table.write(options.csv / f"scaling_{name}.csv")


if __name__ == "__main__":
    main()
