"""Voxels -> Gaussians: a cloud fitted to a volume by least squares, as small as the wanted fidelity allows."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from taigs import runtime
from taigs.batches import InOneSum
from taigs.checkpoint import storable
from taigs.cloud import GaussianCloud
from taigs.device import DeviceCloud, float_type
from taigs.errors import InputError
from taigs.fit import Fit
from taigs.io.clouds import BYTES_BESIDES, BYTES_PER_GAUSSIAN
from taigs.journal import Journal
from taigs.metrics import first_crossing, ncc, transform_fsc
from taigs.progress import NoProgress
from taigs.render import Voxelizer
from taigs.schedule import SHARE_OF_VOXELS, FitConfig, Stage
from taigs.seeds import cloud_from_volume
from taigs.views import Grid

# A volume has no noise to guard against: rates are several times those for images, and fall within each level.
CONFIG = FitConfig(
    rate_position_px=0.3, rate_log_sigma=0.08, rate_quaternion=0.08, rate_mass=0.1, ceiling_px=20.0, mass_min=0.01
)
FLOOR_PX = 0.35  # smallest sigma: narrower Gaussians fall between the voxels
STEPS, LAST_STEPS = 40, 80  # of a level, and of the one at the budget
LAST_RATE = 0.03  # at the end of a level, of that at its beginning
VOXELS_PER_SEED = 20  # of the first level, in voxels of the participation volume
SEED_SIGMA = 0.5  # of the distance between seeds
SEED_SIGMA_PX = 0.65  # smallest
DEFAULT_CC = 0.99
GAIN = 0.05  # of what is missing in the CC: what twice the Gaussians must bring
FINER = 0.01  # or by how much finer they must reach


@storable
@dataclass(frozen=True)
class Fidelity:
    """One row of the table of size against fidelity."""

    gaussians: int
    n_bytes: int  # of the model file
    ratio: float  # the voxels' bytes over those
    cc: float  # correlation with the volume about the means
    resolution: float | None  # A, where the FSC with the volume first falls below 0.5; None if it never does
    seconds: float  # since the start

    def meets(self, cc, resolution):
        """Whether it reaches a CC and a resolution (A); None asks nothing."""
        fine = resolution is None or self.resolution is None or self.resolution <= resolution
        return fine and (cc is None or self.cc >= cc)

    def gains_on(self, before):
        """Whether it is worth twice the Gaussians."""
        finer = before.resolution is not None and (self.resolution or 0) < (1 - FINER) * before.resolution
        return finer or 1 - self.cc < (1 - GAIN) * (1 - before.cc)


@dataclass(frozen=True)
class VolumeFit:
    """A cloud, and how it came out."""

    cloud: GaussianCloud
    grid: Grid  # of the volume
    rows: list  # a Fidelity for each level
    reason: str  # why it is no larger
    volume: np.ndarray  # the cloud on that grid
    curve: np.ndarray  # its FSC with the volume, per shell


class TargetObjective(InOneSum):
    """loss = 1/2 sum over voxels (density of the DeviceCloud - target)^2; target (nz, ny, nx) on the grid."""

    def __init__(self, gaussians: DeviceCloud, target, grid):
        self.gaussians, self.target, self.grid = gaussians, target, grid
        self.pixel_size = grid.voxel_size
        self.voxelizer = Voxelizer(gaussians, grid)
        self.transform = fft.rfftn(target, workers=-1)

    def volume(self):
        """(nz, ny, nx) density of the cloud."""
        return self.voxelizer.add(self.gaussians.n, np.zeros(self.grid.shape, float_type()), self.pixel_size**-3)

    def loss_and_gradient(self):
        """Loss; the gradient is left on the device."""
        residual = self.volume()
        residual -= self.target
        loss = 0.5 * float(np.vdot(residual, residual))
        residual *= self.pixel_size**-3
        self.voxelizer.vjp(residual)  # of what `volume` drew
        return loss

    def fidelity(self, n_voxel_bytes, started):
        """(Fidelity of the cloud, its volume, its FSC with the target)."""
        n, volume = self.gaussians.n, self.volume()
        curve, _ = transform_fsc(fft.rfftn(volume, workers=-1), self.transform, self.grid.shape)
        resolution = first_crossing(curve, 0.5, max(self.grid.shape), self.pixel_size)
        size, cc = n * BYTES_PER_GAUSSIAN + BYTES_BESIDES, ncc(volume, self.target)
        return Fidelity(n, size, n_voxel_bytes / size, cc, resolution, time.perf_counter() - started), volume, curve


def fit_volume(
    volume, pixel_size, *, target_cc=None, target_fsc_resolution=None, gaussians=None, megabytes=None,
    contour=None, signed=False, seed=0, bytes_per_voxel=4, progress=None, journal=None,
):  # fmt: skip
    """Fit a cloud of Gaussians to a volume, larger and larger until it is good enough.

    Seeds are drawn from the density. Each level fits all voxels by least squares; the next prunes what weighs
    nothing and splits what the residual pulls at most, up to twice the size. That ends when the targets are met,
    at the budget, or when twice the Gaussians bring nothing.

    Parameters
    ----------
    volume : (nz, ny, nx) array
        Any sizes.
    pixel_size : float
        Angstrom.
    target_cc : float, optional
        Correlation with the volume about the means. Without any target or budget: 0.99.
    target_fsc_resolution : float, optional
        Angstrom, down to which the FSC with the volume is to stay above 0.5.
    gaussians, megabytes : int, float, optional
        Most Gaussians, or 10^6 bytes of model.npz; the default is a fifth of the volume's. A budget without a
        target is used up.
    contour : float, optional
        What is below (with `signed`, nearer to 0) is set to 0 first, and fidelity is judged against that.
    signed : bool
        Allow negative density.
    seed : int
    bytes_per_voxel : int
        Of the file the volume came from, for the default budget and the ratio.
    progress : Progress, optional
    journal : Journal, optional
        Keeps what was computed, and hands it out again.

    Returns
    -------
    VolumeFit

    Raises
    ------
    InputError
        The volume holds NaN or nothing to fit, or a setting makes no sense.
    """
    started = time.perf_counter()
    grid = Grid(np.shape(volume), float(pixel_size))
    density, extent, sizes = checked(
        volume, grid, target_cc, target_fsc_resolution, gaussians, megabytes, contour, signed, bytes_per_voxel
    )
    if all(value is None for value in (target_cc, target_fsc_resolution, gaussians, megabytes)):
        target_cc = DEFAULT_CC
    has_target = target_cc is not None or target_fsc_resolution is not None
    unit = float(density.std(dtype=np.float64))  # Adam's epsilon and float32 squares want numbers about 1
    density /= unit
    n_voxel_bytes, budget = density.size * bytes_per_voxel, sizes[-1]

    runtime.current()
    held = DeviceCloud(budget, signed)
    objective = TargetObjective(held, density, grid)
    journal, bounds = journal or Journal(), -grid.lower + grid.voxel_size / 2
    fit = Fit(objective, CONFIG, bounds, progress or NoProgress(), journal)
    sigma = np.clip(SEED_SIGMA * (extent / sizes[0]) ** (1 / 3), SEED_SIGMA_PX, CONFIG.ceiling_px) * grid.voxel_size
    fit.begin(cloud_from_volume(density, grid, sizes[0], sigma, np.random.default_rng(seed), signed))
    rows = []
    for size in sizes:
        fit.part = f"{size:,} Gaussians"
        fit.progress.stage(fit.part + (f" (CC so far {rows[-1].cc:.4f})" if rows else ""))
        stage = Stage(FLOOR_PX, size, LAST_STEPS if size == budget else STEPS, last_rate=LAST_RATE)

        def level(stage=stage):
            fit.resume()
            fit.complete(stage)
            fit.leave()
            return fit.state(), objective.fidelity(n_voxel_bytes, started)[0]

        state, row = journal.part(fit.part, level)
        fit.set_state(state)
        rows.append(row)
        if has_target and rows[-1].meets(target_cc, target_fsc_resolution):
            reason = "the target is met"
            break
        if has_target and len(rows) > 1 and not rows[-1].gains_on(rows[-2]):
            reason = "twice the Gaussians brought next to nothing"
            break
    else:
        reason = "the budget is used up" + (" before the target is met" if has_target else "")
    cloud = held.get_cloud()
    held.set_cloud(cloud.subset(np.abs(cloud.masses) >= CONFIG.mass_min * np.abs(cloud.masses).mean()))
    rows[-1], fitted, curve = objective.fidelity(n_voxel_bytes, started)
    cloud = held.get_cloud()
    return VolumeFit(replace(cloud, masses=cloud.masses * unit), grid, rows, reason, fitted * unit, curve)


def checked(volume, grid, target_cc, target_fsc_resolution, gaussians, megabytes, contour, signed, bytes_per_voxel):
    """(What is to be fitted, its `participation`, the `level_sizes`), with the arguments of `fit_volume`.

    Raises
    ------
    InputError
        As `fit_volume`.
    """
    _check_settings(grid, target_cc, target_fsc_resolution, gaussians, megabytes)
    density = prepared(volume, contour, signed)
    extent = participation(density, signed)
    budget = _budget(gaussians, megabytes, density.size * bytes_per_voxel, extent)
    return density, extent, level_sizes(extent, budget)


def prepared(volume, contour=None, signed=False):
    """(nz, ny, nx) float array of what is to be fitted: checked, and 0 below the contour."""
    volume = np.array(volume, float_type())
    if bad := volume.size - np.count_nonzero(np.isfinite(volume)):
        what = "every voxel is" if bad == volume.size else f"{bad:,} voxels are"
        raise InputError(f"{what} NaN or infinite; expected finite density")
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        raise InputError(f"every voxel is {low:g}; expected density that varies")
    if contour is not None:
        size = np.abs(volume) if signed else volume
        if not contour < size.max():
            raise InputError(f"contour {contour:g} is not below the maximum, {size.max():g}; try a lower one")
        volume[size < contour] = 0
    if high <= 0 and not signed:
        raise InputError(f"no density above 0 (maximum {high:g}); expected protein bright; try --signed")
    return volume


def participation(density, signed):
    """How many voxels of equal density would hold the volume's mass and power: (sum v)^2 / sum v^2."""
    weight = np.abs(density) if signed else np.maximum(density, 0)
    return float(weight.sum(dtype=np.float64) ** 2 / np.vdot(weight, weight))


def level_sizes(extent, budget):
    """Gaussians of each level: doubling, from one for every 20 voxels of the extent, to the budget exactly."""
    first = max(1.0, extent / VOXELS_PER_SEED)
    doublings = max(0, math.ceil(math.log2(budget / first)))
    return [math.ceil(budget / 2**k) for k in range(doublings, -1, -1)]


def _check_settings(grid, cc, resolution, gaussians, megabytes):
    finest = 2 * grid.voxel_size
    for name, value, low, high, expected in (
        ("target CC", cc, 0, 1, "between 0 and 1"),
        ("target resolution", resolution, 0.9999 * finest, math.inf, f"at least Nyquist, {finest:.3g} Å"),
        ("budget of Gaussians", gaussians, 0, math.inf, "at least 1"),
        ("budget in megabytes", megabytes, 0, math.inf, "a positive number"),
    ):
        if value is not None and not low < value < high:
            raise InputError(f"{name} {value:g}; expected {expected}")


def _budget(gaussians, megabytes, n_voxel_bytes, extent):
    if gaussians is None and megabytes is None:  # more Gaussians than voxels that count are never needed
        return int(max(1, min((SHARE_OF_VOXELS * n_voxel_bytes - BYTES_BESIDES) / BYTES_PER_GAUSSIAN, extent)))
    budget = math.inf if megabytes is None else (megabytes * 1e6 - BYTES_BESIDES) / BYTES_PER_GAUSSIAN
    if budget < 1:
        raise InputError(f"{megabytes:g} MB hold no Gaussian; expected at least 0.003")
    return int(min(budget, gaussians or math.inf))
