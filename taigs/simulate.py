"""Simulated data sets with known truth: particles of a model, a map or atoms, and what tilt series share with them.

    image = CTF x projection of the truth + noise, noise of variance 1

The truth is scaled so that the mean variance of the clean images (with CTF and damage) is the signal-to-noise
ratio; of more than 256 images, 256 spread over the set make this mean. Coloured noise has a power spectrum of
1 + 4 exp(-(30 A k)^2), scaled to variance 1.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from taigs.errors import InputError, NumericalError
from taigs.geometry import euler_to_matrix
from taigs.imaging.ctf import Ctf
from taigs.io.clouds import write_cloud
from taigs.io.mrc import write_sections, write_stack
from taigs.io.star import write_star
from taigs.projections import Projections, particle_tables
from taigs.projector import Projector
from taigs.simulate_source import radius
from taigs.views import Grid
from taigs.voxel_output import draw_sections

SNR_IMAGES = 256
SMALLEST_BOX = 8  # pixels
ASTIGMATISM = 400.0  # Angstrom, largest
PREFERRED_SPREAD, PREFERRED_MOST = 20.0, 45.0  # degrees from the z axis
NOISES = ("white", "colored")


@dataclass(frozen=True)
class Particles:
    """What the particles are to be; lengths in Angstrom unless a name says ``_px``, angles in degrees."""

    count: int
    box: int  # pixels
    pixel_size: float
    snr: float = 0.1
    defocus: tuple | None = (8000.0, 20000.0)  # None: no CTF
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    poses: str = "uniform"
    shift_px: float = 0.0  # standard deviation of x and of y
    pose_error: float = 0.0  # root mean square angle
    shift_error_px: float = 0.0  # standard deviation of x and of y
    noise: str = "white"
    pad: int = 1
    seed: int = 0


def check(plan, cloud):
    """Refuse particles that make no sense before anything is written.

    Raises
    ------
    InputError
    """
    check_imaging(plan)
    half = radius(cloud)
    needed = max(int(np.ceil(2 * half / plan.pixel_size / 2)) * 2, SMALLEST_BOX)
    if plan.box < needed:
        raise InputError(
            f"box of {plan.box} px, {plan.box * plan.pixel_size:.0f} Å; the object is {2 * half:.0f} Å wide; "
            f"expected at least {needed} px"
        )


def check_imaging(plan):
    """Refuse what makes no sense for particles and tilt series alike.

    Raises
    ------
    InputError
    """
    if not plan.snr > 0:
        raise InputError(f"signal-to-noise ratio {plan.snr:g}; expected more than 0, such as 0.1, or inf for no noise")
    if not 0 < plan.pixel_size < np.inf:
        raise InputError(f"pixel size {plan.pixel_size}; expected a positive number of Angstrom")
    if plan.noise not in NOISES:
        raise InputError(f'noise "{plan.noise}"; expected {" or ".join(NOISES)}')
    if not all(0 <= spread < np.inf for spread in (plan.shift_px, plan.pose_error, plan.shift_error_px)):
        raise InputError("a shift or an error is negative or not finite; expected a standard deviation")
    Ctf(plan.voltage_kv, plan.cs_mm, plan.amplitude_contrast, 0, 0, 0)


# --- particles -----------------------------------------------------------------------------------


def simulate_particles(cloud, plan, folder, progress, frame=(0.0, 0.0, 0.0)):
    """Write particles.mrcs, particles.star, truth.star (without pose errors), truth.mrc and truth.npz.

    Parameters
    ----------
    cloud : GaussianCloud
    plan : Particles
    folder : RunDirectory or Path
    progress : Progress
    frame : (x, y, z)
        Angstrom; where the cloud's origin lies in the frame of its atoms, to which the truth's MRC origin refers.

    Returns
    -------
    float
        Factor of the truth's density against the source's.
    """
    rngs = [np.random.default_rng(s) for s in np.random.SeedSequence(plan.seed).spawn(5)]
    rotations = _rotations(plan, rngs[0])
    shifts = plan.shift_px * rngs[0].standard_normal((plan.count, 2))
    ctf = None if plan.defocus is None else random_ctf(plan, rngs[1], plan.count)
    centre = (plan.box // 2,) * 3
    projector = Projector(cloud, (plan.box, plan.box), plan.pixel_size, centre=centre[:2], pad=plan.pad)
    images = Projections(projector, rotations, shifts, ctf, progress=progress)
    scale = write_images(folder / "particles.mrcs", images, plan, rngs[2], progress)

    half_sets = rngs[3].permutation(1 + np.arange(plan.count) % 2)
    axes = rngs[4].standard_normal((plan.count, 3)) / np.sqrt(3)
    wrong = Rotation.from_rotvec(np.radians(plan.pose_error) * axes).as_matrix() @ rotations
    moved = shifts + plan.shift_error_px * rngs[4].standard_normal((plan.count, 2))
    for name, poses in (("particles.star", (wrong, moved)), ("truth.star", (rotations, shifts))):
        tables = particle_tables("particles.mrcs", *poses, projector.shape, plan.pixel_size, ctf, half_sets)
        write_star(folder / name, tables, overwrite=True)
    grid = Grid((plan.box,) * 3, plan.pixel_size, centre)
    write_truth(folder, cloud, grid, scale, "per voxel", frame, progress)
    return scale


def _rotations(plan, rng):
    if plan.poses == "uniform":
        tilt = np.degrees(np.arccos(rng.uniform(-1, 1, plan.count)))
    elif plan.poses == "preferred":
        # Seen along z, from either pole; the side views are missing.
        uniform = rng.uniform(0, 1, plan.count)
        tilt = PREFERRED_SPREAD * np.sqrt(-2 * np.log1p(-uniform * _within(PREFERRED_MOST / PREFERRED_SPREAD)))
        tilt = np.where(rng.random(plan.count) < 0.5, tilt, 180 - tilt)
    else:
        raise InputError(f'poses "{plan.poses}"; expected uniform or preferred')
    return euler_to_matrix(rng.uniform(-180, 180, plan.count), tilt, rng.uniform(-180, 180, plan.count))


def _within(sigmas):
    """Share of a two-dimensional normal distribution within a radius."""
    return 1 - np.exp(-(sigmas**2) / 2)


# --- particles and tilt series -------------------------------------------------------------------


def random_ctf(plan, rng, n, dose=0.0):
    """Ctf of n images: defocus within the plan's range and an astigmatism of up to 400 A, in any direction."""
    low = rng.uniform(*plan.defocus, n)
    high, angle = low + rng.uniform(0, ASTIGMATISM, n), rng.uniform(-90, 90, n)
    return Ctf(plan.voltage_kv, plan.cs_mm, plan.amplitude_contrast, high, low, angle, dose=dose)


def write_images(path, images, plan, rng, progress):
    """Write the images, scaled and with noise; the factor that they were scaled by."""
    scale = 1.0
    if np.isfinite(plan.snr):
        progress.stage("measuring the signal")
        picked = np.unique(np.linspace(0, len(images) - 1, min(len(images), SNR_IMAGES)).round().astype(int))
        batch = images.projector.batch
        variances = [images[picked[i : i + batch]].var(axis=(1, 2)) for i in range(0, len(picked), batch)]
        signal = np.concatenate(variances).mean(dtype=float)
        if not signal > 0:
            raise NumericalError(f"{path}: the images are empty; is the object inside of them?")
        scale = float(np.sqrt(plan.snr / signal))
        color = noise_color(images.projector.shape, plan.pixel_size) if plan.noise == "colored" else None

        def finish(image):
            noise = rng.standard_normal(image.shape, np.float32)
            if color is not None:
                noise = fft.irfft2(fft.rfft2(noise) * color, s=image.shape)
            return scale * image + noise

        images.finish = finish
    progress.stage("drawing")
    write_stack(path, images, plan.pixel_size, overwrite=True, label="taigs: simulated, dense = bright")
    return scale


def noise_color(shape, pixel_size):
    """Amplitudes (H, W // 2 + 1) that white noise is filtered with to be coloured, of the same variance."""
    kx, ky = fft.rfftfreq(shape[1], pixel_size), fft.fftfreq(shape[0], pixel_size)[:, None]
    power = 1 + 4 * np.exp(-(900 * (kx**2 + ky**2)))
    mates = np.full(power.shape, 2.0)
    mates[:, 0] = 1
    if shape[1] % 2 == 0:
        mates[:, -1] = 1
    return np.sqrt(power * np.prod(shape) / (power * mates).sum()).astype(np.float32)


def write_truth(folder, cloud, grid, scale, unit, frame, progress):
    """Write the scaled cloud as truth.mrc, in image units per voxel or per A, and truth.npz."""
    truth = replace(cloud, masses=cloud.masses * scale)
    origin = np.round(np.asarray(frame) + grid.lower, 4) if np.any(frame) else np.zeros(3)
    sections = draw_sections(truth, grid, grid.voxel_size if unit == "per voxel" else 1.0, progress)
    path, size = folder / "truth.mrc", grid.voxel_size
    write_sections(path, sections, grid.shape, size, overwrite=True, label="taigs: the truth", origin=origin)
    placed = {"centre": grid.centre, "unit": unit, "origin": origin}
    write_cloud(folder / "truth.npz", truth, size, grid.shape, overwrite=True, **placed)
