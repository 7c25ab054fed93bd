"""Whole commands against the programs people use now, in turn, on all processors: time and peak memory.

python benchmarks/yardsticks.py --tilt ts.mrc --angles ts.tlt --thickness PX    needs astra-toolbox
python benchmarks/yardsticks.py --particles particles.star                      needs relion_reconstruct

The stack is aligned, protein bright, its tilt axis upright; `taigs simulate` writes both kinds. [--rounds N] [--csv F]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import mrcfile
import numpy as np
from measure import Table, processor

from taigs.io.particles import read_particles
from taigs.io.star import read_star, write_star
from taigs.memory import spa_memory, tilt_memory

TAIGS = (sys.executable, "-m", "taigs.cli.main")


def run(command, cwd=None):
    """(seconds, peak bytes of the largest process) of a command; it must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    words = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}: {words}")
    return seconds, 1024 * usage.ru_maxrss


def sirt(stack, angles, thickness, iterations):
    """SIRT with positivity by ASTRA, slice by slice, in as many processes as there are processors."""
    with mrcfile.open(stack, permissive=True) as file:
        images = np.array(file.data, np.float32)
    with get_context("fork").Pool() as pool:
        tasks = ((images[:, y], np.loadtxt(angles), thickness, iterations) for y in range(images.shape[1]))
        return np.stack(pool.starmap(_slice, tasks, chunksize=8), 1)


def _slice(sinogram, angles, thickness, iterations):
    import astra

    width = sinogram.shape[1]
    volume = astra.create_vol_geom(thickness, width)
    views = astra.create_proj_geom("parallel", 1.0, width, -np.radians(angles))
    ids = [astra.data2d.create("-sino", views, sinogram), astra.data2d.create("-vol", volume, 0.0)]
    config = astra.astra_dict("SIRT")
    config["ProjectorId"] = astra.create_projector("linear", views, volume)
    config["ProjectionDataId"], config["ReconstructionDataId"] = ids
    config["option"] = {"MinConstraint": 0.0}
    algorithm = astra.algorithm.create(config)
    astra.algorithm.run(algorithm, iterations)
    found = astra.data2d.get(ids[1])
    astra.algorithm.delete(algorithm)
    astra.data2d.delete(ids)
    return found


def tilt_series(table, options, folder):
    command = [*TAIGS, "tilt", options.tilt, "--angles", options.angles, "--thickness", options.thickness, "-q"]
    ours, theirs = [], []
    run([*command, "-o", folder / "first tilt"])  # compiles
    for i in range(options.rounds):
        ours.append(run([*command, "-o", folder / f"tilt{i}"]))
        started = time.perf_counter()
        sirt(options.tilt, options.angles, options.thickness, 100)
        theirs.append(time.perf_counter() - started)
    with mrcfile.mmap(options.tilt, permissive=True) as file:
        estimate = tilt_memory(file.data.shape[0], file.data.shape[1:], options.thickness)
    seconds, peer = statistics.median(s for s, _ in ours), statistics.median(theirs)
    table.add("taigs tilt", seconds, "ASTRA, SIRT 100 +", peer, seconds / peer, ours[0][1] / 1e6, estimate / 1e6)


def particles(table, options, folder):
    """The star's paths are relative to the working folder, as RELION's are."""
    star = options.particles
    ours, theirs = [], []
    run([*TAIGS, "spa", star, "-o", folder / "first spa", "-q"])  # compiles
    for i in range(options.rounds):
        ours.append(run([*TAIGS, "spa", star, "-o", folder / f"spa{i}", "-q"]))
        command = ["relion_reconstruct", "--i", star, "--ctf", "--o", folder / "peer.mrc"]
        theirs.append(sum(run([*command, *subset])[0] for subset in ((), ("--subset", 1), ("--subset", 2))))
    views = read_particles(star)
    estimate = spa_memory(len(views), views.image_shape[0])
    seconds, peer = statistics.median(s for s, _ in ours), statistics.median(theirs)
    table.add(
        "taigs spa", seconds, "relion_reconstruct, 3 maps", peer, seconds / peer, ours[0][1] / 1e6, estimate / 1e6
    )


def images_per_second(table, options, folder):
    """Of the accumulation alone: what the second half of the images adds to the time of the first."""
    star = options.particles
    tables = read_star(star)
    rows = tables["particles"]
    n, half = len(rows), folder / "half.star"
    rows.columns = {label: column[: n // 2] for label, column in rows.columns.items()}
    write_star(half, tables.values())
    relion = ["relion_reconstruct", "--ctf", "--iter", 1, "--o", folder / "peer.mrc", "--i"]
    ours, theirs = [], []
    for _ in range(options.rounds):
        with get_context("spawn").Pool(1) as pool:  # Taichi starts once in a process
            ours.append(pool.apply(accumulation, (star,)))
        theirs.append(run([*relion, star])[0] - run([*relion, half])[0])
    rate, peer = 1 / statistics.median(ours), (n - n // 2) / statistics.median(theirs)
    table.add("taigs, W and B", rate, "relion_reconstruct", peer, rate / peer)


def accumulation(star):
    """Seconds for an image, from the file to the sums."""
    from taigs import runtime
    from taigs.accumulate import accumulate
    from taigs.journal import Journal
    from taigs.progress import NoProgress

    runtime.init("cpu")
    views = read_particles(star)
    n, seconds = len(views), []
    for count in (64, n // 2, n):  # the first compiles
        started = time.perf_counter()
        accumulate(views, np.arange(count), np.eye(3)[None], NoProgress(), Journal(), "benchmark")
        seconds.append(time.perf_counter() - started)
    return (seconds[2] - seconds[1]) / (n - n // 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tilt", type=Path, help="stack of aligned images")
    parser.add_argument("--angles", type=Path, help="tilt angles, degrees")
    parser.add_argument("--thickness", type=int, help="pixels")
    parser.add_argument("--particles", type=Path, help="star file, with half-sets")
    parser.add_argument("--rounds", type=int, default=1, help="default 1")
    parser.add_argument("--csv", type=Path, help="folder for CSV files")
    options = parser.parse_args()
    print(processor())
    columns = ("work", "s", "peer", "peer s", "ratio", "peak MB", "estimated MB")
    commands = Table("Whole commands, kernels cached", columns)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if options.tilt:
            tilt_series(commands, options, folder)
        if options.particles:
            particles(commands, options, folder)
            rates = Table("Images per second", ("work", "images/s", "peer", "peer images/s", "ratio"))
            images_per_second(rates, options, folder)
    if options.csv:
        commands.write(options.csv / "commands.csv")
        if options.particles:
            rates.write(options.csv / "images_per_second.csv")


if __name__ == "__main__":
    main()
