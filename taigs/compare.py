"""A map against the truth: the scores of `taigs compare`.

The truth is a map on the same grid, or an atomic model, whose density is simulated on the map's grid: one
Gaussian per atom, its sigma 0.6 voxels, its integral the atom's electron scattering at zero angle times its
occupancy. The sigma does not matter to an FSC, which compares shell by shell; B factors are left out.
"""

import os
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import uniform_filter

from taigs.atoms import atom_cloud, is_atomic_model, read_atoms
from taigs.errors import InputError, InputWarning
from taigs.half_maps import VOXEL_SIZE_TOLERANCE, read_mask
from taigs.io.mrc import read_volume
from taigs.metrics import (
    checked_pair,
    describe_crossing,
    first_crossing,
    fsc,
    mean_fsc,
    ncc,
    psnr,
    wedge_region,
)
from taigs.render import voxelize
from taigs.views import Grid

SSIM_WINDOW = 7  # voxels
ATOM_SIGMA = 0.6  # voxels
LEAST_INSIDE = 0.5  # of the atoms, or the model does not belong to the map
THRESHOLDS = {"at_0.5": 0.5, "at_0.143": 0.143}


@dataclass(frozen=True)
class Pair:
    """A map and its truth on one grid, [z, y, x]."""

    names: tuple
    volume: np.ndarray
    truth: np.ndarray
    voxel_size: float  # Angstrom
    mask: np.ndarray | None = None
    notes: list = field(default_factory=list)


def read_pair(path, truth_path, mask=None, voxel_size=None, arch="auto", threads=None):
    """Read a map, its truth (a map or atoms) and a mask as a `Pair`.

    Parameters
    ----------
    voxel_size : float, optional
        Angstrom, in place of the headers'.
    arch, threads
        As `taigs.runtime.init`; used only to draw atoms.

    Raises
    ------
    InputError
        The maps differ in shape or by more than 1 % in voxel size, have none, or hold NaN; the mask does not fit;
        most atoms lie outside of the map.
    """
    volume, header = read_volume(path)
    voxel_size = voxel_size or _cubic(path, header)
    notes = []
    if is_atomic_model(truth_path):
        voxel_size = _needed(voxel_size, path)
        first_voxel = header.first_voxel(voxel_size)
        truth, notes = _atoms_on_grid(path, truth_path, volume.shape, voxel_size, first_voxel, arch, threads)
    else:
        truth, truth_header = read_volume(truth_path)
        if truth.shape != volume.shape:
            a, b = (" x ".join(map(str, v.shape[::-1])) for v in (volume, truth))
            raise InputError(f"{path} is {a}, {truth_path} is {b} voxels (x, y, z); expected the same")
        other = _cubic(truth_path, truth_header) if voxel_size is None or header.voxel_size else None
        voxel_size = _needed(voxel_size or other, path)
        if other and abs(other / voxel_size - 1) > VOXEL_SIZE_TOLERANCE:
            raise InputError(
                f"{path} has voxels of {voxel_size:g} Å, {truth_path} of {other:g} Å; expected the same; "
                "try --pixel-size"
            )
    for name, array in ((path, volume), (truth_path, truth)):
        if not np.isfinite(array).all():
            raise InputError(f"{name}: {np.count_nonzero(~np.isfinite(array))} NaN or infinite voxels; expected none")
        if np.ptp(array) == 0:
            raise InputError(f"{name}: every voxel is {array.flat[0]:g}; expected density")
    if os.path.exists(truth_path) and os.path.samefile(path, truth_path):
        warnings.warn(f"{path} is compared with itself: every score is perfect", InputWarning, stacklevel=2)
    mask = None if mask is None else read_mask(mask, volume.shape, voxel_size)
    return Pair((str(path), str(truth_path)), volume, truth, voxel_size, mask, notes)


def _cubic(path, header):
    """Voxel size of a header, Angstrom; None if it has none."""
    if header.voxel_size is None:
        return None
    if max(header.voxel_size) / min(header.voxel_size) - 1 > VOXEL_SIZE_TOLERANCE:
        text = " x ".join(f"{size:g}" for size in header.voxel_size)
        raise InputError(f"{path}: voxels of {text} Å; expected cubes; try --pixel-size")
    return header.voxel_size[0]


def _needed(voxel_size, path):
    if voxel_size is None:
        raise InputError(f"{path}: no voxel size in the header; try --pixel-size")
    return voxel_size


def _atoms_on_grid(path, model, shape, voxel_size, first_voxel, arch, threads):
    """(density, notes) of an atomic model where the map's header puts it."""
    from taigs import runtime

    grid = Grid(shape, voxel_size)
    cloud = atom_cloud(read_atoms(model), ATOM_SIGMA * voxel_size)
    cloud = replace(cloud, positions=cloud.positions - first_voxel + grid.lower)
    inside = np.all(np.abs(cloud.positions) <= -grid.lower + voxel_size / 2, axis=1).mean()
    if inside < LEAST_INSIDE:
        raise InputError(
            f"{model}: {inside:.0%} of the atoms lie inside of {path}; expected most; does it belong to this map, "
            "and does the map's header hold its origin?"
        )
    runtime.init(arch, threads=threads)
    note = f"{len(cloud):,} atoms as Gaussians of sigma {ATOM_SIGMA * voxel_size:.2f} Å, {inside:.1%} inside of the map"
    return voxelize(cloud, grid), [note]


def compare(volume, truth, voxel_size, mask=None, max_tilt_deg=None):
    """Every score of a map.

    Parameters
    ----------
    volume, truth : (nz, ny, nx) array_like
    voxel_size : float
        Angstrom.
    mask : (nz, ny, nx) array_like, optional
        Both volumes are multiplied by it for the FSC; it weights the voxels of the NCC.
    max_tilt_deg : float, optional
        Split the FSC into the region that a tilt series about y measures, and its missing wedge.

    Returns
    -------
    dict
        ``ncc``, ``psnr`` (dB; None: the fit is exact), ``ssim`` (None for volumes thinner than its window of 7
        voxels); with a mask ``ncc_masked``; and in ``fsc`` for each of "unmasked", "masked", "measured region" and
        "missing wedge" a dict of ``mean``, ``at_0.5`` and ``at_0.143`` (Angstrom; None: not crossed) and ``curve``
        (shells 0 to Nyquist).
    """
    volume, truth = checked_pair(volume, truth)
    n = max(truth.shape)
    choices = {"unmasked": (None, None)} | ({} if mask is None else {"masked": (mask, None)})
    if max_tilt_deg is not None:
        region = wedge_region(truth.shape, max_tilt_deg)
        # A mask leaks what was measured into the wedge: the split is scored without one.
        choices |= {"measured region": (None, region), "missing wedge": (None, ~region)}
    curves = {name: fsc(volume, truth, *choice)[0] for name, choice in choices.items()}
    scores = {"voxel_size_A": float(voxel_size), "ncc": ncc(volume, truth)}
    if mask is not None:
        scores["ncc_masked"] = ncc(volume, truth, mask)
    decibels = psnr(volume, truth)
    scores |= {"psnr": decibels if np.isfinite(decibels) else None, "ssim": ssim(volume, truth)}  # JSON has no inf
    scores["fsc"] = {
        name: {"mean": mean_fsc(curve)}
        | {key: first_crossing(curve, threshold, n, voxel_size) for key, threshold in THRESHOLDS.items()}
        | {"curve": curve.tolist()}
        for name, curve in curves.items()
    }
    return scores


def ssim(volume, truth):
    """Mean structural similarity in windows of 7^3 voxels, after the best scale and offset of `volume`.

    (2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2)) with sample covariances s,
    c = (0.01 range)^2 and (0.03 range)^2, range that of the truth (Wang et al. 2004); the mean is over the
    windows that lie inside.

    Returns
    -------
    float or None
        None if a side is shorter than the window.
    """
    volume, truth = checked_pair(volume, truth)
    if min(truth.shape) < SSIM_WINDOW:
        return None
    deviation = volume - volume.mean()
    power = np.vdot(deviation, deviation)
    slope = np.vdot(deviation, truth) / power if power > 0 else 0.0
    x, y = truth.mean() + slope * deviation, truth

    def mean(values):
        return uniform_filter(values, SSIM_WINDOW)[(slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2)),) * 3]

    unbiased = SSIM_WINDOW**3 / (SSIM_WINDOW**3 - 1)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = (unbiased * (mean(a * b) - m) for a, b, m in ((x, x, mx**2), (y, y, my**2), (x, y, mx * my)))
    c1, c2 = ((k * np.ptp(truth)) ** 2 for k in (0.01, 0.03))
    return float(np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


def describe(pair, scores):
    """The lines that the command prints."""
    box = " x ".join(map(str, pair.volume.shape[::-1]))
    pairs = [("map", pair.names[0]), ("truth", pair.names[1])]
    pairs.append(("box", f"{box} voxels of {pair.voxel_size:g} Å (x, y, z)"))
    lines = [f"{label:<8}{value}" for label, value in pairs]
    cells = [("FSC", "mean", "at 0.5", "at 0.143")]
    missing = describe_crossing(None)
    for name, row in scores["fsc"].items():
        crossings = (describe_crossing(row[key]).split(":")[0] for key in THRESHOLDS)
        cells.append((name, f"{row['mean']:.3f}", *crossings))
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    lines += ["", *("".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)]
    if any(row[key] is None for row in scores["fsc"].values() for key in THRESHOLDS):
        lines.append(f"({missing}, {2 * pair.voxel_size:.2f} Å)")
    masked = f", {scores['ncc_masked']:.4f} masked" if "ncc_masked" in scores else ""
    similarity = "none: thinner than its window" if scores["ssim"] is None else f"{scores['ssim']:.4f}"
    decibels = "inf: the fit is exact" if scores["psnr"] is None else f"{scores['psnr']:.2f} dB"
    lines += ["", f"NCC     {scores['ncc']:.4f}{masked}", f"PSNR    {decibels}", f"SSIM    {similarity}"]
    if scores["ncc"] < 0:
        lines += ["", "The correlation is negative: is one of the two dark where the other is bright?"]
    return lines
