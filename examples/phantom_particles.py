"""Simulated particles, reconstructed from Python and compared with the truth.

    python examples/phantom_particles.py [PARTICLES]

Draws noisy images of a molecule with CTF in random orientations (default 500), and scores the map of all particles,
and the direct Fourier reconstruction of the same images, against it. Less than half a minute on two cores; no files.
"""

import sys

import numpy as np
from scipy.spatial.transform import Rotation

import taigs
from taigs.imaging.ctf import Ctf
from taigs.metrics import fsc, mean_fsc
from taigs.phantom import phantom_particles, phantom_scene, phantom_volume

BOX, PIXEL_SIZE = 48, 6.0  # pixels, Angstrom
SNR = 0.1


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rng = np.random.default_rng(0)
    taigs.init("cpu")  # or "auto", "cuda", "vulkan"
    molecule = phantom_scene(rng, (210.0, 210.0, 210.0))
    rotations = Rotation.random(n, random_state=0).as_matrix()
    shifts = rng.normal(0, 1, (n, 2))
    defocus = rng.uniform(10000, 20000, n)
    ctf = Ctf(300.0, 2.7, 0.1, defocus + 200, defocus - 200, rng.uniform(0, 180, n))
    images = phantom_particles(molecule, rotations, shifts, BOX, PIXEL_SIZE, ctf, SNR, rng)

    # Views: what taigs.read_particles("particles.star") makes of files.
    views = taigs.Views(
        images=images,
        projections=rotations[:, :2],
        shifts=shifts,
        pixel_size=PIXEL_SIZE,
        centre=np.array([BOX // 2, BOX // 2]),
        weights=np.ones(n),
        ctf=ctf,
        half_sets=1 + np.arange(n) % 2,
    )
    result = taigs.reconstruct_particles(views)
    truth = phantom_volume(molecule, taigs.Grid((BOX,) * 3, PIXEL_SIZE, (BOX // 2,) * 3))
    print(f"{len(result.cloud)} Gaussians, {sum(result.seconds.values()):.1f} s; mean FSC with the truth:")
    for name, title in (("map", "taigs"), ("direct", "direct Fourier")):
        print(f"{title:15}{mean_fsc(fsc(result.volumes[name], truth)[0]):.3f}")


if __name__ == "__main__":
    main()
