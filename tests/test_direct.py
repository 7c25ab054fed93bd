"""The direct Fourier map: where it puts density and how much of it, and that it is RELION's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
from scipy import fft
from scipy.spatial.transform import Rotation
from test_gridding import ONE, PIXEL_SIZE, random_ctf, random_views

from taigs.accumulate import FourierSums, accumulate
from taigs.cloud import GaussianCloud
from taigs.direct import direct_map, inside_sphere, unpad
from taigs.geometry import euler_to_matrix
from taigs.imaging.ctf import Ctf
from taigs.io.mrc import read_volume
from taigs.io.particles import read_particles
from taigs.journal import Journal
from taigs.metrics import fsc
from taigs.progress import NoProgress
from taigs.shells import shells
from taigs.views import Grid, Views

RECONSTRUCTION = Path(__file__).parent / "data" / "relion_reconstruction.npz"  # see data/make_relion_reconstruction.py


def reconstruct(views):
    return direct_map(accumulate(views, np.arange(len(views)), ONE, NoProgress(), Journal(), "sums"))


def hand(n):
    """A cloud without any symmetry, within a quarter of the box from the centre."""
    positions = np.array([[0, 0, 0], [7, 0, 0], [0, 5, 0], [0, 0, 6], [-4, -5, 2], [3, -6, -5.0]]) * n / 32
    sigmas = np.array([1.8, 1.3, 1.6, 1.2, 1.4, 1.5])
    return GaussianCloud(
        PIXEL_SIZE * positions,
        np.log(PIXEL_SIZE * np.outer(sigmas, [0.9, 1, 1.2])),
        np.random.default_rng(0).normal(size=(6, 4)),
        np.array([1, 1.5, 0.8, 2, 1.2, 0.7]),
    )


def truth_of(cloud, n):
    """(n, n, n) mass per voxel, centre n // 2."""
    return reference.voxelize(cloud, Grid((n,) * 3, PIXEL_SIZE, (n // 2,) * 3)) * PIXEL_SIZE**3


def views_of(cloud, views):
    """The same views, of a cloud, without noise."""
    n = views.image_shape[0]
    images = reference.particles(cloud, views.projections, views.shifts, views.ctf, n, PIXEL_SIZE)
    return replace(views, images=images)


def slope(actual, expected, last):
    """Of one volume on another, in shells 1 to `last`."""
    s = shells(len(expected))
    inside = s.spread(np.where(np.arange(len(expected) // 2 + 1) <= last, 1.0, 0.0))
    inside[0, 0, 0] = 0
    a, e = (fft.rfftn(v) for v in (actual, expected))
    return s.sum((a * e.conj()).real * inside).sum() / s.sum(np.abs(e) ** 2 * inside).sum()


# --- maps of what is known --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [32, 25])
def test_images_without_noise_give_back_the_object(cpu32, rng, n):
    """Scale, centre and hand: the object is unlike its mirror images, and moved by a voxel it is another."""
    cloud = hand(n)
    ctf = random_ctf(rng, 250, dose=0.0, bfactor=0.0, voltage_kv=300)
    views = views_of(cloud, random_views(rng, n, 250, images=np.zeros((250, n, n)), ctf=ctf))
    volume, truth = reconstruct(views), truth_of(cloud, n)
    assert volume.shape == (n,) * 3 and volume.dtype == np.float32
    last = round(0.8 * n / 2)
    curve, _ = fsc(volume, truth)
    assert curve[1 : last + 1].min() > 0.99
    assert slope(volume, truth, last) == pytest.approx(1, abs=0.02)
    for wrong in (truth[::-1], truth[:, ::-1], truth[:, :, ::-1], *(np.roll(truth, 1, axis) for axis in range(3))):
        assert fsc(volume, wrong)[0][1 : last + 1].min() < 0.9


def test_premultiplied_images_give_the_same_map(cpu32, rng):
    views = random_views(rng, 25, 60)
    k = np.fft.fftfreq(25, PIXEL_SIZE)
    multiplied = np.fft.ifft2(np.fft.fft2(views.images) * views.ctf(k, k[:, None])).real
    a, b = reconstruct(views), reconstruct(replace(views, images=multiplied, premultiplied=True))
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())


def test_the_map_has_the_scale_of_the_images_and_no_memory_of_that_of_the_weights(cpu32, rng):
    views = random_views(rng, 25, 60, ctf=random_ctf(rng, 60, dose=0.0, bfactor=0.0))
    volume = reconstruct(views)
    louder = reconstruct(replace(views, images=3 * views.images))
    np.testing.assert_allclose(louder, 3 * volume, atol=1e-4 * np.abs(volume).max())
    heavier = reconstruct(replace(views, weights=7 * views.weights))
    np.testing.assert_allclose(heavier, volume, atol=1e-4 * np.abs(volume).max())


def test_a_view_of_little_weight_hardly_counts(cpu32, rng):
    views = random_views(rng, 25, 60)
    weights = np.where(np.arange(60) < 50, 1.0, 1e-6)
    volume = reconstruct(replace(views, weights=weights))
    without = reconstruct(replace(views, weights=np.ones(60)).subset(np.arange(50)))
    np.testing.assert_allclose(volume, without, atol=1e-3 * np.abs(volume).max())


@pytest.mark.parametrize("n", [32, 25])
def test_the_map_is_empty_outside_its_sphere(cpu32, rng, n):
    volume = reconstruct(random_views(rng, n, 20))
    z, y, x = np.indices((n,) * 3) - n // 2
    radius = np.sqrt(x**2 + y**2 + z**2)
    assert not volume[radius > n / 2 + 3].any()
    assert np.count_nonzero(volume[radius < n / 2]) == np.count_nonzero(radius < n / 2)
    kept = inside_sphere(np.ones((n,) * 3))
    assert np.all(kept[radius <= n / 2] == 1) and kept[n // 2, n // 2, 0] == pytest.approx(1)
    edge = (radius > n / 2) & (radius < n / 2 + 3)
    np.testing.assert_allclose(kept[edge], 0.5 + 0.5 * np.cos(np.pi * (radius[edge] - n / 2) / 3), atol=1e-12)


# --- its parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 15])
def test_a_padded_transform_becomes_the_middle_of_its_volume_less_the_gridding_kernel(cpu64, rng, n):
    padded = rng.normal(size=(2 * n,) * 3)
    volume = unpad(np.fft.fftn(np.fft.ifftshift(padded))[: n + 1], n)
    middle = slice(n - n // 2, 2 * n - n // 2)
    x = np.arange(n) - n // 2
    kernel = np.sinc(x / (2 * n)) ** 2
    expected = padded[middle, middle, middle] / (kernel[:, None, None] * kernel[:, None] * kernel)
    np.testing.assert_allclose(volume, expected, atol=1e-12)


@pytest.mark.parametrize("n", [24, 25])
def test_gridding_and_unpadding_a_wave_give_a_wave_of_even_height(cpu64, n):
    """One coefficient of one image, off the cells: B is shared among eight, and the kernel taken out again."""
    views = Views(
        images=np.zeros((1, n, n)),
        projections=Rotation.from_euler("zyx", [0.3, 0.5, 0.7]).as_matrix()[None, :2],
        shifts=np.zeros((1, 2)),
        pixel_size=1.0,
        centre=np.full(2, n // 2),
        weights=np.ones(1),
    )
    y, x = np.indices((n, n)) - n // 2
    views = replace(views, images=np.cos(2 * np.pi / n * (2 * x + 3 * y))[None])
    grid = accumulate(views, np.arange(1), ONE, NoProgress(), Journal(), "sums").grid
    volume = unpad(grid[..., 0] + 1j * grid[..., 1], n) * (2 * n) ** 3 / n**2
    z, y, x = np.indices((n,) * 3) - n // 2
    kx, ky, kz = np.array([2, 3]) @ views.projections[0]
    wave = np.cos(2 * np.pi / n * (kx * x + ky * y + kz * z))
    near = x**2 + y**2 + z**2 < (n / 4) ** 2
    np.testing.assert_allclose(volume[near], wave[near], atol=0.03)


def test_even_weights_make_the_sampling_density_one(cpu64, rng):
    """A transform of ones, sampled by the views and put together again, is a point of height 1."""
    n = 24
    point = np.zeros((200, n, n))
    point[:, n // 2, n // 2] = 1
    volume = reconstruct(random_views(rng, n, 200, images=point, shifts=np.zeros((200, 2)), ctf=None))
    coefficients = np.fft.fftn(np.fft.ifftshift(volume))
    radius = np.sqrt(sum(k**2 for k in np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * 3)))
    inside = coefficients[(radius > 0.5) & (radius < 0.8 * n / 2)]
    assert np.abs(inside.mean() - 1) < 0.01 and np.abs(inside - 1).std() < 0.05


def test_cells_that_hardly_any_view_reaches_do_not_run_away(cpu32, rng):
    """A few views: most of the grid is empty, and near its borders weights are tiny."""
    volume = reconstruct(random_views(rng, 25, 3, ctf=None))
    assert np.isfinite(volume).all() and volume.std() < 3


# --- RELION -----------------------------------------------------------------------------------------------


def relion_views(fixture):
    """Views of relion_reconstruction.npz."""
    names = ("Voltage", "SphericalAberration", "AmplitudeContrast")
    names += ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "CtfBfactor", "CtfScalefactor")
    images, pixel_size = fixture["images"].astype(np.float32), float(fixture["pixel_size"])
    origins = np.stack([fixture["rlnOriginXAngst"], fixture["rlnOriginYAngst"]], axis=1)
    return Views(
        images=images,
        projections=euler_to_matrix(*(fixture[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")))[:, :2],
        shifts=-origins / pixel_size,
        pixel_size=pixel_size,
        centre=np.full(2, images.shape[1] // 2),
        weights=np.ones(len(images)),
        ctf=Ctf(*(fixture[f"rln{name}"] for name in names)),
    )


def test_the_map_of_noisy_particles_is_relions(cpu32):
    """To 0.9 of Nyquist: RELION keeps the two samples of an image at Nyquist itself, which are left out here."""
    with np.load(RECONSTRUCTION) as archive:
        fixture = dict(archive)
    volume, expected = reconstruct(relion_views(fixture)), fixture["map"].astype(float)
    last = int(0.9 * len(expected) / 2)
    curve, _ = fsc(volume, expected)
    assert curve[1 : last + 1].min() > 0.99
    assert slope(volume, expected, last) == pytest.approx(1, abs=0.02)


@pytest.mark.shared
def test_relions_images_of_one_voxel_give_back_that_voxel(cpu32, shared):
    """Hand, centre and sign of CTF-affected images that RELION made, read from its star file."""
    folder = shared / "data" / "relion_pointmass"
    views = read_particles(folder / "relion_proj_batch.star")
    volume = reconstruct(views)
    expected, _ = read_volume(folder / "pointmass.mrc")
    assert np.unravel_index(volume.argmax(), volume.shape) == (32, 32, 49)
    assert np.unravel_index(expected.argmax(), expected.shape) == (32, 32, 49)


def test_weights_and_data_of_an_empty_grid_give_an_empty_map(cpu32):
    sums = FourierSums(np.zeros((10, 18, 18, 3), np.float32), 9, np.zeros(5), 0.0)
    assert not direct_map(sums).any()
