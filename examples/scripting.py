"""A tilt series reconstructed from Python, and the cloud projected along any axis, with gradients.

    python examples/scripting.py [SIZE]

SIZE is the width of the images in pixels (default 96). About a quarter of a minute on two cores; no files.
"""

import sys

import numpy as np

import taigs
from taigs.geometry import imod_views_geometry, tilt_rotation
from taigs.metrics import ncc
from taigs.phantom import phantom_scene, phantom_tilt_series, phantom_volume

PIXEL_SIZE = 8.0  # Angstrom


def main():
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 96
    rng = np.random.default_rng(0)
    taigs.init("cpu")  # or "auto", "cuda", "vulkan"

    # Data: a scene of known truth, seen every 4 degrees through noise.
    grid = taigs.Grid((32, size, size), PIXEL_SIZE)
    scene = phantom_scene(rng, np.array(grid.shape[::-1]) * PIXEL_SIZE)
    angles = np.arange(-60, 61, 4.0)
    images, _ = phantom_tilt_series(scene, angles, (size, size), PIXEL_SIZE, snr=0.2, rng=rng)

    # Views: what taigs.read_tilt_series("ts.mrc", "ts.tlt", xf="ts.xf") makes of files.
    projections, shifts = imod_views_geometry(angles)
    views = taigs.Views(
        images=images,  # dense = bright, noise of standard deviation 1
        projections=projections,
        shifts=shifts,
        pixel_size=PIXEL_SIZE,
        centre=np.array([(size - 1) / 2, (size - 1) / 2]),
        weights=np.ones(len(angles)),
        tilt_angles=angles,
    )
    result = taigs.reconstruct_tilt_series(views, thickness=grid.shape[0])
    print(f"{len(result.cloud)} Gaussians in {result.seconds:.1f} s, volume {result.volume.shape}")
    print(f"NCC with the truth: {ncc(result.volume, phantom_volume(scene, grid)):.3f}")

    # The cloud from a direction that was never measured, against the noise-free image.
    rotation = tilt_rotation(22.0)
    image = taigs.project(result.cloud, rotation, (size, size), PIXEL_SIZE)
    _, clean = phantom_tilt_series(scene, [22.0], (size, size), PIXEL_SIZE, snr=0.2, rng=rng)
    print(f"NCC of a projection at 22 degrees: {ncc(image, clean[0]):.3f}")

    # Gradient of L = sum(v * image). The image is linear in the masses, so masses . dL/dmasses is L itself.
    v_image = rng.standard_normal((size, size))
    gradient = taigs.project_vjp(result.cloud, rotation, v_image, PIXEL_SIZE)
    print(f"L = {np.sum(v_image * image):.5g}, masses . dL/dmasses = {result.cloud.masses @ gradient['masses']:.5g}")
    print("gradients:", ", ".join(f"{name} {value.shape}" for name, value in gradient.items()))


if __name__ == "__main__":
    main()
