"""How the time of a step on the CPU grows with threads, Gaussians, pixels, views and particles, and what a start takes.

python benchmarks/scaling.py [--csv FOLDER]     needs Linux
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
ROUNDS = 3  # of starts
TURNS, TURN_S = 25, 0.5


def in_a_process(function, *arguments):
    """What a function returns in a new process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def step(box, n, n_views):
    """ns per Gaussian and view of (forward, backward, whole step) on the processors of this process."""
    from kernels import Step

    from taigs import runtime

    runtime.init("cpu")
    work = Step(box, n, SIGMAS, n_views, np.random.default_rng(0))
    work.whole()
    return [1e9 * timed(f)[0] / (n * n_views) for f in (work.forward, work.backward, work.whole)]


class Works:
    """What is timed with more and more threads, in a process of its own that runs on some processors."""

    def __init__(self, processors):
        self.pipe, other = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=serve, args=(processors, other), daemon=True)
        self.process.start()
        self.names = self.pipe.recv()

    def begin(self, name, moment):
        self.pipe.send((name, moment))

    def seconds(self):
        return self.pipe.recv()

    def end(self):
        self.process.terminate()


def serve(processors, pipe):
    """Answer each (work, moment at which to begin) with the median seconds of a call."""
    os.sched_setaffinity(0, processors)
    from kernels import Step, cloud_in_ball

    from taigs import runtime
    from taigs.render import Renderer, Voxelizer
    from taigs.views import Grid

    runtime.init("cpu")
    step = Step(BOX, GAUSSIANS, SIGMAS, VIEWS, np.random.default_rng(0))
    renderer = Renderer(20_000, 1, (8, 8))
    renderer.set_cloud(cloud_in_ball(20_000, 128, SIGMAS, np.random.default_rng(0)))
    renderer.sort(64.0)
    voxelizer = Voxelizer(renderer, Grid((128,) * 3, 1.0, (64,) * 3), whole=True)
    works = {
        "forward": step.forward,
        "backward": step.backward,
        "whole step": step.whole,
        "voxelize": lambda: list(voxelizer.draw(20_000)),
        "its gradient": lambda: voxelizer.vjp(),
    }
    for work in works.values():
        work()
    pipe.send(list(works))
    while True:
        name, moment = pipe.recv()
        works[name]()
        runtime.ti.sync()
        while time.time() < moment:  # all begin together
            pass
        calls, end = [], time.perf_counter() + TURN_S
        while time.perf_counter() < end:
            started = time.perf_counter()
            works[name]()
            runtime.ti.sync()
            calls.append(time.perf_counter() - started)
        pipe.send(statistics.median(calls))


def threads(table, available):
    """Each work alone on a processor, in a process on each at once (what the machine allows), and in threads.

    The three take turns, so that what else the machine does falls on all of them; ratios are of turns that follow
    each other.
    """
    each, together = [Works({p}) for p in available], Works(set(available))
    for name in together.names:
        turns = []
        for _ in range(TURNS):
            alone = [take_turn(name, [works]) for works in each]
            turns.append((np.mean(alone), take_turn(name, each), take_turn(name, [together])))
        one, at_once, threaded = np.array(turns).T
        ms = [1e3 * float(np.median(seconds)) for seconds in (one, threaded)]
        table.add(name, *ms, *(float(np.median(r)) for r in (one / threaded, len(each) * one / at_once)))
    for works in (*each, together):
        works.end()


def take_turn(name, works):
    """Mean seconds of a call in processes that work at the same time."""
    moment = time.time() + 0.2
    for one in works:
        one.begin(name, moment)
    return float(np.mean([one.seconds() for one in works]))


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
    n = len(available)
    columns = ("work", "1 thread, ms", f"{n} threads, ms", "ratio", f"ratio of {n} processes")
    title = f"{BOX} px, {GAUSSIANS:,} Gaussians, {VIEWS} views; volumes of 128 px, 20,000"
    tables["threads"] = Table(title, columns)
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
