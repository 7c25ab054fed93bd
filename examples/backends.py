"""The projector on every backend of this machine: difference from the CPU, and time per view.

Run it as: python examples/backends.py [GAUSSIANS [SIZE]] (default 20000, and 256 pixels). One process per backend.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N_VIEWS, REPEATS = 8, 5


def draw(arch, n, size, file):
    """Draw a cloud under a batch of views on one backend; save the images, print ms per view."""
    import taigs
    from taigs.geometry import tilt_rotation
    from taigs.render import Renderer
    from taigs.runtime import ti

    try:
        started = taigs.init(arch)
    except taigs.ResourceError:
        sys.exit("not on this machine")
    rng = np.random.default_rng(0)
    positions, sigmas = size * rng.uniform(-0.4, 0.4, (n, 3)), rng.uniform(1, 3, (n, 3))  # pixels of 1 A
    renderer = Renderer(n, N_VIEWS, (size, size))
    renderer.set_cloud(taigs.GaussianCloud(positions, np.log(sigmas), rng.normal(size=(n, 4)), np.ones(n)))
    rotations, centres = tilt_rotation(np.linspace(-60, 60, N_VIEWS)), np.full((N_VIEWS, 2), (size - 1) / 2)
    renderer.set_views(rotations[:, :2], centres, (size, size))
    times = []
    for _ in range(1 + REPEATS):  # the first time compiles
        begun = time.perf_counter()
        renderer.forward()
        ti.sync()
        times.append(time.perf_counter() - begun)
    np.save(file, renderer.get_images())
    print(f"{1000 * min(times[1:]) / N_VIEWS:.2f}", "software" if started.software else "")


def main(n=20_000, size=256):
    print(f"{n} Gaussians, {N_VIEWS} views of {size} x {size}\nbackend   ms per view   difference / maximum")
    with tempfile.TemporaryDirectory() as folder:
        for arch in ("cpu", "cuda", "vulkan"):
            file = Path(folder, f"{arch}.npy")
            done = subprocess.run([sys.executable, __file__, arch, str(n), str(size), file], capture_output=True)
            if done.returncode:
                print(f"{arch:10}{(done.stderr.decode().splitlines() or ['crashes'])[-1]}")
                continue
            images, cpu = np.load(file), np.load(Path(folder, "cpu.npy"))
            milliseconds, *kind = done.stdout.decode().split()
            print(f"{arch:10}{milliseconds:>11}{np.abs(images - cpu).max() / cpu.max():>23.1e}", *kind)


if __name__ == "__main__":  # with four arguments it was started by main()
    main(*map(int, sys.argv[1:])) if len(sys.argv) < 5 else draw(sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4])
