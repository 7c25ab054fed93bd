"""Make relion_postprocess.npz: two half maps that RELION reconstructed, and RELION's own figures for them.

Needs RELION 3.1's relion_project, relion_reconstruct and relion_postprocess on PATH; takes about ten
seconds. Run it only to make the fixture anew:

    python tests/data/make_relion_fixtures.py

A phantom of random blobs is projected with CTF and noise, and each half of the images is reconstructed. The
half maps are rounded to 16 bit before postprocessing, so that what is stored is what RELION scored.
"""

import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

HERE = Path(__file__).resolve().parent
BOX, VOXEL_SIZE, IMAGES = 40, 2.0, 600
NOISE = "5"  # standard deviation of relion_project's white noise
DRAWS = 6  # phase randomisations of RELION, one each random seed
HEADER = f"""
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
og1 1 300.0 2.7 0.1 {VOXEL_SIZE} {BOX} 2

data_particles

loop_
_rlnAngleRot #1
_rlnAngleTilt #2
_rlnAnglePsi #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
_rlnOpticsGroup #7
_rlnRandomSubset #8
_rlnImageName #9
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        fixture = make(Path(folder))
    path = HERE / "relion_postprocess.npz"
    np.savez_compressed(path, **fixture)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def make(folder):
    rng = np.random.default_rng(7)

    def run(*command):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        # Without Ghostscript relion_postprocess fails after its last result is written.
        if done.returncode and not command[0].endswith("postprocess"):
            raise SystemExit(f"{command}\n{done.stderr}")

    def save(name, volume):
        with mrcfile.new(folder / name, overwrite=True) as file:
            file.set_data(np.ascontiguousarray(volume, np.float32))
            file.voxel_size = VOXEL_SIZE

    def postprocess(name, *options):
        (folder / name).mkdir()
        run("relion_postprocess", "--i", "half1.mrc", "--i2", "half2.mrc", "--angpix", str(VOXEL_SIZE),
            "--o", f"{name}/postprocess", *options)  # fmt: skip
        return (folder / name / "postprocess.star").read_text()

    save("phantom.mrc", phantom(rng))
    write_particles(folder / "p.star", rng)
    run("relion_project", "--i", "phantom.mrc", "--ang", "p.star", "--o", "p", "--angpix", str(VOXEL_SIZE),
        "--ctf", "--add_noise", "--white_noise", NOISE)  # fmt: skip
    halves = []
    for subset in ("1", "2"):
        run("relion_reconstruct", "--i", "p.star", "--ctf", "--subset", subset, "--o", f"half{subset}.mrc")
        half = mrcfile.read(folder / f"half{subset}.mrc")
        halves.append((half / half.std()).astype(np.float16))
    mask = soft_sphere(BOX, 13, 6).astype(np.float16)

    # RELION reconstructs even boxes only; an odd one is cut from them.
    fixture = {"half1": halves[0], "half2": halves[1], "mask": mask, "voxel_size": VOXEL_SIZE}
    for parity, inside in (("even", slice(None)), ("odd", slice(2, 35))):
        for name, volume in (("half1", halves[0]), ("half2", halves[1]), ("mask", mask)):
            save(f"{name}.mrc", volume[inside, inside, inside])
        for seed in range(DRAWS):
            text = postprocess(f"{parity}{seed}", "--mask", "mask.mrc", "--auto_bfac", "--autob_lowres", "10",
                               "--random_seed", str(seed + 1))  # fmt: skip
            fixture[f"{parity}_star_{seed}"] = text
        fixture[f"{parity}_star_without_mask"] = postprocess(f"{parity}_plain")
        fixture[f"{parity}_star_given_bfactor"] = postprocess(
            f"{parity}_given", "--mask", "mask.mrc", "--adhoc_bfac", "-50", "--random_seed", "1"
        )
        fixture[f"{parity}_sharpened"] = mrcfile.read(folder / f"{parity}_given" / "postprocess.mrc").astype(np.float16)
    return fixture


def phantom(rng):
    """Fifty blobs of 1 voxel within a ball off the centre, [z, y, x]."""
    grid = np.indices((BOX, BOX, BOX)) - BOX // 2
    centres = rng.normal(size=(50, 3))
    centres *= (9 * rng.random((50, 1)) ** (1 / 3)) / np.linalg.norm(centres, axis=1, keepdims=True)
    centres += np.array([1, 0, -1])
    return sum(
        a * np.exp(-((grid - c[:, None, None, None]) ** 2).sum(axis=0) / 2)
        for a, c in zip(rng.uniform(0.5, 1.5, 50), centres, strict=True)
    )


def soft_sphere(n, radius, width):
    """1 inside, 0 outside, a raised cosine of `width` voxels about `radius`."""
    distance = np.sqrt(((np.indices((n, n, n)) - n // 2) ** 2).sum(axis=0))
    return (1 - np.cos(np.pi * np.clip((radius - distance) / width + 0.5, 0, 1))) / 2


def write_particles(path, rng):
    with open(path, "w", encoding="utf-8") as file:
        file.write(HEADER)
        for i in range(IMAGES):
            rot, psi = rng.uniform(-180, 180, 2)
            tilt = np.degrees(np.arccos(rng.uniform(-1, 1)))
            defocus = rng.uniform(8000, 18000)
            file.write(f"{rot:.6f} {tilt:.6f} {psi:.6f} {defocus:.1f} {defocus - 400:.1f} ")
            file.write(f"{rng.uniform(0, 180):.2f} 1 {i % 2 + 1} {i + 1:06d}@p.mrcs\n")
        file.write("\n")


if __name__ == "__main__":
    main()
