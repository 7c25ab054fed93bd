"""A small scene of known truth: vesicle, barrels, filaments and gold, made of 3D Gaussians.

NumPy in float64 and nothing else, so that what judges the kernels shares no code with them. Sizes are
physical: the finest Gaussian has a sigma of 8 Å, resolved from 10 Å per pixel downwards. Images hold mass
per pixel and volumes mass per voxel, so that both sum to the scene's mass.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial.transform import Rotation

from taigs.errors import InputError

SIGMA = 8.0  # Angstrom, of the finest Gaussian
CUT = 5.0  # Gaussians end at this many standard deviations: 6e-7 of the mass is lost
CHUNK = 2**21  # window elements evaluated at once: 16 MB an array


@dataclass(frozen=True)
class Scene:
    """N Gaussians.

    Parameters
    ----------
    positions, sigmas : (N, 3) array
        Centres (x, y, z) from the volume centre; standard deviations along the own axes. Angstrom.
    quaternions : (N, 4) array
        Unit quaternions (w, x, y, z), own axes -> scene.
    masses : (N,) array
        Integrals.
    """

    positions: np.ndarray
    sigmas: np.ndarray
    quaternions: np.ndarray
    masses: np.ndarray

    def __len__(self):
        return len(self.masses)

    @property
    def rotations(self):
        """scipy `Rotation` of the quaternions (scipy puts w last)."""
        return Rotation.from_quat(self.quaternions[:, [1, 2, 3, 0]])

    @property
    def covariances(self):
        """(N, 3, 3), Angstrom^2."""
        axes = self.rotations.as_matrix() * self.sigmas[:, None, :]
        return axes @ axes.transpose(0, 2, 1)

    def placed(self, rotation, offset):
        """The scene turned by a scipy `Rotation` about the origin, then moved by `offset` (3,) Angstrom."""
        turned = (rotation * self.rotations).as_quat()[:, [3, 0, 1, 2]]
        return Scene(rotation.apply(self.positions) + offset, self.sigmas, turned, self.masses)


def phantom_scene(rng, extent_A):
    """Molecules at random places in a slab, without overlap.

    Parameters
    ----------
    rng : numpy.random.Generator
    extent_A : (x, y, z)
        Size of the slab in Angstrom; every molecule of the returned `Scene` lies inside.

    Raises
    ------
    InputError
        An axis is too short for a barrel.
    """
    extent = np.asarray(extent_A, float)
    if extent.min() < 200:
        raise InputError(f"phantom of {extent_A} Å; expected at least 200 Å on every axis")
    area = extent[0] * extent[1] / 1e6  # in 1000 x 1000 Angstrom
    kinds = (  # molecule, how many; the largest first, while there is room
        (_vesicle(min(130.0, extent.min() / 2 - 60)), round(area)),
        (_filament(rng), round(6 * area)),
        (_barrel(), round(24 * area) + 1),
        (_gaussians(np.zeros((1, 3)), np.ones((1, 3)), 16.0, 16.0, 0.6), round(3 * area)),  # gold, 60 Å
    )
    parts, centres, radii = [], np.empty((0, 3)), np.empty(0)
    for molecule, wanted in kinds:
        radius = np.linalg.norm(molecule.positions, axis=1).max() + 2 * SIGMA
        room = np.maximum(extent / 2 - radius, 0)
        for centre in rng.uniform(-room, room, size=(100 * wanted, 3)):
            if wanted and np.all(np.linalg.norm(centres - centre, axis=1) > radii + radius):
                parts.append(molecule.placed(Rotation.from_quat(rng.normal(size=4)), centre))
                centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
                wanted -= 1
    return _joined(parts)


def phantom_volume(scene, grid):
    """The scene on a `taigs.views.Grid`: (nz, ny, nx) float64 array, mass per voxel."""
    means = scene.positions / grid.voxel_size + np.asarray(grid.centre)
    return _render(means, scene.covariances / grid.voxel_size**2, scene.masses, grid.shape)


def phantom_tilt_series(scene, angles_deg, shape, pixel_size, snr, rng):
    """Images of the scene tilted about y, dense = bright: x' = x cos t + z sin t, centred at (n - 1) / 2.

    Parameters
    ----------
    scene : Scene
    angles_deg : (V,) array_like
    shape : (H, W)
        Pixels.
    pixel_size : float
        Angstrom.
    snr : float
        Variance of the untilted image over the variance of the noise.
    rng : numpy.random.Generator

    Returns
    -------
    stack : (V, H, W) float32 array
        Images with white Gaussian noise of variance 1.
    clean : (V, H, W) float32 array
        The same without noise: the projections times the one factor that gives this snr.
    """
    centre = (np.asarray(shape) - 1)[::-1] / 2
    covariances = scene.covariances

    def image(angle):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        projection = np.array([[c, 0, s], [0, 1, 0]])
        means = scene.positions @ projection.T / pixel_size + centre
        flat = projection @ covariances @ projection.T / pixel_size**2
        return _render(means, flat, scene.masses, shape)

    factor = np.sqrt(snr / image(0.0).var())
    clean = np.stack([factor * image(angle) for angle in angles_deg]).astype(np.float32)
    return clean + rng.standard_normal(clean.shape, np.float32), clean


def phantom_particles(scene, rotations, shifts_px, box, pixel_size, ctf, snr, rng):
    """Images of the scene in many orientations with CTF, dense = bright, centred at box // 2.

    Parameters
    ----------
    scene : Scene
    rotations : (V, 3, 3) array
        Scene -> image.
    shifts_px : (V, 2) array
        In-plane shift (x, y), pixels.
    box : int
        Width of the images, pixels.
    pixel_size : float
        Angstrom.
    ctf : taigs.imaging.ctf.Ctf
    snr : float
        Mean variance of the images with CTF over the variance of the noise.
    rng : numpy.random.Generator

    Returns
    -------
    (V, box, box) float32 array
        With white Gaussian noise of variance 1.
    """
    covariances, k = scene.covariances, np.fft.fftfreq(box, pixel_size)
    images = np.empty((len(rotations), box, box))
    for v, rotation in enumerate(np.asarray(rotations)[:, :2]):
        means = scene.positions @ rotation.T / pixel_size + box // 2 + shifts_px[v]
        flat = rotation @ covariances @ rotation.T / pixel_size**2
        transfer = ctf[v : v + 1](k, k[:, None])[0]
        images[v] = np.fft.ifft2(np.fft.fft2(_render(means, flat, scene.masses, (box, box))) * transfer).real
    images *= np.sqrt(snr / images.var(axis=(1, 2)).mean())
    return (images + rng.standard_normal(images.shape)).astype(np.float32)


def _render(means, covariances, masses, shape):
    """Sum of D-dimensional Gaussians on an array of `shape`, [y, x] or [z, y, x]; lengths in pixels.

    Gaussians of similar size are evaluated together, each on its own window of one common width.
    """
    ndim = len(shape)
    means, covariances = means[:, ::-1], covariances[:, ::-1, ::-1]  # x first -> x last
    total = np.zeros(int(np.prod(shape)))
    inverses = np.linalg.inv(covariances)
    peaks = masses / np.sqrt((2 * np.pi) ** ndim * np.linalg.det(covariances))
    reach = np.ceil(CUT * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2).max(axis=1))).astype(int)
    corners = np.rint(means).astype(int)
    for half in np.unique(reach):
        offsets = np.indices((2 * half + 1,) * ndim).reshape(ndim, -1).T - half
        members = np.flatnonzero(reach == half)
        for part in np.array_split(members, -(-len(members) * len(offsets) // CHUNK)):
            pixels = corners[part, None] + offsets
            d = pixels - means[part, None]
            values = np.exp(-0.5 * np.einsum("nki,nij,nkj->nk", d, inverses[part], d, optimize=True))
            inside = np.all((pixels >= 0) & (pixels < shape), axis=2)
            index = np.ravel_multi_index(tuple(pixels[inside].T), shape)
            total += np.bincount(index, (peaks[part, None] * values)[inside], total.size)
    return total.reshape(shape)


def _gaussians(positions, normals, along, across, mass):
    """Gaussians with one sigma `along` their normal and another `across` it; masses sum to `mass`."""
    # The shortest turn from z to the normal; a normal at -z has none, and any axis will do.
    n = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    quaternions = np.column_stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(len(n))])
    quaternions[n[:, 2] < -1 + 1e-9] = (0, 1, 0, 0)
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    sigmas = np.tile([across, across, along], (len(n), 1))
    return Scene(np.asarray(positions, float), sigmas, quaternions, np.full(len(n), mass / len(n)))


def _joined(scenes):
    names = [f.name for f in fields(Scene)]
    return Scene(*(np.concatenate([getattr(s, name) for s in scenes]) for name in names))


def _barrel():
    """Four stacked rings of seven, as a proteasome: 110 Å wide, 120 Å long."""
    turn = np.radians(np.arange(7) * 360 / 7)
    ring = np.column_stack([40 * np.cos(turn), 40 * np.sin(turn), 0 * turn])
    positions = np.concatenate([ring + np.array([0, 0, z]) for z in (-48, -16, 16, 48)])
    return _gaussians(positions, positions * [1, 1, 0], SIGMA, 1.3 * SIGMA, 1.0)


def _filament(rng):
    """A bent rod, 240 Å long and 40 Å wide."""
    s = np.linspace(-120, 120, 16)
    bend = rng.uniform(0.001, 0.002)
    positions = np.column_stack([s, bend * s**2, 0 * s])
    return _gaussians(positions, np.column_stack([1 + 0 * s, 2 * bend * s, 0 * s]), 10.0, 1.5 * SIGMA, 0.8)


def _vesicle(radius):
    """A spherical membrane of two leaflets 36 Å apart, tiled by flat Gaussians."""
    shells = []
    for r in (radius - 18, radius + 18):
        n = max(60, int(4 * np.pi * r**2 / 18**2))
        z = 1 - 2 * (np.arange(n) + 0.5) / n  # Fibonacci lattice: even coverage of the sphere
        turn = np.pi * (3 - np.sqrt(5)) * np.arange(n)
        normals = np.column_stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z])
        shells.append(_gaussians(r * normals, normals, SIGMA, 16.0, 6.0))
    return _joined(shells)
