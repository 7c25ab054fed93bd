"""Simulated tilt series with known truth; signal-to-noise ratio and noise as in simulate.py."""

from dataclasses import dataclass

import numpy as np

from taigs.errors import InputError
from taigs.geometry import rz, tilt_rotation
from taigs.imaging.ctf import Ctf
from taigs.io.imod import write_angles, write_defocus, write_xf
from taigs.projections import Projections
from taigs.projector import Projector
from taigs.simulate import SMALLEST_BOX, check_imaging, random_ctf, write_images, write_truth
from taigs.views import Grid

PAD = 2  # the images are part of a wider field: what a CTF or damage spreads over an edge is lost


@dataclass(frozen=True)
class TiltSeries:
    """What the tilt series is to be; lengths in Angstrom unless a name says ``_px``, angles in degrees."""

    angles: np.ndarray  # (V,)
    shape: tuple  # (nz, ny, nx) of the truth, pixels; the images are (ny, nx)
    pixel_size: float
    snr: float = 0.1
    defocus: tuple | None = None  # None: no CTF
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    dose: float = 0.0  # e/A^2 per image
    tilt_axis: float = 0.0  # from y
    shift_px: float = 0.0  # standard deviation of x and of y
    pose_error: float = 0.0  # root mean square angle, half of its square in the tilt, half in the plane
    shift_error_px: float = 0.0  # standard deviation of x and of y
    noise: str = "white"
    seed: int = 0


def check(plan, cloud):
    """Refuse a tilt series that makes no sense before anything is written.

    Raises
    ------
    InputError
    """
    check_imaging(plan)
    if min(plan.shape) < 1 or min(plan.shape[1:]) < SMALLEST_BOX or not 0 <= plan.dose < np.inf:
        raise InputError(
            f"volume of {plan.shape} px (z, y, x), dose {plan.dose:g}; "
            f"expected images of at least {SMALLEST_BOX} px, and no negative dose"
        )
    if not np.isfinite(plan.tilt_axis):
        raise InputError(f"tilt axis {plan.tilt_axis}; expected degrees")


def simulate_tilt_series(cloud, plan, folder, progress, frame=(0.0, 0.0, 0.0)):
    """Write ts.mrc, the truth, and the alignment with its errors (.tlt, .xf) and without them.

    That is truth.mrc, truth.npz, truth.tlt, truth.xf; with a CTF ts.defocus; with a dose ts_dose.txt (before each
    image). Parameters and return value are those of `taigs.simulate.simulate_particles`.
    """
    n, rng = len(plan.angles), np.random.default_rng(plan.seed)
    moving, erring, focusing = (np.random.default_rng(s) for s in np.random.SeedSequence(plan.seed).spawn(3))
    shifts = plan.shift_px * moving.standard_normal((n, 2))
    accumulated = dose_before(plan.angles, plan.dose)
    if plan.defocus is not None:
        ctf = random_ctf(plan, focusing, n, accumulated)
    else:  # full amplitude contrast in focus is a CTF of 1, times the damage
        ctf = Ctf(plan.voltage_kv, 0, 1, 0, 0, 0, dose=accumulated) if plan.dose else None
    projector = Projector(cloud, plan.shape[1:], plan.pixel_size, pad=1 if ctf is None else PAD)
    rotations = tilt_rotation(plan.angles, plan.tilt_axis)
    images = Projections(projector, rotations, shifts, ctf, progress=progress)
    scale = write_images(folder / "ts.mrc", images, plan, rng, progress)

    tilts, turns = plan.pose_error / np.sqrt(2) * erring.standard_normal((2, n))
    moved = plan.shift_error_px * erring.standard_normal((n, 2))
    for name, alignment in (
        ("truth", (plan.angles, np.full(n, plan.tilt_axis), shifts)),
        ("ts", (plan.angles + tilts, plan.tilt_axis + turns, shifts + moved)),
    ):
        write_angles(folder / f"{name}.tlt", alignment[0], overwrite=True)
        write_xf(folder / f"{name}.xf", alignment_of(*alignment[1:]), overwrite=True)
    if plan.defocus is not None:
        write_defocus(folder / "ts.defocus", plan.angles, ctf, overwrite=True)
    if plan.dose:
        write_angles(folder / "ts_dose.txt", accumulated, overwrite=True)
    write_truth(folder, cloud, Grid(plan.shape, plan.pixel_size), scale, "per A", frame, progress)
    return scale


def dose_before(angles, dose):
    """Dose that the specimen had received before each image, e/A^2: dose-symmetric, the smallest tilts first."""
    order = np.lexsort((np.asarray(angles) < 0, np.abs(angles)))
    return dose * np.argsort(order)


def alignment_of(tilt_axis, shifts):
    """IMOD's transforms (V, 2, 3) that undo an axis (V,) in degrees from y and shifts (V, 2) in pixels."""
    turn = rz(-np.asarray(tilt_axis))[:, :2, :2]
    return np.concatenate([turn, -turn @ shifts[:, :, None]], axis=2)
