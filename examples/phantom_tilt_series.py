"""A simulated tilt series, reconstructed by the command line and compared with the truth.

    python examples/phantom_tilt_series.py [FOLDER]

Writes ts.mrc and ts.tlt to FOLDER (default phantom-tilt-series), runs `taigs tilt` on them, and scores its
tomogram and the weighted back-projection against the scene. About a quarter of a minute on two cores.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

from taigs import Grid
from taigs.io.mrc import read_volume, write_stack, write_volume
from taigs.metrics import wedge_scores
from taigs.phantom import phantom_scene, phantom_tilt_series, phantom_volume

PIXEL_SIZE = 8.0  # Angstrom
SHAPE = (32, 96, 96)  # z, y, x
MAX_TILT = 60.0  # degrees
N_VIEWS = 31
SNR = 0.2


def simulate(folder):
    """Write the files a microscope and an alignment would leave; return the truth."""
    rng = np.random.default_rng(1)
    grid = Grid(SHAPE, PIXEL_SIZE)
    scene = phantom_scene(rng, np.array(SHAPE[::-1]) * PIXEL_SIZE)
    angles = np.linspace(-MAX_TILT, MAX_TILT, N_VIEWS)
    stack, _ = phantom_tilt_series(scene, angles, SHAPE[1:], PIXEL_SIZE, SNR, rng)
    write_stack(folder / "ts.mrc", stack, PIXEL_SIZE, overwrite=True)
    np.savetxt(folder / "ts.tlt", angles, fmt="%.2f")
    truth = phantom_volume(scene, grid)
    write_volume(folder / "truth.mrc", truth.astype(np.float32), PIXEL_SIZE, overwrite=True)
    return truth


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "phantom-tilt-series")
    folder.mkdir(parents=True, exist_ok=True)
    truth = simulate(folder)
    taigs = Path(sysconfig.get_path("scripts"), "taigs")  # the command installed beside this Python
    options = ["--angles", "ts.tlt", "--thickness", str(SHAPE[0]), "--contrast", "bright", "-o", "run", "--overwrite"]
    subprocess.run([taigs, "tilt", "ts.mrc", *options], cwd=folder, check=True)
    print(f"{'':8}{'NCC':>8}{'FSC measured':>14}{'FSC wedge':>11}")
    for name, file in (("taigs", "tomogram.mrc"), ("WBP", "wbp.mrc")):
        volume, _ = read_volume(folder / "run" / file)
        scores = wedge_scores(volume, truth, MAX_TILT)
        print(f"{name:8}{scores['ncc']:8.3f}{scores['fsc_measured']:14.3f}{scores['fsc_wedge']:11.3f}")


if __name__ == "__main__":
    main()
