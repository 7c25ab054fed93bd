"""taigs.imaging.ctf against its formula, coefficient by coefficient, and against images made by RELION and Warp."""

import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy import constants

from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.geometry import euler_to_matrix, matrix_to_quaternion
from taigs.imaging.ctf import Ctf
from taigs.imaging.dose import critical_exposure, dose_weight
from taigs.io.star import read_star
from taigs.render import project

PROJECTIONS = Path(__file__).parent / "data" / "relion_projections.npz"  # see data/make_relion_projections.py
PLAIN = {"voltage_kv": 300, "cs_mm": 2.7, "amplitude_contrast": 0.1, "defocus_angle": 0}
PLAIN |= {"defocus_u": 15000, "defocus_v": 15000}


def random_parameters(rng, n):
    low_high = {
        "voltage_kv": (80, 300),
        "cs_mm": (0.01, 2.7),
        "amplitude_contrast": (0, 1),
        "defocus_u": (-2000, 40000),
        "defocus_v": (-2000, 40000),
        "defocus_angle": (-180, 180),
        "phase_shift": (0, 180),
        "bfactor": (-10, 200),
        "scale": (0.2, 2),
        "dose": (0, 120),
    }
    return {name: rng.uniform(*ends, n) for name, ends in low_high.items()}


def scalar_ctf(kx, ky, p):
    """One value, from the formula as RELION's users know it; and Grant and Grigorieff's dose weight."""
    volts, k, w = 1000 * p["voltage_kv"], math.hypot(kx, ky), p["amplitude_contrast"]
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    u, v, direction = p["defocus_u"], p["defocus_v"], math.atan2(ky, kx) - math.radians(p["defocus_angle"])
    defocus = (u + v + (u - v) * math.cos(2 * direction)) / 2
    gamma = -math.pi * wavelength * defocus * k**2 + math.pi / 2 * (p["cs_mm"] * 1e7) * wavelength**3 * k**4
    gamma -= math.radians(p["phase_shift"]) + math.atan(w / math.sqrt(1 - w**2))
    kept = 1.0
    if k > 0:
        critical = (0.245 * k**-1.665 + 2.81) * min(1, max(0.8, 0.8 + 0.2 * (volts - 200e3) / 100e3))
        kept = math.exp(-p["dose"] / (2 * critical))
    return -math.sin(gamma) * p["scale"] * math.exp(-p["bfactor"] * k**2 / 4) * kept


def half_plane(n, pixel_size):
    """(kx, ky) of an n x n rfft2, 1/A."""
    return np.meshgrid(np.fft.rfftfreq(n, pixel_size), np.fft.fftfreq(n, pixel_size))


def fits(measured, predicted):
    """(correlation, slope) of one image on another."""
    return np.corrcoef(measured.ravel(), predicted.ravel())[0, 1], np.polyfit(predicted.ravel(), measured.ravel(), 1)[0]


# --- the formula ---------------------------------------------------------------------------------


def test_ctf_equals_the_formula_one_value_at_a_time(rng):
    parameters = random_parameters(rng, 20)
    kx, ky = rng.uniform(-0.35, 0.35, (2, 4, 5))
    kx[0, 0] = ky[0, 0] = 0
    got = Ctf(**parameters)(kx, ky)
    assert got.shape == (20, 4, 5) and got.dtype == np.float64
    for i, v, h in np.ndindex(got.shape):
        expected = scalar_ctf(kx[v, h], ky[v, h], {name: float(p[i]) for name, p in parameters.items()})
        assert got[i, v, h] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kilovolts", [80, 120, 200, 300])
def test_the_wavelength_is_that_of_electrons_of_this_energy(kilovolts):
    energy = constants.e * kilovolts * 1e3
    momentum = math.sqrt(energy * (energy / constants.c**2 + 2 * constants.m_e))
    # RELION's constants, and ours, are 6e-6 above today's.
    cubed = Ctf(**PLAIN | {"voltage_kv": kilovolts}).coefficients()[0, 3] / (math.pi / 2 * 2.7e7)
    assert cubed ** (1 / 3) == pytest.approx(1e10 * constants.h / momentum, rel=1e-5)


@pytest.mark.parametrize("contrast", [0.0, 0.07, 0.1, 1.0])
def test_at_zero_frequency_is_plus_the_amplitude_contrast(contrast):
    assert Ctf(**PLAIN | {"amplitude_contrast": contrast})(0, 0) == pytest.approx([contrast])


def test_underfocus_keeps_the_sign_up_to_the_first_zero():
    k = np.linspace(0, 0.055, 50)  # the first zero is near 0.056 / A
    assert np.all(Ctf(**PLAIN)(k, 0) > 0)
    assert np.any(Ctf(**PLAIN | {"defocus_u": -15000, "defocus_v": -15000})(k, 0) < 0)


def test_a_quarter_wave_plate_makes_low_frequencies_bright():
    assert Ctf(**PLAIN, phase_shift=90)(0, 0) == pytest.approx(math.cos(math.asin(0.1)))


def test_the_angle_leads_from_x_to_the_direction_of_defocus_u():
    k = np.linspace(0, 0.2, 30)
    skew = {"defocus_u": 20000, "defocus_v": 10000}
    u, v = (Ctf(**PLAIN | {"defocus_u": d, "defocus_v": d})(k, 0) for d in skew.values())
    for angle in (0, 30, 90, 160):
        ctf = Ctf(**PLAIN | skew | {"defocus_angle": angle})
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        np.testing.assert_allclose(ctf(k * c, k * s), u, atol=1e-12)
        np.testing.assert_allclose(ctf(-k * s, k * c), v, atol=1e-12)


def test_the_ctf_is_the_same_at_opposite_frequencies(rng):
    ctf = Ctf(**random_parameters(rng, 5))
    kx, ky = rng.uniform(-0.3, 0.3, (2, 10))
    np.testing.assert_array_equal(ctf(kx, ky), ctf(-kx, -ky))


def test_scale_b_factor_and_dose_multiply_the_ctf():
    k = np.linspace(0, 0.3, 40)
    bare = Ctf(**PLAIN)(k, 0)
    np.testing.assert_allclose(Ctf(**PLAIN, scale=0.7)(k, 0), 0.7 * bare)
    np.testing.assert_allclose(Ctf(**PLAIN, bfactor=120)(k, 0), np.exp(-30 * k**2) * bare)
    np.testing.assert_allclose(Ctf(**PLAIN, dose=40)(k, 0), dose_weight(40, k, 300) * bare)
    assert Ctf(**PLAIN, dose=1e6)(0, 0) == pytest.approx([0.1])  # the mean is never damaged


def test_dose_weights_fall_with_dose_and_frequency_and_faster_at_200_kv():
    k = np.array([0, 0.05, 0.1, 0.3])
    assert critical_exposure(0.1) == pytest.approx(0.245 * 10**1.665 + 2.81)
    assert dose_weight(2 * critical_exposure(0.1), 0.1) == pytest.approx(math.exp(-1))
    assert dose_weight(0, k).tolist() == [1, 1, 1, 1]
    assert np.all(np.diff(dose_weight(30, k)) < 0)
    np.testing.assert_allclose(critical_exposure(k[1:], 200), 0.8 * critical_exposure(k[1:]))
    for kilovolts, factor in ((80, 0.8), (250, 0.9), (400, 1)):
        assert critical_exposure(0.1, kilovolts) == pytest.approx(factor * critical_exposure(0.1))


# --- the table of parameters ---------------------------------------------------------------------


def test_numbers_stand_for_all_images_and_arrays_for_one_each(rng):
    parameters = random_parameters(rng, 3)
    parameters["voltage_kv"] = 200
    ctf = Ctf(**parameters)
    assert len(ctf) == 3 and ctf.voltage_kv.tolist() == [200, 200, 200]
    kx, ky = half_plane(8, 2.0)
    for i in range(3):
        alone = Ctf(**{name: np.ravel(value)[i % np.size(value)] for name, value in parameters.items()})
        np.testing.assert_allclose(ctf(kx, ky)[i], alone(kx, ky)[0], atol=1e-14)


@pytest.mark.parametrize("indices", [[2, 0], slice(1, None), np.array([True, False, True])])
def test_picked_entries_are_those_of_the_picked_images(rng, indices):
    ctf = Ctf(**random_parameters(rng, 3))
    kx, ky = half_plane(6, 2.0)
    assert len(ctf[indices]) == 2
    np.testing.assert_array_equal(ctf[indices](kx, ky), ctf(kx, ky)[indices])


@pytest.mark.parametrize("bad", [np.nan, np.inf, [15000, np.nan], [[15000]], [1, 2, 3]])
def test_parameters_that_are_not_one_finite_number_an_image_are_refused(bad):
    with pytest.raises(InputError, match=r"ctf\.defocus_v .*expected a finite number for each"):
        Ctf(**PLAIN | {"defocus_u": [15000] * 4, "defocus_v": bad})


@pytest.mark.parametrize(("name", "bad"), [("voltage_kv", 0), ("voltage_kv", -300), ("amplitude_contrast", 7)])
def test_impossible_microscopes_are_refused(name, bad):
    with pytest.raises(InputError, match=f"{bad}"):
        Ctf(**PLAIN | {name: bad})


# --- images of RELION and Warp -------------------------------------------------------------------


def test_rendered_gaussians_with_ctf_are_relions_projections(cpu32):
    with np.load(PROJECTIONS) as archive:
        fixture = dict(archive)
    pixel_size, n = float(fixture["pixel_size"]), fixture["images"].shape[1]
    optics = [fixture[f"rln{name}"] for name in ("Voltage", "SphericalAberration", "AmplitudeContrast")]
    rotations, origins, ctf = relion_views(fixture.__getitem__, optics)
    ctf = ctf(*half_plane(n, pixel_size))
    cloud = cloud_of(fixture, pixel_size)
    for i, measured in enumerate(fixture["images"].astype(float)):
        image = project(cloud, rotations[i], (n, n), pixel_size, -origins[i] / pixel_size, (n // 2, n // 2), cutoff=5.0)
        # RELION sums voxels along the ray, and convolves within the box.
        predicted = np.fft.irfft2(np.fft.rfft2(image / pixel_size**3) * ctf[i], s=(n, n))
        correlation, slope = fits(measured, predicted)
        assert correlation > 0.9999 and slope == pytest.approx(1, abs=1e-3)


def cloud_of(fixture, pixel_size):
    variances, axes = np.linalg.eigh(fixture["covariances"])
    axes[np.linalg.det(axes) < 0] *= -1
    masses = fixture["heights"] * np.sqrt((2 * np.pi) ** 3 * variances.prod(axis=1)) * pixel_size**3
    log_sigmas = np.log(variances) / 2 + np.log(pixel_size)
    return GaussianCloud(fixture["positions"] * pixel_size, log_sigmas, matrix_to_quaternion(axes), masses)


def relion_views(column, optics):
    """Rotations (V, 3, 3), origins (V, 2) in Angstrom and Ctf; `column` returns a column by RELION's label."""
    rotations = euler_to_matrix(column("rlnAngleRot"), column("rlnAngleTilt"), column("rlnAnglePsi"))
    origins = np.stack([column("rlnOriginXAngst"), column("rlnOriginYAngst")], axis=1)
    names = ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "CtfBfactor", "CtfScalefactor")
    return rotations, origins, Ctf(*optics, *(column(f"rln{name}") for name in names))


@pytest.mark.shared
def test_a_single_voxel_gives_relions_images_of_it(shared):
    folder = shared / "data" / "relion_pointmass"
    tables = read_star(folder / "relion_proj_batch.star")
    rotations, origins, ctf = relion_views(tables["particles"].floats, (200, 1.4, 0.1))
    images, pixel_size, n = mrcfile.read(folder / "relion_proj_batch.mrcs"), 3.54, 64
    kx, ky = half_plane(n, pixel_size)
    ctf = ctf(kx, ky)
    # These images were made without padding. Linear interpolation of the volume's transform then adds copies
    # of the voxel one box apart in x, its distance from the centre squared over theirs as bright. The outermost
    # shells are left out, where RELION interpolates between coefficients and nothing.
    x = 49 - n // 2 + n * np.arange(-30, 31)
    inside = np.hypot(kx, ky) * pixel_size * n < 30.5
    assert len(images) == 24
    for i, image in enumerate(images):
        positions = np.outer(x, rotations[i, :2, 0]) * pixel_size - origins[i]
        phases = np.exp(-2j * np.pi * (kx[..., None] * positions[:, 0] + ky[..., None] * positions[:, 1]))
        predicted = np.fft.irfft2((phases @ (17 / x) ** 2) * ctf[i] * inside, s=(n, n))
        measured = np.fft.irfft2(np.fft.rfft2(np.fft.ifftshift(image)) * inside, s=(n, n))
        correlation, slope = fits(measured, predicted)
        assert correlation > 0.99999 and slope == pytest.approx(1, abs=1e-4)


@pytest.mark.shared
def test_warps_ctf_images_follow_from_its_parameters(shared):
    # gen_ctf.txt. Warp's Defocus is the mean of U and V and DefocusDelta U - V, in micrometres; PhaseShift is in
    # units of pi, a B factor that dampens is negative. Sign, angle and amplitude contrast are RELION's.
    images = mrcfile.read(shared / "data" / "warp_reference" / "ctf_reference.mrc")
    first = Ctf(300, 2.7, 0.1, 16500, 13500, 25, 0.4 * 180, 40, 0.9)
    second = Ctf(200, 2.7, 0.07, 25000, 25000, 0, 0, 40)
    for image, ctf, pixel_size in zip(images, (first, second), (1.1, 1.5), strict=True):
        kx, ky = half_plane(256, pixel_size)
        ky[128] *= -1  # Warp counts this row as the positive Nyquist frequency
        np.testing.assert_allclose(ctf(kx, ky)[0], image, atol=3e-5)
