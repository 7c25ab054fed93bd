"""Make relion_symmetry.npz: where RELION puts the copies of two blobs when it symmetrises a map.

Needs RELION 3.1's relion_image_handler on PATH; takes some seconds. Run it only to make the fixture anew:

    python tests/data/make_relion_symmetry.py

A blob that lies on no axis has one copy per operator of the group, and the copies of two blobs at different
distances from the centre lie alike only under the operators themselves.
"""

import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np
from scipy import ndimage

HERE = Path(__file__).resolve().parent
GROUPS = {"C1": 1, "C2": 2, "C7": 7, "D1": 2, "D2": 4, "D3": 6, "D7": 14, "T": 12, "O": 24}
GROUPS |= dict.fromkeys(("I", "I1", "I2", "I3", "I4"), 60)
BOX = 80
# Voxels from the centre (x, y, z). In no group are two copies of a blob closer than 8 voxels.
BLOBS = np.array([[31.0, -9.0, -7.0], [-14.0, -6.0, -15.0]])
SIGMA = 1.5  # voxels


def main():
    fixture = {"blobs": BLOBS.astype(np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "blobs.mrc", Path(folder) / "symmetrised.mrc"
        with mrcfile.new(source) as file:
            file.set_data(sum(blob(place) for place in BLOBS).astype(np.float32))
        for name, order in GROUPS.items():
            command = ["relion_image_handler", "--i", str(source), "--o", str(target), "--sym", name]
            subprocess.run(command, check=True, capture_output=True)
            fixture[name] = copies(mrcfile.read(target), order).astype(np.float32)
    path = HERE / "relion_symmetry.npz"
    np.savez_compressed(path, **fixture)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def blob(place):
    z, y, x = np.indices((BOX, BOX, BOX)) - BOX // 2
    x0, y0, z0 = place
    return np.exp(-((x - x0) ** 2 + (y - y0) ** 2 + (z - z0) ** 2) / (2 * SIGMA**2))


def copies(volume, order):
    """Centres of mass (x, y, z) of the copies, voxels from the centre: (2, order, 3), of each blob in any order."""
    labels, n = ndimage.label(volume > 0.2 * volume.max())
    if n != 2 * order:
        raise SystemExit(f"{n} separate blobs; expected {2 * order}")
    centres = np.array(ndimage.center_of_mass(volume, labels, np.arange(1, n + 1)))[:, ::-1] - BOX // 2
    inner = np.linalg.norm(centres, axis=1) < np.linalg.norm(BLOBS, axis=1).mean()
    return np.stack([centres[~inner], centres[inner]])


if __name__ == "__main__":
    main()
