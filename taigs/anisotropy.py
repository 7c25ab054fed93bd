"""Directional resolution: the FSC within double cones about many axes, and how far the directions differ.

A missing wedge or a preferred orientation leaves cones without signal, where the FSC falls early. The ratio
of the smallest to the largest area under the cones' curves is the cFAR of SIMPLE and, in another definition
of the cones' sampling, of cryoSPARC's orientation diagnostics, which warns below 0.5.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from taigs.errors import InputError
from taigs.masks import check_mask
from taigs.metrics import checked_pair, first_crossing, frequencies, shell_numbers, transform_fsc
from taigs.resolution import HALF_MAP_THRESHOLD

AXES = 256
HALF_ANGLE_DEG = 20.0
LOW_CFAR = 0.5
FEWEST_COEFFICIENTS = 4  # a cone with fewer in a shell says nothing there
ROWS = 16384  # coefficients at a time: with 256 axes 17 MB


@dataclass(frozen=True)
class DirectionalFsc:
    """FSC of two half maps in cones about A axes, at the S shells 0 to Nyquist."""

    axes: np.ndarray  # (A, 3) unit vectors x, y, z
    curves: np.ndarray  # (A, S)
    n: int  # longest edge, voxels
    voxel_size: float  # Angstrom

    @property
    def frequency(self):
        """Of each shell, 1/Angstrom."""
        return np.arange(self.curves.shape[1]) / (self.n * self.voxel_size)

    @property
    def areas(self):
        """(A,): sum of each curve over shells 1 to the last before the first that is not above 0.143."""
        above = np.logical_and.accumulate(self.curves[:, 1:] > HALF_MAP_THRESHOLD, axis=1)
        return np.where(above, self.curves[:, 1:], 0).sum(axis=1)

    @property
    def cfar(self):
        """Smallest over largest area: cFAR (SIMPLE definition), 0 to 1; 0 where no cone has any."""
        areas = self.areas
        return float(areas.min() / areas.max()) if areas.max() > 0 else 0.0

    @property
    def resolutions(self):
        """(A,): first crossing of 0.143 in Angstrom, NaN where a curve never crosses."""
        found = [first_crossing(curve, HALF_MAP_THRESHOLD, self.n, self.voxel_size) for curve in self.curves]
        return np.array(found, np.float64)

    @property
    def resolution_spread(self):
        """Standard deviation of `resolutions`, Angstrom; None unless every curve crosses."""
        found = self.resolutions
        return None if np.isnan(found).any() else float(found.std())

    @property
    def spread(self):
        """Over the axes, in each shell: (mean, standard deviation, smallest, largest), each (S,)."""
        c = self.curves
        return c.mean(axis=0), c.std(axis=0), c.min(axis=0), c.max(axis=0)

    @property
    def worst_axis(self):
        """(3,) unit vector x, y, z of the cone with the smallest area."""
        return self.axes[self.areas.argmin()]


def fibonacci_axes(count=AXES):
    """Unit vectors x, y, z spread evenly over the half sphere z > 0, (count, 3), as a Fibonacci spiral."""
    i = np.arange(count)
    z = 1 - (i + 0.5) / count
    angle = np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def directional_fsc(half1, half2, voxel_size, mask=None, axes=None, half_angle_deg=HALF_ANGLE_DEG):
    """FSC of two half maps within double cones: coefficients k with |k . axis| >= |k| cos(half angle).

    In the lowest shells, where some cone holds fewer than four coefficients, every cone gets the FSC of the
    whole shell. A coefficient at the Nyquist frequency of an even axis has no direction and is left out.

    Parameters
    ----------
    half1, half2 : (nz, ny, nx) array_like
    voxel_size : float
        Angstrom.
    mask : (nz, ny, nx) array_like, optional
        Both maps are multiplied by it first. It mixes directions a little, and is not corrected for.
    axes : (A, 3) array_like, optional
        Unit vectors x, y, z; default 256, a Fibonacci spiral.
    half_angle_deg : float
        Of each cone, degrees.

    Returns
    -------
    DirectionalFsc

    Raises
    ------
    InputError
        As `taigs.metrics.fsc` and `taigs.masks.check_mask`, or the angle is not between 0 and 90 degrees.
    """
    a, b = checked_pair(half1, half2)
    if not 0 < half_angle_deg < 90:
        raise InputError(f"half angle {half_angle_deg} degrees; expected between 0 and 90")
    if mask is not None:
        mask, _ = check_mask(mask, a.shape)
        a, b = a * mask, b * mask
    axes = fibonacci_axes() if axes is None else np.asarray(axes, np.float64)
    # Scaled, because the sums are in single precision, whose range large voxel values could leave.
    fa, fb = (fft.rfftn(v / (v.std() or 1), workers=-1) for v in (a, b))
    cross, power_a, power_b, counts = _cone_sums(fa, fb, a.shape, axes, np.cos(np.radians(half_angle_deg)))
    power = np.sqrt(power_a * power_b)
    curves = np.divide(cross, power, out=np.zeros_like(power), where=power > 0)
    few = counts.min(axis=1) < FEWEST_COEFFICIENTS
    curves[few] = transform_fsc(fa, fb, a.shape)[0][few, None]
    return DirectionalFsc(axes, curves.T, max(a.shape), float(voxel_size))


def _cone_sums(fa, fb, shape, axes, least_cosine):
    """Cross term, both powers and number of coefficients by shell and cone, (4, S, A).

    Each pair k, -k counts once. The coefficients are sorted by shell, so that the sums of a shell are one
    matrix product of values with membership; in single precision, which halves the time.
    """
    n_shells = max(shape) // 2 + 1
    shells = shell_numbers(shape)
    where = np.flatnonzero(_one_of_each_pair(shape).ravel() & (shells.ravel() > 0) & (shells.ravel() < n_shells))
    shells = shells.ravel()[where]
    order = np.argsort(shells, kind="stable")
    where = where[order]
    ends = np.cumsum(np.bincount(shells, minlength=n_shells))
    kz, ky, kx = (k.ravel() for k in frequencies(shape))
    fa, fb = fa.ravel(), fb.ravel()
    axes = axes.astype(np.float32)
    sums = np.zeros((4, n_shells, len(axes)))
    for shell in range(1, n_shells):
        for start in range(ends[shell - 1], ends[shell], ROWS):
            part = where[start : min(start + ROWS, ends[shell])]
            z, y, x = np.unravel_index(part, (shape[0], shape[1], len(kx)))
            k = np.stack([kx[x], ky[y], kz[z]], axis=1)
            k /= np.linalg.norm(k, axis=1, keepdims=True)
            # The tolerance keeps coefficients that lie on the border inside.
            inside = np.abs(k.astype(np.float32) @ axes.T) >= np.float32(least_cosine - 1e-6)
            p, q = fa[part], fb[part]
            values = np.stack([p.real * q.real + p.imag * q.imag, np.abs(p) ** 2, np.abs(q) ** 2, np.ones(len(p))])
            sums[:, shell] += values.astype(np.float32) @ inside.astype(np.float32)
    return sums


def _one_of_each_pair(shape):
    """True at one coefficient of each pair k, -k of the half transform; False at Nyquist of even axes."""
    nz, ny, nx = shape
    z, y, x = np.ogrid[:nz, :ny, : nx // 2 + 1]
    directed = (2 * z != nz) & (2 * y != ny) & (2 * x != nx)
    # On the plane kx = 0 both are stored: the one with ky > 0 is taken, and with kz > 0 where ky = 0.
    first = (x > 0) | ((y > 0) & (2 * y < ny)) | ((y == 0) & (z > 0) & (2 * z < nz))
    return directed & first
