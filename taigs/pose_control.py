"""Do the poses matter? Images of each half against the other half's map, in their own poses and in one another's.

Half maps from wrong poses agree as well: both are the rotational average of the particle, a blob whose FSC is
above 0.9 in the first shells [measured], and images correlate with it in any pose. What wrong poses cannot do is to
fit their own image better than the pose of another particle does: where poses are dealt at random the mean
difference is 0, whatever the particle's shape, its preferred orientations and the noise. Measured: t, the mean
difference over its standard error, and the share of the correlation that the own pose explains:

    64 px, 1000 images               true poses 145, 0.71    shuffled -2.3 to -0.3, -0.01 to 0.00
    128 px, 500 images               true poses  84, 0.73    shuffled -0.7 to 0.2,  0.00
    128 px, 5000, SNR 0.01           true poses  59, 0.64    shuffled -0.1,         0.00
    128 px, 5000, no side views                              shuffled 1.5,          0.00
    32 px, 20 ribosomes x 37 tilts   true poses 8.6, 0.36    shuffled -1.0 to 1.5, -0.06 to 0.08
    64 px, 1000 images, rotations inverted  6.2, 0.02; nine of ten poses shuffled  6.5, 0.02;
    one half turned against the other  -10, -0.20; no CTF  107, 0.47

The share is asked for beside t because t grows with the number of images, and a few right poses suffice for it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from taigs.accumulate import image_power, weigh
from taigs.imaging.fourier import shell_indices

SMALLEST_T = 4.0  # by chance: once in 30 000 data sets, in 2500 with 20 particles
SMALLEST_SHARE = 0.1
PIXELS = 1 << 21  # of the images of a half that are looked at
CHUNK_PIXELS = 1 << 18
STREAM = 0x706F7365
TINY = np.finfo(float).tiny
FEWEST_PARTICLES = 4


@dataclass(frozen=True)
class PoseControl:
    """How images agree with the other half's map in the poses of other particles, and whether their own fit better.

    Parameters
    ----------
    interchanged : (n // 2 + 1,) array
        Ring correlation in each shell, the poses interchanged among the particles of a half.
    t : float or None
        Gain of correlation by the own pose: mean over standard error, over the particles; None for too few.
    share : float
        That gain as a share of the correlation.
    n_particles, n_views : int
        That were looked at.
    sign : int
        -1 if dense matter is dark in the images.
    """

    interchanged: np.ndarray
    t: float | None
    share: float
    n_particles: int
    n_views: int
    sign: int

    @property
    def failed(self):
        """Nothing shows that the poses belong to the images."""
        return self.t is not None and (self.t < SMALLEST_T or self.share < SMALLEST_SHARE)


def control_poses(views, half_sets, half_maps, seed=0):
    """Compare images with the map of the other half, in their own poses and in those of other particles.

    Parameters
    ----------
    views : Views
        As the maps were made of, or negated.
    half_sets : (V,) array of int
        1 or 2.
    half_maps : pair of (n, n, n) array
        Of half-sets 1 and 2.
    seed : int
        Of the interchange.

    Returns
    -------
    PoseControl
    """
    n = views.image_shape[0]
    rng = np.random.default_rng([seed, STREAM])
    particles = np.arange(len(views)) if views.particles is None else np.asarray(views.particles)
    products, powers, n_views = [], [], 0
    for half in (1, 2):
        picked, number = _sample(np.flatnonzero(half_sets == half), particles, PIXELS // (n * n))
        transform = padded_transform(half_maps[2 - half])
        wrong = _interchanged(views.projections[picked], number, rng)
        found, power = _products(views.subset(picked), number, wrong, transform)
        products.append(found)
        powers.append(power)
        n_views += len(picked)
    (own_square, own), (square, cross) = np.concatenate(products, axis=2)
    power = np.sum(powers, axis=0)
    # Rings of equal power, so that the strongest do not decide alone.
    whitening = np.divide(1, power, out=np.zeros_like(power), where=power > 0)
    whitening[0] = 0  # the mean of an image says nothing
    right, wrong = (
        a @ whitening / np.sqrt(np.maximum(b @ whitening, TINY)) for a, b in ((own, own_square), (cross, square))
    )
    sign = 1 if right.sum() >= 0 else -1
    gain = sign * (right - wrong)
    t = gain.mean() / max(gain.std(ddof=1) / len(gain) ** 0.5, TINY) if len(gain) >= FEWEST_PARTICLES else None
    norm = np.sqrt(square.sum(axis=0) * power)
    rings = np.divide(sign * cross.sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)
    return PoseControl(rings, t, gain.sum() / max(abs(right.sum()), TINY), len(gain), n_views, sign)


def _sample(picked, particles, most):
    """(views of some particles, evenly spaced, about `most`; number of the particle of each, from 0)."""
    unique, number = np.unique(particles[picked], return_inverse=True)
    n_taken = int(np.clip(most * len(unique) // len(picked), 1, len(unique)))
    taken = np.linspace(0, len(unique) - 1, n_taken).round().astype(int)
    place = np.full(len(unique), -1)
    place[taken] = np.arange(n_taken)
    kept = place[number] >= 0
    return picked[kept], place[number[kept]]


def _interchanged(projections, number, rng):
    """Projections (V, 2, 3) of particles that have each got another's pose, in the views of their own."""
    first = np.unique(number, return_index=True)[1]
    x, y = np.moveaxis(projections[first], 1, 0)
    frames = np.stack([x, y, np.cross(x, y)], axis=1)
    frames /= np.linalg.norm(frames, axis=2, keepdims=True)
    order = rng.permutation(len(first))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    turns = np.einsum("pji,pjk->pik", frames, frames[other])  # own first view -> the other's
    return projections @ turns[number]


def _products(views, number, wrong, transform):
    """((poses, square or cross, particle, shell) sums over rings, power (shell,)) for the own and the wrong poses."""
    n = views.image_shape[0]
    sums = np.zeros((2, 2, number.max() + 1, n // 2 + 1))
    power = np.zeros(n // 2 + 1)
    chunk = max(1, CHUNK_PIXELS // (n * n))
    for start in range(0, len(views), chunk):
        indices = np.arange(start, min(start + chunk, len(views)))
        part = views.subset(indices)
        transforms = fft.rfft2(fft.ifftshift(part.images, axes=(1, 2)), workers=-1)
        weighed = weigh(part, transforms)
        power += image_power(part, transforms, weighed[..., 2])
        for which, projections in enumerate((part.projections, wrong[indices])):
            slices = central_slices(transform, projections)
            square = weighed[..., 2] * np.abs(slices) ** 2
            cross = weighed[..., 0] * slices.real + weighed[..., 1] * slices.imag
            for kind, values in enumerate((square, cross)):
                np.add.at(sums[which, kind], number[indices], 2 * _ring_sums(values))
    return sums, power


def _ring_sums(values):
    """(V, n // 2 + 1) sums over the rings of (V, n, n // 2 + 1) arrays."""
    n_views, n, half = values.shape
    cells = np.arange(n_views)[:, None, None] * n + shell_indices(n)
    return np.bincount(cells.ravel(), values.ravel(), n_views * n).reshape(n_views, n)[:, :half]


def padded_transform(volume):
    """(2n, 2n, n + 1) complex64 transform of a volume (n, n, n), its centre n // 2 at index 0, zeros around it."""
    n = len(volume)
    padded = np.zeros((2 * n,) * 3, np.float32)
    inside = slice(n - n // 2, n - n // 2 + n)
    padded[inside, inside, inside] = volume
    return fft.rfftn(fft.ifftshift(padded), workers=-1, overwrite_x=True).astype(np.complex64, copy=False)


def central_slices(transform, projections):
    """Transforms (V, n, n // 2 + 1) of the projections (V, 2, 3) of a volume, from its `padded_transform`.

    Trilinear between the samples, and 0 from the Nyquist frequency on.
    """
    size = len(transform)
    n = size // 2
    ky, kx = np.meshgrid(fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1), indexing="ij")
    inside = np.hypot(kx, ky) < n / 2
    points = 2 * np.stack([kx[inside], ky[inside]], axis=1) @ projections  # (V, points, 3): x, y, z
    mirrored = points[..., 0] < 0
    points[mirrored] *= -1
    corner = np.floor(points).astype(np.int64)
    fraction = (points - corner).astype(np.float32)
    values = np.zeros(mirrored.shape, np.complex64)
    flat = transform.reshape(-1)
    for dz in (0, 1):
        for dy in (0, 1):
            row = ((corner[..., 2] + dz) % size * size + (corner[..., 1] + dy) % size) * transform.shape[2]
            weight = np.abs(1 - dz - fraction[..., 2]) * np.abs(1 - dy - fraction[..., 1])
            for dx in (0, 1):
                values += weight * np.abs(1 - dx - fraction[..., 0]) * flat[row + corner[..., 0] + dx]
    slices = np.zeros((len(projections), n, n // 2 + 1), np.complex64)
    slices[:, inside] = np.where(mirrored, values.conj(), values)
    return slices
