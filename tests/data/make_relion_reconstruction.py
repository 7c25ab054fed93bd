"""Make relion_reconstruction.npz: noisy particles of thirty Gaussians, and the map that RELION reconstructs from them.

Needs RELION 3.1's relion_project and relion_reconstruct on PATH; takes some seconds. Run it only to make the fixture
anew:

    python tests/data/make_relion_reconstruction.py

RELION reads the particles as they are stored, in coarse steps. Every term of the CTF that it knows takes part.
"""

import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

HERE = Path(__file__).resolve().parent
BOX, PIXEL_SIZE, GAUSSIANS, VIEWS = 32, 2.5, 30, 300
NOISE = 1.0  # standard deviations of the images
STEP = 1 / 8  # of the values stored
OPTICS = {"rlnVoltage": 300, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}


def main():
    rng = np.random.default_rng(5)
    views = random_views(rng)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mrc(folder / "v.mrc", random_volume(rng))
        write_star(folder / "p.star", views)
        run(f"relion_project --i v.mrc --ang p.star --o d --angpix {PIXEL_SIZE} --pad 4 --ctf", folder)
        images = mrcfile.read(folder / "d.mrcs")
        images = images / images.std() + rng.normal(0, NOISE, images.shape)
        images = (np.rint(images / STEP) * STEP).astype(np.float16)
        write_mrc(folder / "d.mrcs", images.astype(np.float32))
        run(f"relion_reconstruct --i p.star --o m.mrc --ctf --angpix {PIXEL_SIZE}", folder)
        found = mrcfile.read(folder / "m.mrc")
    path = HERE / "relion_reconstruction.npz"
    np.savez_compressed(path, images=images, map=found.astype(np.float16), pixel_size=PIXEL_SIZE, **views, **OPTICS)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def random_views(rng):
    """By RELION's labels; angles cover the sphere evenly."""
    defocus = rng.uniform(6000, 16000, VIEWS)
    return {
        "rlnAngleRot": rng.uniform(-180, 180, VIEWS),
        "rlnAngleTilt": np.degrees(np.arccos(rng.uniform(-1, 1, VIEWS))),
        "rlnAnglePsi": rng.uniform(-180, 180, VIEWS),
        "rlnOriginXAngst": rng.uniform(-6, 6, VIEWS),
        "rlnOriginYAngst": rng.uniform(-6, 6, VIEWS),
        "rlnDefocusU": defocus,
        "rlnDefocusV": defocus + rng.uniform(-2000, 2000, VIEWS),
        "rlnDefocusAngle": rng.uniform(-90, 90, VIEWS),
        "rlnPhaseShift": rng.uniform(0, 90, VIEWS),
        "rlnCtfBfactor": rng.uniform(0, 60, VIEWS),
        "rlnCtfScalefactor": rng.uniform(0.6, 1.2, VIEWS),
    }


def random_volume(rng):
    """Gaussians within 11 voxels of the centre, fine enough for power up to Nyquist, without any symmetry."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    total = np.zeros((BOX,) * 3)
    for x0, y0, z0 in rng.uniform(-6, 6, (GAUSSIANS, 3)):
        sigma = rng.uniform(0.6, 1.2)
        total += np.exp(-((x - x0) ** 2 + (y - y0) ** 2 + (z - z0) ** 2) / (2 * sigma**2)) / sigma**2
    return total.astype(np.float32)


def write_mrc(path, values):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        file.voxel_size = PIXEL_SIZE


def write_star(path, views):
    optics = {"rlnOpticsGroupName": "og1", "rlnOpticsGroup": 1, **OPTICS, "rlnImagePixelSize": PIXEL_SIZE}
    optics |= {"rlnImageSize": BOX, "rlnImageDimensionality": 2}
    names = [f"{i + 1:06d}@d.mrcs" for i in range(VIEWS)]
    particles = {"rlnImageName": names, "rlnOpticsGroup": [1] * VIEWS, **views}
    with open(path, "w", encoding="utf-8") as file:
        for name, columns in (("optics", {k: [v] for k, v in optics.items()}), ("particles", particles)):
            file.write(f"\ndata_{name}\n\nloop_\n" + "".join(f"_{label}\n" for label in columns))
            file.writelines(" ".join(map(str, row)) + "\n" for row in zip(*columns.values(), strict=True))


def run(command, folder):
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


if __name__ == "__main__":
    main()
