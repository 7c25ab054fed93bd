"""One pass over the images: the Fourier sums W and B of each half-set, which hold all that fixed poses tell."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import fft

from taigs import runtime
from taigs.checkpoint import storable
from taigs.device import float_type
from taigs.fourier_grid import FourierGrid
from taigs.imaging.fourier import shell_indices
from taigs.kernels.weighting import weight_slices

CHUNK_PIXELS = 1 << 21  # of images in memory at a time, or as many images as they have rows
SMALLEST_CTF2 = 0.1  # of the mean over a ring, in dividing by it


@storable
@dataclass
class FourierSums:
    """What the images of a set add up to on a padded Fourier grid.

    B = sum CTF F w and W = sum CTF^2 w, gridded, where F is a particle's transform moved to the centre and w
    the view's weight. Both are sums over views: those of two sets add.

    Parameters
    ----------
    grid : (planes, P, P, 3) float array
        Re B, Im B, W for z = 0 ... P / 2, y and x in the order of an FFT; P = 2 n.
    n : int
        Box, pixels.
    power : (n // 2 + 1,) array
        sum w |F|^2 over each ring of the transforms, before any multiplication with the CTF.
    view_weight : float
        sum w.
    """

    grid: np.ndarray
    n: int
    power: np.ndarray
    view_weight: float

    def add(self, other):
        """Take in the sums of another set of views."""
        self.grid += other.grid
        self.power = self.power + other.power  # others may hold on to the array
        self.view_weight += other.view_weight


def accumulate(views, picked, operators, progress, journal, part):
    """FourierSums of some of the views, read and added chunk by chunk.

    Parameters
    ----------
    views : Views
        Square images, centre n // 2.
    picked : array of int
        Indices of the views.
    operators : (G, 3, 3) array
        Rotations of the point group: every view counts in all equivalent orientations.
    progress : Progress
    journal : Journal
        Keeps the sums so far, under the name `part`, and hands them out again.
    """
    n = views.image_shape[0]
    power = np.zeros(n // 2 + 1)
    chunk, first = views_at_a_time(n), 0
    grid = FourierGrid(n, min(chunk, len(picked)))
    if (kept := journal.restore(part)) is not None:
        first, power = kept["done"], kept["power"]
        grid.load(kept["grid"])
    for start in range(first, len(picked), chunk):
        some = picked[start : start + chunk]
        power += _add_views(grid, views.subset(some), operators)
        done = start + len(some)
        journal.tick(part, done, partial(_sums_so_far, done, power, grid))
        progress.update(done, len(picked))
    sums = grid.to_numpy()
    # Plane 0 holds every sample once, at z = 0 or its mate below: the whole is the sum with the mirrored conjugate.
    mirrored = np.roll(sums[0, ::-1, ::-1], (1, 1), (0, 1)) * np.array([1, -1, 1], sums.dtype)
    sums[0] += mirrored
    copies = len(operators)  # a view in so many orientations is as many views, to all of the sums
    return FourierSums(sums, n, copies * power, copies * float(views.weights[picked].sum()))


def views_at_a_time(n):
    """Images in a chunk: with every chunk the whole grid goes through the processor, which many images must share."""
    return max(CHUNK_PIXELS // (n * n), n)


def _add_views(grid, views, operators):
    """Add views to the grid; returns their `image_power`."""
    transforms = fft.rfft2(fft.ifftshift(views.images, axes=(1, 2)), workers=-1)
    slices = weigh(views, transforms)
    for operator in operators:
        grid.add(slices, views.projections @ operator)
    return image_power(views, transforms, slices[..., 2])


def _sums_so_far(done, power, grid):
    return {"done": done, "power": power.copy(), "grid": grid.to_numpy()}


def image_power(views, transforms, ctf_weights):
    """(n // 2 + 1,) sums w |F|^2 over the rings of images as they were before any multiplication with their CTF.

    That is divided out where it was applied. Near its zeros it is taken as a tenth of its ring's mean square:
    what stands there is not the image's.
    """
    n_views, n, half = transforms.shape
    square = np.abs(transforms) ** 2
    mates = in_circle(n) * np.where(np.arange(half) == 0, 1.0, 2.0)  # both mates of column 0 are stored
    ring = shell_indices(n)
    if views.premultiplied:
        ctf2 = ctf_weights * np.where(np.arange(half) == 0, 2.0, 1.0) / views.weights[:, None, None]
        cells = (np.arange(n_views)[:, None, None] * n + ring).ravel()  # rings are numbered below n
        mean = np.bincount(cells, (ctf2 * mates).ravel(), n_views * n) / np.maximum(
            np.bincount(cells, np.broadcast_to(mates, ctf2.shape).ravel(), n_views * n), 1
        )
        floor = SMALLEST_CTF2 * mean[cells].reshape(ctf2.shape)
        square = np.divide(square, np.maximum(ctf2, floor), out=np.zeros_like(square), where=floor > 0)
    total = np.einsum("vij,v->ij", square, views.weights)
    return np.bincount(ring.ravel(), (mates * total).ravel())[:half]


def in_circle(n):
    """(n, n // 2 + 1) bool: the coefficients of an image that `weigh` keeps, up to n / 2 and none at Nyquist."""
    y, x = np.rint(fft.fftfreq(n, 1 / n))[:, None], np.arange(n // 2 + 1)
    return (4 * (x**2 + y**2) <= n**2) & (2 * x < n) & (-2 * y < n)


def weigh(views, transforms):
    """(V, n, n/2 + 1, 3) of (w CTF F, w CTF^2); transforms (V, n, n/2 + 1), image centre at index 0."""
    dtype = float_type()
    runtime.check_size(3 * transforms.size, "the slices of a batch of images")
    slices = np.empty((*transforms.shape, 3), dtype)
    flat = np.ascontiguousarray(transforms).view(transforms.real.dtype).astype(dtype, copy=False).reshape(-1)
    weigh_into(slices.reshape(-1), views, flat)
    return slices


def weigh_into(slices, views, transforms):
    """`weigh` for flat arrays of NumPy or of the device, which may be larger."""
    n, dtype = views.image_shape[0], float_type()
    table = np.zeros((len(views), 9))
    if views.ctf is not None:
        table[:, :8] = views.ctf.coefficients()
        table[:, :5] /= 2 * np.pi  # turns
        table[:, 8] = np.clip(0.8 + 0.2 * (views.ctf.voltage_kv - 200) / 100, 0.8, 1.0)
    weight_slices(
        transforms, views.shifts.astype(dtype).reshape(-1), table.astype(dtype).reshape(-1),
        views.weights.astype(dtype), slices, len(views), n, 1 / (n * views.pixel_size),
        views.ctf is not None, views.premultiplied,
    )  # fmt: skip
