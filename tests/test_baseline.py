"""WBP, SIRT and the alignment they need: geometry, scale, convergence, and who sees which views."""

import warnings

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from taigs.baseline import TiltGeometry, align_images, unalign_images, weighted_back_projection
from taigs.errors import InputError, InputWarning
from taigs.geometry import imod_views_geometry, tilt_rotation
from taigs.metrics import fsc, mean_fsc, wedge_region
from taigs.phantom import Scene, phantom_scene, phantom_tilt_series, phantom_volume
from taigs.sirt import Sirt, sirt
from taigs.tilt_seeds import SIRT_STEPS, make_seed
from taigs.views import Grid, Views

APIX = 8.0  # A; not 1, so that a forgotten factor shows
ANGLES = np.linspace(-60, 60, 21)


def blobs(positions_px, sigma_px, masses=1.0):
    """A scene of round Gaussians, in pixels from the volume centre."""
    positions = APIX * np.atleast_2d(np.asarray(positions_px, float))
    n = len(positions)
    masses = np.broadcast_to(masses, n).astype(float)
    return Scene(positions, np.full((n, 3), APIX * sigma_px), np.tile([1.0, 0, 0, 0], (n, 1)), masses)


def draw(scene, projections, shifts, shape):
    """(V, H, W) images by plain NumPy: mass per pixel, through any (V, 2, 3) geometry."""
    y, x = np.indices(shape)
    images = np.zeros((len(projections), *shape), np.float32)
    for i, (P, shift) in enumerate(zip(projections, shifts, strict=True)):
        means = scene.positions @ P.T / APIX + shift + (np.array(shape[::-1]) - 1) / 2
        precisions = np.linalg.inv(P @ scene.covariances @ P.T / APIX**2)
        for mean, Q, mass in zip(means, precisions, scene.masses, strict=True):
            dx, dy = x - mean[0], y - mean[1]
            exponent = Q[0, 0] * dx**2 + 2 * Q[0, 1] * dx * dy + Q[1, 1] * dy**2
            images[i] += mass * np.sqrt(np.linalg.det(Q)) / (2 * np.pi) * np.exp(-exponent / 2)
    return images


def views_of(images, angles, projections=None, shifts=None):
    """Aligned views unless a geometry is given; images in image units."""
    n, h, w = images.shape
    return Views(
        images=images,
        projections=tilt_rotation(angles)[:, :2] if projections is None else projections,
        shifts=np.zeros((n, 2)) if shifts is None else shifts,
        pixel_size=APIX,
        centre=np.array([(w - 1) / 2, (h - 1) / 2]),
        weights=np.ones(n),
        tilt_angles=np.asarray(angles, float),
    )


@pytest.fixture(scope="module")
def phantom():
    """(views without noise, truth per voxel) of a small scene; odd in every direction."""
    grid = Grid((27, 45, 53), APIX)
    scene = phantom_scene(np.random.default_rng(3), np.array(grid.shape[::-1]) * APIX)
    _, clean = phantom_tilt_series(scene, ANGLES, grid.shape[1:], APIX, 1.0, np.random.default_rng(0))
    return views_of(clean, ANGLES), phantom_volume(scene, grid), grid


# --- the linear map ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 13, 22), (1, 1, 1), (5, 9, 8), (12, 33, 57)])
def test_projection_and_back_projection_are_adjoint(cpu64, rng, shape):
    geometry = TiltGeometry([-71.0, -20.0, 0.0, 33.0, 60.0], (shape[1], shape[2] + 3), shape)
    volume, images = rng.normal(size=shape), rng.normal(size=(5, shape[1], shape[2] + 3))
    scale = np.vdot(geometry.project(volume), images) / np.vdot(volume, geometry.back_project(images))
    assert abs(scale - 1) < 1e-12


def test_projection_and_back_projection_are_adjoint_in_float32(cpu32, rng):
    shape = (12, 33, 57)
    geometry = TiltGeometry(ANGLES, (33, 57), shape)
    volume, images = rng.random(shape), rng.random((21, 33, 57))
    scale = np.vdot(geometry.project(volume), images) / np.vdot(volume, geometry.back_project(images))
    assert abs(scale - 1) < 1e-5


@pytest.mark.parametrize("size", [40, 41])
def test_a_blob_at_x_and_z_lands_at_x_cos_plus_z_sin(cpu32, size):
    grid = Grid((size - 12, 21, size), APIX)
    at = np.array([7.0, -3.0, 5.0])  # x y z
    volume = phantom_volume(blobs(at, 1.5), grid)
    angles = np.array([-60.0, -17.0, 0.0, 40.0])
    images = TiltGeometry(angles, (21, size), grid.shape).project(volume)
    t = np.radians(angles)
    expected = np.column_stack([0 * t - 3.0 + 10, at[0] * np.cos(t) + at[2] * np.sin(t) + (size - 1) / 2])
    found = [ndimage.center_of_mass(image) for image in images]
    np.testing.assert_allclose(found, expected, atol=0.01)
    np.testing.assert_allclose(images.sum(axis=(1, 2)), 1.0, rtol=1e-3)


def test_back_projection_puts_a_point_where_its_rays_meet(cpu32):
    at = np.array([6.0, 2.0, -4.0])
    grid = Grid((25, 21, 41), APIX)
    images = draw(blobs(at, 1.0), tilt_rotation(ANGLES)[:, :2], np.zeros((21, 2)), (21, 41))
    for volume in (
        weighted_back_projection(views_of(images, ANGLES), grid),
        sirt(views_of(images, ANGLES), grid, 5),
    ):
        peak = np.unravel_index(volume.argmax(), volume.shape)
        np.testing.assert_array_equal(peak, [-4 + 12, 2 + 10, 6 + 20])


def test_images_of_another_height_or_pixel_size_are_refused(cpu32):
    with pytest.raises(InputError, match="volume with 20 rows in y for images of 21 rows"):
        TiltGeometry([0.0], (21, 30), (5, 20, 30))
    views = views_of(np.zeros((3, 8, 8), np.float32), [-40, 0, 40])
    for method in (weighted_back_projection, lambda v, g: sirt(v, g, 1)):
        with pytest.raises(InputError, match=r"voxels of 9\.0 A for pixels of 8\.0 A"):
            method(views, Grid((4, 8, 8), 9.0))


# --- WBP --------------------------------------------------------------------------------------------------


def test_wbp_without_noise_correlates_with_the_truth_in_the_measured_region(cpu32, phantom):
    views, truth, grid = phantom
    curve, _ = fsc(weighted_back_projection(views, grid), truth, region=wedge_region(truth.shape, 60))
    assert mean_fsc(curve[: len(curve) // 2]) > 0.8
    assert mean_fsc(curve) > 0.7


@pytest.mark.parametrize("max_tilt", [60, 88])
def test_wbp_has_the_scale_of_the_object(cpu32, max_tilt):
    """In image units per A: a wide blob that all views see whole; what the wedge lacks is missing."""
    angles = np.linspace(-max_tilt, max_tilt, 89)
    grid = Grid((61, 25, 61), APIX)
    scene = blobs([0, 0, 0], 5.0, masses=1000.0)
    images = draw(scene, tilt_rotation(angles)[:, :2], np.zeros((89, 2)), (25, 61))
    truth = phantom_volume(scene, grid) / APIX  # images in mass per pixel: density in mass per pixel and A
    volume = weighted_back_projection(views_of(images, angles), grid)
    share = max_tilt / 90  # of the directions in the XZ plane
    assert volume[30, 12, 30] / truth[30, 12, 30] == pytest.approx(share, rel=0.2 if max_tilt == 60 else 0.05)


def test_wbp_weights_a_view_by_the_angle_it_stands_for(cpu32, phantom):
    """Views in another order change nothing, nor does a twin of a view more than its weight."""
    views, _, grid = phantom
    volume = weighted_back_projection(views, grid)
    order = np.random.default_rng(0).permutation(21)
    shuffled = weighted_back_projection(views.subset(order), grid)
    np.testing.assert_allclose(shuffled, volume, atol=1e-5 * volume.max())
    twin = weighted_back_projection(views.subset([*range(21), 10]), grid)
    assert np.abs(twin - volume).max() < 0.35 * volume.max()
    assert np.corrcoef(twin.ravel(), volume.ravel())[0, 1] > 0.99


def test_wbp_of_one_view_is_finite(cpu32, phantom):
    views, _, grid = phantom
    assert np.isfinite(weighted_back_projection(views.subset([10]), grid)).all()


# --- SIRT -------------------------------------------------------------------------------------------------


def sirt_steps(*arguments, **options):
    """(volume, score) after each step, endlessly."""
    run = Sirt(*arguments, **options)
    while True:
        score = run.compare()
        run.step()
        yield run.volume(), score


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("backend", ["cpu64", pytest.param("vulkan", marks=pytest.mark.vulkan)])
def test_a_step_of_sirt_is_that_of_plain_numpy(started, rng, backend, positive):
    """Odd sizes, views held out, a volume to start from that is negative in places."""
    shape, angles = (7, 13, 22), np.array([-60.0, -25.0, 0.0, 20.0, 55.0])
    views, grid, unused = views_of(rng.normal(size=(5, 13, 22)), angles), Grid(shape, APIX), [1, 3]
    geometry = TiltGeometry(angles, (13, 22), shape)
    A = np.array([geometry.project(e.reshape(shape))[:, 0].ravel() for e in one_row_at_a_time(shape)]).T
    b = views.images - (views.images.mean(axis=(1, 2), keepdims=True) if positive else 0)
    used = np.isin(np.arange(5), unused, invert=True)[:, None] * np.ones(22)
    R = used.ravel() / np.maximum(A.sum(axis=1), 0.3 * 7)
    C = 1 / np.maximum(A.T @ used.ravel(), 1)
    x = rng.normal(size=shape)
    run = Sirt(views, grid, positive, unused=unused, start=x / APIX)
    for _ in range(3):
        of_rows = x.transpose(1, 0, 2).reshape(13, -1)  # every row along y is a problem of its own
        difference = b.transpose(1, 0, 2).reshape(13, -1) - of_rows @ A.T
        score = difference.reshape(13, 5, 22)[:, unused].var(axis=(0, 2)).mean()
        assert run.compare() == pytest.approx(score, rel=1e-5)
        of_rows = of_rows + C * ((R * difference) @ A)
        x = of_rows.reshape(13, 7, 22).transpose(1, 0, 2)
        x = np.maximum(x, 0) if positive else x
        run.step()
        np.testing.assert_allclose(run.volume() * APIX, x, atol=1e-5 * np.abs(x).max())


def one_row_at_a_time(shape):
    """Volumes with one voxel of row y = 0 each."""
    nz, _, nx = shape
    for voxel in np.eye(nz * nx):
        volume = np.zeros(shape)
        volume[:, 0] = voxel.reshape(nz, nx)
        yield volume


@pytest.mark.parametrize("positive", [False, True])
def test_the_residual_of_sirt_decreases_at_every_step(cpu32, phantom, positive):
    views, _, grid = phantom
    geometry = TiltGeometry(views.tilt_angles, views.image_shape, grid.shape)
    steps = sirt_steps(views, grid, positive)
    norm = lambda images: np.linalg.norm(images - images.mean(axis=(1, 2), keepdims=True))  # noqa: E731
    residuals = [norm(views.images)]
    for _ in range(12):
        volume, score = next(steps)
        assert np.isnan(score), "no view was held out"
        residuals.append(norm(views.images - APIX * geometry.project(volume)))
    assert (np.diff(residuals) < 0).all()
    assert residuals[-1] < 0.35 * residuals[0]


def test_positivity_is_what_it_says(cpu32, phantom):
    views, truth, grid = phantom
    noisy = views_of(views.images + np.random.default_rng(0).normal(size=views.images.shape), ANGLES)
    positive, free = (sirt(noisy, grid, 8, positive=p) for p in (True, False))
    assert positive.min() == 0 and free.min() < -0.05 * free.max()
    cc = [np.corrcoef(v.ravel(), truth.ravel())[0, 1] for v in (positive, free)]
    assert cc[0] > cc[1]


def test_sirt_has_the_scale_of_the_object(cpu32):
    grid = Grid((41, 17, 41), APIX)
    scene = blobs([0, 0, 0], 4.0, masses=1000.0)
    images = draw(scene, tilt_rotation(ANGLES)[:, :2], np.zeros((21, 2)), (17, 41))
    truth = phantom_volume(scene, grid) / APIX
    for positive in (True, False):
        volume = sirt(views_of(images, ANGLES), grid, 40, positive)
        assert volume[20, 8, 20] / truth[20, 8, 20] == pytest.approx(1, rel=0.2)


def test_held_out_views_do_nothing_but_score(cpu32, phantom):
    views, _, grid = phantom
    held_out = [4, 13]
    changed = views.images.copy()
    changed[held_out] = np.random.default_rng(0).normal(size=changed[held_out].shape) * 100
    runs = [sirt_steps(v, grid, unused=held_out) for v in (views, views_of(changed, ANGLES))]
    for _ in range(4):
        (a, score_a), (b, score_b) = (next(run) for run in runs)
        np.testing.assert_array_equal(a, b)
    assert score_b > 100 * score_a
    without = sirt(views.subset(np.setdiff1d(np.arange(21), held_out)), grid, 4)
    np.testing.assert_allclose(a, without, atol=1e-4 * a.max())


def test_the_score_is_the_variance_of_the_held_out_residual_before_the_step(cpu32, phantom):
    views, _, grid = phantom
    geometry = TiltGeometry(views.tilt_angles, views.image_shape, grid.shape)
    steps = sirt_steps(views, grid, unused=[4, 13])
    volume, first = next(steps)
    assert first == pytest.approx(views.images[[4, 13]].var(axis=(1, 2)).mean(), rel=1e-5)
    left = views.images - APIX * geometry.project(volume)
    assert next(steps)[1] == pytest.approx(left[[4, 13]].var(axis=(1, 2)).mean(), rel=1e-4)


def test_a_seed_is_the_volume_that_scored_best_and_not_the_one_after(cpu32, phantom):
    """The score of a step is that of the volume before it; the same number of steps gives the same volume."""
    views, _, grid = phantom
    noisy = views_of(views.images + np.random.default_rng(0).normal(0, 3, views.images.shape), ANGLES)
    stopped = make_seed(noisy, grid, noisy.images, [4, 13])
    assert SIRT_STEPS[0] < stopped.iterations < SIRT_STEPS[1], "the score decided"
    told = make_seed(noisy, grid, noisy.images, [4, 13], stopped.iterations)
    np.testing.assert_array_equal(stopped.volume, told.volume)
    assert told.iterations == stopped.iterations


# --- alignment --------------------------------------------------------------------------------------------


def alignment(rng, n, magnification):
    """(V, 2, 3) IMOD transforms: a tilt axis near 10 degrees, shifts of several pixels."""
    xf = np.empty((n, 2, 3))
    for i, angle in enumerate(np.radians(10 + rng.normal(0, 0.5, n))):
        c, s = np.cos(angle), np.sin(angle)
        xf[i, :, :2] = magnification * np.array([[c, s], [-s, c]])
    xf[:, :, 2] = rng.uniform(-4, 4, (n, 2))
    return xf


@pytest.mark.parametrize("magnification", [1.0, 1.04])
@pytest.mark.parametrize("shape", [(64, 72), (63, 71)])
def test_alignment_undoes_rotation_shift_and_magnification(cpu32, rng, shape, magnification):
    scene = blobs(rng.uniform(-12, 12, (6, 3)) * [1, 1, 0.5], 2.0, rng.uniform(50, 100, 6))
    angles = np.array([-50.0, -15.0, 0.0, 35.0])
    projections, shifts = imod_views_geometry(angles, 0.0, alignment(rng, 4, magnification))
    aligned = align_images(views_of(draw(scene, projections, shifts, shape), angles, projections, shifts))
    expected = draw(scene, tilt_rotation(angles)[:, :2], np.zeros((4, 2)), shape) / magnification**-2
    found = [ndimage.center_of_mass(image) for image in aligned]
    np.testing.assert_allclose(found, [ndimage.center_of_mass(image) for image in expected], atol=0.02)
    assert np.abs(aligned - expected).max() < 0.01 * expected.max()


@pytest.mark.parametrize("magnification", [1.0, 1.04])
def test_aligned_images_go_back_to_where_the_views_show_them(cpu32, rng, magnification):
    scene, shape = blobs(rng.uniform(-12, 12, (6, 3)) * [1, 1, 0.5], 2.0, rng.uniform(50, 100, 6)), (63, 72)
    angles = np.array([-50.0, -15.0, 0.0, 35.0])
    projections, shifts = imod_views_geometry(angles, 0.0, alignment(rng, 4, magnification))
    raw = draw(scene, projections, shifts, shape)
    aligned = draw(scene, tilt_rotation(angles)[:, :2], np.zeros((4, 2)), shape) / magnification**-2
    back = unalign_images(views_of(raw, angles, projections, shifts), aligned, [1, 3])
    shown = np.isfinite(back)
    assert 0.8 < shown.mean() < 1 and not shown[:, [0, -1], [0, -1]].all(), "the corners are turned out of the image"
    assert np.abs(back - raw[[1, 3]])[shown].max() < 0.01 * raw.max()


def test_aligned_images_are_not_touched(cpu32, phantom):
    views, _, _ = phantom
    np.testing.assert_array_equal(align_images(views), views.images)
    np.testing.assert_array_equal(unalign_images(views, views.images, [2, 0]), views.images[[2, 0]])


def test_a_shift_of_whole_pixels_moves_the_image_by_that(cpu32, rng):
    image = ndimage.gaussian_filter(rng.normal(size=(1, 33, 41)), (0, 2, 2)).astype(np.float32)
    views = views_of(image, [0.0], shifts=np.array([[3.0, -2.0]]))  # the content lies 3 right, 2 down
    aligned = align_images(views)
    np.testing.assert_allclose(aligned[0, 2:, :-3], image[0, :-2, 3:], atol=1e-5)


@pytest.mark.parametrize(("xtilt", "warned"), [(0.0, False), (0.3, False), (4.0, True)])
def test_a_tilt_about_x_is_neglected_with_a_warning(cpu32, xtilt, warned):
    angles = np.array([-40.0, 0.0, 40.0])
    views = views_of(np.zeros((3, 16, 16), np.float32), angles, tilt_rotation(angles, 0.0, xtilt)[:, :2])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        align_images(views)
    assert [w.category for w in heard] == [InputWarning] * warned
    if warned:
        assert "tilt about x of up to 4.0 degrees" in str(heard[0].message)


def test_a_tilt_axis_out_of_the_plane_is_noticed_whatever_the_angle(cpu32):
    turn = Rotation.from_euler("x", 10, degrees=True).as_matrix()
    views = views_of(np.zeros((1, 16, 16), np.float32), [30.0], (tilt_rotation([30.0]) @ turn)[:, :2])
    with pytest.warns(InputWarning, match="neglect the tilt about x"):
        align_images(views)
