"""Make relion_projections.npz: RELION's CTF-affected projections of seven Gaussians, and all that made them.

Needs RELION 3.1's relion_project on PATH; takes a second. Run it only to make the fixture anew:

    python tests/data/make_relion_projections.py

Every term of the CTF that relion_project knows takes part: astigmatism, phase shift, B factor and scale.
"""

import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

HERE = Path(__file__).resolve().parent
BOX, PIXEL_SIZE, GAUSSIANS, VIEWS = 64, 1.5, 7, 6
OPTICS = {"rlnVoltage": 300, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}


def main():
    rng = np.random.default_rng(3)
    cloud, views = random_cloud(rng), random_views(rng)
    with tempfile.TemporaryDirectory() as folder:
        images = project(Path(folder), volume(**cloud), views)
    path = HERE / "relion_projections.npz"
    np.savez_compressed(path, images=images.astype(np.float16), pixel_size=PIXEL_SIZE, **cloud, **views, **OPTICS)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def random_cloud(rng):
    """Voxels from the centre (x, y, z), covariances (x, y, z) and heights."""
    axes = np.linalg.qr(rng.normal(size=(GAUSSIANS, 3, 3)))[0] * rng.uniform(1.8, 3.5, (GAUSSIANS, 1, 3))
    return {
        "positions": rng.uniform(-12, 12, (GAUSSIANS, 3)),
        "covariances": axes @ axes.transpose(0, 2, 1),
        "heights": rng.uniform(0.5, 1.5, GAUSSIANS),
    }


def random_views(rng):
    defocus = rng.uniform(8000, 13000, VIEWS)
    return {
        "rlnAngleRot": rng.uniform(-180, 180, VIEWS),
        "rlnAngleTilt": rng.uniform(0, 180, VIEWS),
        "rlnAnglePsi": rng.uniform(-180, 180, VIEWS),
        "rlnOriginXAngst": rng.uniform(-6, 6, VIEWS),
        "rlnOriginYAngst": rng.uniform(-6, 6, VIEWS),
        "rlnDefocusU": defocus,
        "rlnDefocusV": defocus + rng.uniform(-2000, 2000, VIEWS),
        "rlnDefocusAngle": rng.uniform(-90, 90, VIEWS),
        "rlnPhaseShift": rng.uniform(0, 90, VIEWS),
        "rlnCtfBfactor": rng.uniform(0, 80, VIEWS),
        "rlnCtfScalefactor": rng.uniform(0.6, 1.2, VIEWS),
    }


def volume(positions, covariances, heights):
    zyx = np.indices((BOX, BOX, BOX)) - BOX // 2
    xyz = np.moveaxis(zyx[::-1], 0, -1).astype(float)
    total = np.zeros((BOX, BOX, BOX))
    for position, covariance, height in zip(positions, covariances, heights, strict=True):
        d = xyz - position
        total += height * np.exp(-np.einsum("...i,ij,...j", d, np.linalg.inv(covariance), d) / 2)
    return total.astype(np.float32)


def project(folder, density, views):
    with mrcfile.new(folder / "v.mrc") as file:
        file.set_data(density)
        file.voxel_size = PIXEL_SIZE
    columns = {**views, "rlnOpticsGroup": np.ones(VIEWS)}
    optics = {"rlnOpticsGroup": 1, **OPTICS, "rlnImagePixelSize": PIXEL_SIZE, "rlnImageSize": BOX}
    optics["rlnImageDimensionality"] = 2
    with open(folder / "p.star", "w", encoding="utf-8") as file:
        write_loop(file, "optics", optics, [["og1", *optics.values()]], first="rlnOpticsGroupName")
        rows = np.array(list(columns.values())).T
        names = [f"{i + 1:06d}@d.mrcs" for i in range(VIEWS)]
        write_loop(file, "particles", columns, [[n, *r] for n, r in zip(names, rows, strict=True)], "rlnImageName")
    command = f"relion_project --i v.mrc --ang p.star --o p --angpix {PIXEL_SIZE} --pad 4 --ctf"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return mrcfile.read(folder / "p.mrcs")


def write_loop(file, name, columns, rows, first):
    labels = "".join(f"_{label} #{i}\n" for i, label in enumerate((first, *columns), 1))
    file.write(f"\ndata_{name}\n\nloop_\n{labels}")
    file.writelines(" ".join(map(str, row)) + "\n" for row in rows)


if __name__ == "__main__":
    main()
