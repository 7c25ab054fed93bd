"""The two objectives of particles: losses against sums over images in NumPy, gradients, noise, the held-out score."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from gradients import assert_grad_close, central_difference
from scenes import load_scalars, random_cloud
from test_gridding import ONE, random_ctf, random_views

from taigs import runtime
from taigs.accumulate import accumulate
from taigs.device import raw_parameters, read_scalars
from taigs.journal import Journal
from taigs.particle_objective import BATCH, IMAGE_PIXELS, ParticleObjective, particle_renderer
from taigs.progress import NoProgress
from taigs.render import cloud_gradient
from taigs.views import Grid
from taigs.volume_objective import NOISE_RANGE, VolumeData, VolumeObjective, ring_correlation

N = 21
PIXEL_SIZE = 2.3
BATCH_OF_TEST = 24
ROWS = {"positions": slice(0, 3), "log_sigmas": slice(3, 6), "quaternions": slice(6, 10), "raw_masses": slice(10, 11)}
SHELLS = N // 2 + 1
KINDS = ["raw", "premultiplied"]


def cloud_of(rng, n=6, sigmas=(1.2, 2.2)):
    """Near the centre of the box, in Angstrom of this module's pixels: the wider, the coarser the interpolation."""
    cloud = random_cloud(rng, n, (N / 4, N / 4, N / 4), sigmas=sigmas)
    scale = PIXEL_SIZE / 1.3
    return replace(cloud, positions=scale * cloud.positions, log_sigmas=cloud.log_sigmas + np.log(scale))


def moved(cloud, rng, pixels):
    """The cloud with its Gaussians moved at random."""
    return replace(cloud, positions=cloud.positions + rng.normal(0, pixels * PIXEL_SIZE, cloud.positions.shape))


def mild_ctf(rng, n_views):
    """Zeros at all frequencies, but no envelope that leaves nothing."""
    return random_ctf(rng, n_views, dose=0.0, bfactor=20.0, voltage_kv=300)


def views_of(cloud, rng, n_views=BATCH_OF_TEST, noise=0.0, n=N, **given):
    """Views of a cloud in mass per square Angstrom, with noise of that many standard deviations of the images."""
    views = random_views(
        rng, n, n_views, **{"images": np.zeros((n_views, n, n)), "ctf": mild_ctf(rng, n_views)} | given
    )
    images = reference.particles(cloud, views.projections, views.shifts, views.ctf, n, PIXEL_SIZE) / PIXEL_SIZE**2
    return replace(views, images=images + rng.normal(0, noise * images.std(), images.shape))


def premultiplied(views):
    """The same images, times their CTF."""
    ky, kx = reference.frequencies(views.image_shape[0]) / (views.image_shape[0] * np.array(PIXEL_SIZE))
    images = np.fft.ifft2(np.fft.fft2(views.images) * views.ctf(kx, ky)).real
    return replace(views, images=images, premultiplied=True)


def data_of(views, noise=None):
    data = VolumeData.from_sums(accumulate(views, np.arange(len(views)), ONE, NoProgress(), Journal(), "sums"))
    return data if noise is None else replace(data, noise=noise)


def volume_of(cloud, n=N):
    """(n, n, n) in image units per voxel."""
    return reference.voxelize(cloud, Grid((n,) * 3, PIXEL_SIZE, (n // 2,) * 3)) * PIXEL_SIZE


def projections_of(cloud, views, cutoff=None):
    """(V, n, n) whole transforms of the cloud's projections in the views' directions, centre at index 0, no CTF."""
    n = views.image_shape[0]
    centre, matrices = np.full(2, n // 2), views.projections / PIXEL_SIZE
    images = np.stack([reference.image(cloud, M, centre, (n, n), cutoff) for M in matrices]) / PIXEL_SIZE**2
    return np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2)))


def slices_of(views):
    return reference.slices(views.images, views.shifts, views.ctf, views.weights, views.pixel_size, views.premultiplied)


def rings(n=N):
    ky, kx = reference.frequencies(n)
    return np.rint(np.hypot(kx, ky)).astype(int)


def ring_sums(values, n=N):
    """(n // 2 + 1,) sums over rings of (V, n, n)."""
    return np.bincount(rings(n).ravel(), values.sum(axis=0).ravel())[: n // 2 + 1]


def loss_of(cloud, views, noise, cutoff=None):
    """1/2 sum w |F - CTF P|^2 / noise over all coefficients of all images, less its constant; per n^3."""
    projections = projections_of(cloud, views, cutoff)
    data, weight = slices_of(views)
    per_noise = np.append(1 / noise, np.zeros(N))[rings()]
    terms = 0.5 * weight * np.abs(projections) ** 2 - (data.conj() * projections).real
    return (per_noise * terms).sum() / N**3


@pytest.fixture
def objective(cpu64, renderer, renderers):
    """A VolumeObjective on a Renderer for 24 images; they compile once."""
    key = ("volume objective", runtime.generation())
    if key not in renderers:
        renderers[key] = VolumeObjective(renderer(n_views=BATCH_OF_TEST, shape=(N, N)), N, PIXEL_SIZE)
    return renderers[key]


def raw_gradient(gaussians):
    """dict of gradients left on the device, those of masses with respect to raw ones."""
    found = cloud_gradient(gaussians.cloud, gaussians.n)
    found["raw_masses"] = read_scalars(gaussians.cloud.v_raw, gaussians.n)[10:11].T.astype(np.float64)
    return found


def assert_gradient_is_that_of_the_loss(objective, cloud):
    gaussians = objective.gaussians
    gaussians.set_cloud(cloud)
    raw = raw_parameters(cloud, gaussians.cloud.unit[None])

    def f(values):
        load_scalars(gaussians.cloud.raw, values)
        return objective.loss_and_gradient()

    expected = central_difference(f, raw)
    f(raw)
    actual = raw_gradient(gaussians)
    for name, which in ROWS.items():
        assert_grad_close(actual[name], expected[which].T, 2e-5, 1e-3, name)


NOISE = np.linspace(1.5, 1.0, SHELLS) ** 2


# --- the volume objective ---------------------------------------------------------------------------------


def test_the_gradient_of_the_volume_objective_is_that_of_its_loss(objective, rng):
    views = views_of(cloud_of(rng), rng, noise=0.5)
    objective.set_data(data_of(views, NOISE))
    assert_gradient_is_that_of_the_loss(objective, cloud_of(rng))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_the_volume_objective_is_the_sum_over_all_images(objective, rng, kind):
    """To interpolation, which is off by a share of the terms and not of their difference."""
    truth, other = cloud_of(rng), cloud_of(rng)
    views = views_of(truth, rng, n_views=150, noise=0.5)
    views = premultiplied(views) if kind == "premultiplied" else views
    objective.set_data(data_of(views, NOISE))
    for cloud in (truth, other):
        objective.gaussians.set_cloud(cloud)
        tolerance = 0.01 * abs(loss_of(truth, views, NOISE))
        assert objective.loss_and_gradient() == pytest.approx(loss_of(cloud, views, NOISE), abs=tolerance)


def test_the_best_scale_is_where_the_loss_is_least(objective, rng):
    views = views_of(cloud_of(rng), rng, noise=1.0)
    objective.set_data(data_of(views, NOISE))
    cloud = cloud_of(rng)
    best = objective.best_scale(cloud)

    def loss(factor):
        objective.gaussians.set_cloud(replace(cloud, masses=factor * best * cloud.masses))
        return objective.loss_and_gradient()

    below, least, above = (loss(factor) for factor in (0.99, 1.0, 1.01))
    assert below > least < above
    assert below - least == pytest.approx(above - least, rel=1e-3), "a parabola about its vertex"


def test_the_best_scale_of_the_truth_is_one(objective, rng):
    truth = cloud_of(rng)
    objective.set_data(data_of(views_of(truth, rng, n_views=150), NOISE))
    assert objective.best_scale(truth) == pytest.approx(1, abs=0.01)
    assert objective.best_scale(replace(truth, masses=0.3 * truth.masses)) == pytest.approx(1 / 0.3, rel=0.01)


def test_the_volume_is_that_of_the_cloud_in_image_units(objective, rng):
    cloud = cloud_of(rng)
    objective.gaussians.set_cloud(cloud)
    volume = objective.volume()
    assert np.abs(volume - volume_of(cloud)).max() < 1e-3 * volume.max()
    along_z = reference.image(cloud, np.eye(3)[:2] / PIXEL_SIZE, np.full(2, N // 2), (N, N)) / PIXEL_SIZE**2
    assert np.abs(volume.sum(axis=0) - along_z).max() < 0.01 * along_z.max()


# --- noise ------------------------------------------------------------------------------------------------


def coloured(rng, amplitude, n_views, n):
    """(V, n, n) noise whose coefficients in ring r have the variance amplitude[r]^2 n^2."""
    table = np.append(amplitude, np.full(n, amplitude[-1]))
    return np.fft.ifft2(np.fft.fft2(rng.normal(size=(n_views, n, n))) * table[rings(n)]).real


COLOURS = {"white": np.full(13, 1.7), "coloured": np.linspace(3, 0.5, 13)}
NOISY = 24  # pixels of the images of noise
# Where an image was multiplied by its CTF, what little is near its zeros counts less than it should: noise is a
# tenth too low.
TOLERANCE = {"raw": 0.04, "premultiplied": 0.13}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_noise_of_images_without_signal_is_their_power(cpu32, rng, kind, colour):
    images = coloured(rng, COLOURS[colour], 1000, NOISY)
    views = random_views(rng, NOISY, 1000, ctf=mild_ctf(rng, 1000), images=images)
    data = data_of(premultiplied(views) if kind == "premultiplied" else views)
    data.estimate_noise(np.zeros((NOISY,) * 3))
    assert data.noise[0] == data.noise[1]
    found = data.noise / NOISY**2 / COLOURS[colour] ** 2
    np.testing.assert_allclose(found[3:], 1, atol=TOLERANCE[kind])
    np.testing.assert_allclose(found[1:3], 1, atol=2 * TOLERANCE[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_noise_is_what_the_volume_does_not_explain(cpu32, rng, kind, colour):
    """The signal is known to a fifth: the number of coefficients in a shell and in a ring goes up and down."""
    cloud = cloud_of(rng, sigmas=(0.9, 1.1))
    views = views_of(cloud, rng, n_views=1000, n=NOISY)
    scale = 0.8 / views.images.std()
    views = replace(views, images=scale * views.images + coloured(rng, COLOURS[colour], 1000, NOISY))
    data = data_of(premultiplied(views) if kind == "premultiplied" else views)
    before = data.noise.copy()
    data.estimate_noise(scale * volume_of(cloud, NOISY))
    found, before = (noise / NOISY**2 / COLOURS[colour] ** 2 for noise in (data.noise, before))
    assert before[3] > 1.2 > 1.1 > before[-1], "there is signal to explain"
    assert np.all(np.abs(found - 1)[3:] < TOLERANCE[kind] + 0.2 * np.maximum(before - 1, 0)[3:])
    assert found[3:6].mean() == pytest.approx(1, abs=0.1 + TOLERANCE[kind])


def test_the_noise_stays_within_its_share_of_the_power(cpu32, rng):
    """A model that explains all, and one that makes everything worse."""
    cloud = cloud_of(rng)
    data = data_of(views_of(cloud, rng, n_views=100))
    power = data.noise.copy()
    explained = replace(data)
    explained.estimate_noise(volume_of(cloud))
    np.testing.assert_allclose(explained.noise[3:6], NOISE_RANGE[0] * power[3:6])
    worse = replace(data)
    worse.estimate_noise(-volume_of(cloud))
    np.testing.assert_allclose(worse.noise[1:6], NOISE_RANGE[1] * power[1:6])
    assert worse.noise[0] == worse.noise[1] and explained.noise[0] == explained.noise[1]


# --- the held-out score -----------------------------------------------------------------------------------


def correlation_of(cloud, views):
    """(SHELLS,) Fourier ring correlation between images and projections with their CTF."""
    P = projections_of(cloud, views)
    data, weight = slices_of(views)
    square = ring_sums(weight * np.abs(P) ** 2)
    power = ring_sums(views.weights[:, None, None] * np.abs(np.fft.fft2(views.images)) ** 2)
    return ring_sums((data.conj() * P).real) / np.sqrt(square * power)


def test_the_ring_correlation_is_that_of_images_and_projections(cpu32, rng):
    """To the number of coefficients that happen to lie in a shell, in a ring: they differ by a tenth in the lowest."""
    truth = cloud_of(rng, 30, sigmas=(0.6, 0.7))
    views = views_of(truth, rng, n_views=300, noise=1.0, ctf=None)
    cloud = moved(truth, rng, 0.4)
    expected = correlation_of(cloud, views)[1:]
    assert expected[0] > 0.7 > 0.3 > expected[-2], "some rings agree and others less"
    found = ring_correlation(data_of(views), volume_of(cloud))[1:]
    np.testing.assert_allclose(found, expected, rtol=0.15, atol=0.03)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.015)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ring_correlation_with_ctf_is_that_of_images_and_projections(cpu32, rng, kind):
    """The lowest shells differ, since interpolation mixes them, but the mean, which is the score, does not."""
    truth = cloud_of(rng)
    views = views_of(truth, rng, n_views=300, noise=2.0)
    cloud = moved(truth, rng, 0.3)
    expected = correlation_of(cloud, views)
    found = ring_correlation(data_of(premultiplied(views) if kind == "premultiplied" else views), volume_of(cloud))
    assert found.shape == (SHELLS,)
    assert expected[2] > 0.4 > 0.1 > expected[-2], "some rings agree and others do not"
    np.testing.assert_allclose(found[4:], expected[4:], atol=0.04)
    assert found[1:].mean() == pytest.approx(expected[1:].mean(), abs=0.01 if kind == "raw" else 0.02)


def test_the_ring_correlation_does_not_depend_on_the_scale_of_a_volume_or_of_its_shells(cpu32, rng):
    cloud = cloud_of(rng)
    data = data_of(views_of(cloud, rng, n_views=100, noise=1.0))
    volume = volume_of(cloud)
    expected = ring_correlation(data, volume)
    np.testing.assert_allclose(ring_correlation(data, 7 * volume), expected, rtol=1e-6)
    np.testing.assert_allclose(ring_correlation(data, -volume), -expected, rtol=1e-6)
    k = np.rint(np.sqrt(sum(k**2 for k in np.meshgrid(*[np.fft.fftfreq(N, 1 / N)] * 3))))
    damped = np.fft.fftshift(np.fft.ifftn(np.fft.fftn(np.fft.ifftshift(volume)) * np.exp(-0.1 * k)).real)
    np.testing.assert_allclose(ring_correlation(data, damped), expected, rtol=1e-5)


def test_the_ring_correlation_with_nothing_is_zero(cpu32, rng):
    data = data_of(views_of(cloud_of(rng), rng))
    assert not ring_correlation(data, np.zeros((N,) * 3)).any()


def test_the_held_out_score_is_one_less_the_mean_correlation_with_the_held_out_images(objective, rng):
    truth = cloud_of(rng)
    held_out = data_of(views_of(truth, rng, noise=1.0))
    objective.set_data(data_of(views_of(cloud_of(rng), rng)), held_out)
    scores = []
    for cloud in (truth, replace(truth, masses=5 * truth.masses), cloud_of(rng)):
        objective.gaussians.set_cloud(cloud)
        scores.append(objective.held_out_score())
        expected = 1 - ring_correlation(held_out, objective.volume())[1:].mean()
        assert scores[-1] == pytest.approx(expected, rel=1e-12)
    assert scores[1] == pytest.approx(scores[0], rel=1e-9)
    assert scores[0] < scores[2]


# --- the view objective -----------------------------------------------------------------------------------


def particle_objective(objective, views, noise=NOISE, seed=0, batch=None):
    found = ParticleObjective(objective.gaussians, views, objective)
    found.batch = batch or found.batch
    found.set_views(np.arange(len(views)), noise, np.random.default_rng(seed))
    return found


@pytest.mark.parametrize("kind", ["raw", "premultiplied", "no CTF"])
def test_the_loss_of_the_view_objective_is_the_sum_over_its_images(objective, rng, kind):
    truth, cloud = cloud_of(rng), cloud_of(rng)
    views = views_of(truth, rng, noise=0.5, **{"ctf": None} if kind == "no CTF" else {})
    views = premultiplied(views) if kind == "premultiplied" else views
    objective.gaussians.set_cloud(cloud)
    expected = loss_of(cloud, views, NOISE, cutoff=4.0)
    assert particle_objective(objective, views).loss_and_gradient() == pytest.approx(expected, rel=1e-9)


def test_the_loss_of_a_mini_batch_is_scaled_to_all_views(objective, rng):
    views, cloud = views_of(cloud_of(rng), rng, n_views=7, noise=0.5), cloud_of(rng)
    objective.gaussians.set_cloud(cloud)
    batches = particle_objective(objective, views, batch=3)
    for _ in range(4):
        picked = []
        batches.views = Watched(views, picked)
        loss = batches.loss_and_gradient()
        assert loss == pytest.approx(7 / 3 * loss_of(cloud, views.subset(picked), NOISE, cutoff=4.0), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_view_objective_is_that_of_its_loss(objective, rng, kind):
    views = views_of(cloud_of(rng), rng, n_views=5, noise=0.5)
    views = premultiplied(views) if kind == "premultiplied" else views
    assert_gradient_is_that_of_the_loss(particle_objective(objective, views), cloud_of(rng))


def test_both_objectives_pull_alike(objective, rng):
    """On data without noise, with all views in one batch; Gaussians are wide enough for any sampling."""
    truth = cloud_of(rng, 30, sigmas=(1.2, 2.0))
    views = views_of(truth, rng)
    off = replace(
        moved(truth, rng, 0.5),
        log_sigmas=truth.log_sigmas + rng.normal(0, 0.1, truth.log_sigmas.shape),
        quaternions=truth.quaternions + rng.normal(0, 0.1, truth.quaternions.shape),
        masses=truth.masses * rng.uniform(0.4, 1.0, len(truth)),
    )
    objective.set_data(data_of(views, NOISE))
    found = []
    for one in (objective, particle_objective(objective, views)):
        objective.gaussians.set_cloud(off)
        loss = one.loss_and_gradient()
        found.append((loss, raw_gradient(objective.gaussians)))
    (loss_a, a), (loss_b, b) = found
    assert loss_a == pytest.approx(loss_b, rel=0.02)
    for name in ROWS:
        x, y = a[name].ravel(), b[name].ravel()
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert cosine > 0.99, name
        assert np.linalg.norm(x) == pytest.approx(np.linalg.norm(y), rel=0.03), name


class Watched:
    """Views that write down which of them are taken."""

    def __init__(self, views, seen):
        self.views, self.seen = views, seen

    def subset(self, indices):
        self.seen.extend(int(i) for i in indices)
        return self.views.subset(indices)


def test_batches_visit_every_view_once_before_any_twice(objective, rng):
    views, seen = views_of(cloud_of(rng), rng, n_views=11), []
    batches = particle_objective(objective, views, batch=4)
    batches.set_views(np.array([9, 0, 2, 3, 5, 7, 8]), NOISE, np.random.default_rng(0))
    batches.views = Watched(views, seen)
    objective.gaussians.set_cloud(cloud_of(rng))
    for _ in range(7):
        batches.loss_and_gradient()
    rounds = np.reshape(seen, (4, 7))
    for one in rounds:
        assert sorted(one) == [0, 2, 3, 5, 7, 8, 9]
    assert len({tuple(one) for one in rounds}) == 4, "every round in an order of its own"


def test_the_renderer_of_particles_has_room_for_one_batch(cpu64):
    small, large = (particle_renderer(10, n).views.table.shape[0] for n in (8, 256))
    assert small == BATCH and large == IMAGE_PIXELS // 256**2 < BATCH
