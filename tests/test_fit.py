"""Seeds, objective and loop: sums against NumPy, gradients against differences, and that a fit helps."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from gradients import assert_grad_close, central_difference
from scenes import PIXEL_SIZE, gradient, load_scalars, random_cloud

from taigs.cloud import GaussianCloud
from taigs.device import raw_parameters, read_scalars
from taigs.errors import InputError, NumericalError
from taigs.fit import Fit
from taigs.geometry import tilt_rotation
from taigs.morton import morton_order
from taigs.objectives import GAIN_RANGE, ViewObjective
from taigs.progress import NoProgress
from taigs.schedule import FitConfig, Stage
from taigs.seeds import cloud_from_volume
from taigs.tilt import blurred
from taigs.views import Grid, Views

SHAPE = (33, 45)
BOX = np.array([1e3, 1e3, 1e3])


def views_of(images, weights=None):
    n = len(images)
    return Views(
        images=images,
        projections=tilt_rotation(np.linspace(-60, 60, n))[:, :2],
        shifts=np.zeros((n, 2)),
        pixel_size=PIXEL_SIZE,
        centre=np.array([(images.shape[2] - 1) / 2, (images.shape[1] - 1) / 2]),
        weights=np.ones(n) if weights is None else weights,
    )


def simulate(cloud, n_views, shape=SHAPE):
    """Views of a cloud by the reference, in mass per square Angstrom."""
    views = views_of(np.zeros((n_views, *shape)))
    matrices = views.projections / PIXEL_SIZE
    images = [reference.image(cloud, M, views.centre, shape) for M in matrices]
    return replace(views, images=np.stack(images) / PIXEL_SIZE**2)


def objective_of(renderer, views, train, held_out=(), signed=False, seed=0):
    return ViewObjective(renderer, views, train, held_out, 3, np.random.default_rng(seed), signed)


def models_of(objective, views):
    """(V, H, W) images of the cloud in the renderer, mass per square Angstrom."""
    objective.draw(np.arange(len(views)), compare=False)
    return objective.renderer.get_images().astype(np.float64) / views.pixel_size**2


def score(models, images, gains, weights):
    """The objective's definition: least-squares level of each view, weighted mean square per pixel."""
    d = gains[:, None, None] * models - images
    return (weights * d.var(axis=(1, 2))).sum() / weights.sum()


# --- seeds ------------------------------------------------------------------------------------------------


@pytest.fixture
def volume(rng):
    return rng.random((7, 9, 11)) ** 3


@pytest.mark.parametrize("n", [1, 65, 2000])
def test_the_masses_of_seeds_sum_to_the_volumes(volume, rng, n):
    grid = Grid(volume.shape, 2.5)
    cloud = cloud_from_volume(volume, grid, n, 3.0, rng)
    assert len(cloud) == n
    assert cloud.masses.sum() == pytest.approx(volume.sum() * 2.5**3, rel=1e-12)
    np.testing.assert_allclose(cloud.covariances(), np.tile(9.0 * np.eye(3), (n, 1, 1)), atol=1e-12)


def test_the_number_of_seeds_is_proportional_to_mass_to_within_one(volume, rng):
    """Systematic sampling: any run of voxels in memory, planes for one, gets its share."""
    cloud = cloud_from_volume(volume, Grid(volume.shape, 2.5), 200, 1.0, rng)
    z, y, x = np.rint(cloud.positions[:, ::-1] / 2.5 + np.array([3, 4, 5])).astype(int).T
    counts = np.zeros(volume.shape)
    np.add.at(counts, (z, y, x), 1)
    expected = 200 * volume / volume.sum()
    assert np.abs(counts.sum(axis=(1, 2)) - expected.sum(axis=(1, 2))).max() < 1
    assert np.abs(counts.sum(axis=2) - expected.sum(axis=2)).max() < 1
    assert np.abs(counts - expected).max() < 1


def test_seeds_lie_inside_their_voxel_and_know_the_grids_centre(rng):
    volume = np.zeros((5, 6, 7))
    volume[1, 4, 2] = 1
    for centre in (None, (3, 3, 2)):
        grid = Grid(volume.shape, 2.0, centre)
        voxel = cloud_from_volume(volume, grid, 500, 1.0, rng).positions / 2.0 + grid.centre
        assert np.abs(voxel - [2, 4, 1]).max() <= 0.5
        assert np.ptp(voxel, axis=0).min() > 0.9, "spread over the voxel"


def test_negative_density_seeds_signed_clouds_only(volume, rng):
    volume[:3] *= -1
    grid = Grid(volume.shape, 1.0)
    positive = cloud_from_volume(volume, grid, 300, 1.0, rng)
    assert positive.masses.sum() == pytest.approx(volume[3:].sum())
    assert (positive.positions[:, 2] > -0.51).all()
    signed = cloud_from_volume(volume, grid, 300, 1.0, rng, signed=True)
    assert np.abs(signed.masses).sum() == pytest.approx(np.abs(volume).sum())
    np.testing.assert_array_equal(signed.masses < 0, signed.positions[:, 2] < -0.5)


@pytest.mark.parametrize(("value", "n"), [(0.0, 10), (-1.0, 10), (1.0, 0)])
def test_nothing_to_sample_is_refused(rng, value, n):
    with pytest.raises(InputError, match="no density to start from: 0 of 60 voxels" if n else "0 seeds"):
        cloud_from_volume(np.full((3, 4, 5), value), Grid((3, 4, 5), 1.0), n, 1.0, rng)


# --- objective --------------------------------------------------------------------------------------------


@pytest.fixture
def problem(cpu64, renderer, rng):
    """(objective of three views with gains, its views, the cloud in the renderer); by sign."""

    def make(signed, noise=0.02):
        cloud = random_cloud(rng, 7, (30, 20, 20), sigmas=(1.5, 3.0), signed=signed)
        views = simulate(cloud, 3)
        gains = np.array([0.8, 1.0, 1.3])
        images = gains[:, None, None] * views.images + np.array([0.3, -0.2, 0.5])[:, None, None]
        views = replace(views, images=images + rng.normal(0, noise, images.shape), weights=np.array([0.5, 1.0, 2.0]))
        objective = objective_of(renderer(signed=signed), views, [0, 1, 2], signed=signed)
        objective.renderer.set_cloud(cloud)
        return objective, views, cloud

    return make


def freeze_gains(objective, gains):
    objective.gains = np.array(gains)
    objective._solve_gains = lambda *_: None


@pytest.mark.parametrize("signed", [False, True])
def test_the_loss_is_the_weighted_mean_square_with_the_level_above_the_best(problem, signed):
    objective, views, _ = problem(signed)
    freeze_gains(objective, [0.9, 1.1, 1.2])
    expected = score(models_of(objective, views), views.images, objective.gains, views.weights)
    assert objective.sparsity == 0 if signed else objective.sparsity > 0
    assert objective.loss_and_gradient() == pytest.approx(expected + objective.sparsity**2, rel=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_the_gradient_is_that_of_the_loss_plus_the_price_of_mass(problem, signed):
    """The level o is solved for, so the loss F(theta, o(theta)) has dF/dtheta at fixed o as its gradient: exact at
    the best level, where dF/do = 0. The level is `sparsity` above it, where dF/do = w n s for each view; the
    objective leaves that out, so its gradient is of F + sum_v w s gain sum(model), an L1 penalty on mass.
    """
    objective, views, cloud = problem(signed)
    freeze_gains(objective, [0.9, 1.1, 1.2])
    r = objective.renderer
    raw = raw_parameters(cloud, r.cloud.unit[None])
    weights = views.weights / views.weights.sum()

    def f(values):
        load_scalars(r.cloud.raw, values)
        models = models_of(objective, views)
        least = score(models, views.images, objective.gains, views.weights) * models[0].size / 2
        mass = (weights * objective.gains * models.sum(axis=(1, 2))).sum()
        return least + objective.sparsity * mass

    expected = central_difference(f, raw)
    f(raw)
    objective.loss_and_gradient()
    actual = gradient(r)
    rows = {"positions": slice(0, 3), "log_sigmas": slice(3, 6), "quaternions": slice(6, 10), "raw_masses": 10}
    for name, which in rows.items():
        assert_grad_close(actual[name], expected[which].T, 2e-5, 1e-3, name)


def test_sparsity_presses_on_every_mass(problem):
    """Where the model equals the data but for the level, only the penalty is left, and it pulls masses down."""
    objective, views, _ = problem(False, noise=0.0)
    freeze_gains(objective, [0.8, 1.0, 1.3])
    objective.loss_and_gradient()
    pull = gradient(objective.renderer)["masses"]
    weights = views.weights / views.weights.sum()
    expected = objective.sparsity * (weights * objective.gains).sum() / PIXEL_SIZE**2
    assert (pull > 0.2 * expected).all() and (pull < 1.02 * expected).all()


def test_gains_of_the_views_are_recovered(problem):
    objective, *_ = problem(False, noise=0.001)
    for _ in range(20):
        objective.loss_and_gradient()
    np.testing.assert_allclose(objective.gains, [0.8, 1.0, 1.3], rtol=5e-3)


def test_gains_stay_in_their_range_and_survive_an_empty_model(problem):
    objective, views, _ = problem(False)
    wild = views.images.copy()
    wild[0] *= 10
    objective.views = replace(views, images=wild)
    for _ in range(20):
        objective.loss_and_gradient()
    assert objective.gains[0] == pytest.approx(GAIN_RANGE, rel=1e-3)
    empty = GaussianCloud(np.zeros((1, 3)), np.zeros((1, 3)), np.array([[1.0, 0, 0, 0]]), np.zeros(1))
    far = replace(empty, positions=np.array([[1e6, 0, 0]]), masses=np.ones(1))
    objective.renderer.set_cloud(far)
    assert np.isfinite(objective.loss_and_gradient()) and np.isfinite(objective.gains).all()


@pytest.mark.parametrize("signed", [False, True])
def test_the_held_out_score_is_that_of_numpy(problem, rng, signed):
    """Also over more views than fit in a batch."""
    objective, _, cloud = problem(signed)
    images = simulate(cloud, 7).images + rng.normal(0, 0.1, (7, *SHAPE))
    views = views_of(images, weights=rng.uniform(0.5, 2, 7))
    objective = objective_of(objective.renderer, views, [0, 6], [1, 2, 3, 4, 5], signed)
    objective.batch = 3
    matrices = views.projections / PIXEL_SIZE
    models = np.stack([reference.image(cloud, M, views.centre, SHAPE, 4.0) for M in matrices]) / PIXEL_SIZE**2
    expected = score(models[1:6], images[1:6], np.ones(5), views.weights[1:6])
    assert objective.blurred_score(0.0) == pytest.approx(expected, rel=1e-9)


def test_a_blurred_score_is_that_of_a_wider_cloud(problem):
    objective, views, cloud = problem(False)
    objective.held_out = np.arange(3)
    sharp, blurred_score = objective.blurred_score(0.0), objective.blurred_score(1.7)
    models = models_of(objective, views)
    assert objective.blurred_score(0.0) == sharp
    np.testing.assert_array_equal(models, models_of(objective, views), err_msg="the blur must not stay")
    objective.renderer.set_cloud(blurred(cloud, 1.7 * views.pixel_size))
    assert objective.blurred_score(0.0) == pytest.approx(blurred_score, rel=1e-9)
    assert abs(blurred_score / sharp - 1) > 0.01


def test_every_view_is_used_once_before_any_twice(cpu64, renderer, rng):
    views = views_of(rng.normal(size=(7, *SHAPE)))
    objective = objective_of(renderer(), views, [0, 1, 3, 4, 5, 6], [2])
    objective.renderer.set_cloud(random_cloud(rng, 5, (20, 20, 20)))
    seen = []
    draw = objective.draw
    objective.draw = lambda picked: seen.extend(picked) or draw(picked)
    for _ in range(4):
        objective.loss_and_gradient()
    assert sorted(seen[:6]) == sorted(seen[6:]) == [0, 1, 3, 4, 5, 6]


def test_binned_views_are_met_by_binned_models(cpu64, renderer, rng):
    """A model pixel is density at its centre, a binned one a mean over pixels: equal for what is smooth."""
    cloud = random_cloud(rng, 12, (30, 24, 20), sigmas=(3.0, 5.0))
    views = simulate(cloud, 3, (36, 48))
    renderer().set_cloud(cloud)
    unbinned = models_of(objective_of(renderer(), views, [0, 1, 2]), views)
    for factor in (2, 3):
        coarse = views.binned(factor)
        objective = objective_of(renderer(), coarse, [0, 1, 2])
        binned = unbinned.reshape(3, 36 // factor, factor, 48 // factor, factor).mean(axis=(2, 4))
        assert np.abs(models_of(objective, coarse) - binned).max() < 0.03 * binned.max()
        objective.sparsity = 0.0
        assert objective.loss_and_gradient() < 1e-3 * coarse.images.var()


# --- the loop ---------------------------------------------------------------------------------------------

STAGES = [Stage(1.0, 150, 30), Stage(0.7, 250, 20)]


def noisy_views(rng, cloud, n=9):
    clean = simulate(cloud, n)
    scale = 3.0 / clean.images.std()
    return replace(clean, images=(clean.images * scale + rng.normal(size=clean.images.shape)).astype(np.float32))


def first_cloud(rng, views, n=100):
    """Seeds that know the mass and the box only."""
    box = PIXEL_SIZE * np.array([30, 20, 20])
    total = (views.images - np.median(views.images)).sum(axis=(1, 2)).mean() * PIXEL_SIZE**2
    quaternions = np.tile([1.0, 0, 0, 0], (n, 1))
    log_sigmas = np.full((n, 3), np.log(2 * PIXEL_SIZE))
    return GaussianCloud(rng.uniform(-0.5, 0.5, (n, 3)) * box, log_sigmas, quaternions, np.full(n, total / n))


@pytest.fixture
def start(renderer, rng):
    """A function that prepares a fit of nine noisy views, view 4 held out: (fit, seeds)."""
    truth = random_cloud(rng, 12, (24, 14, 14), sigmas=(1.5, 3.0))
    views = noisy_views(rng, truth)
    seeds = first_cloud(rng, views)

    def prepare(changed=None):
        objective = objective_of(renderer(), changed or views, np.setdiff1d(np.arange(9), 4), [4])
        fit = Fit(objective, FitConfig(batch=3), BOX, NoProgress())
        fit.begin(seeds)
        return fit, seeds

    return prepare


def with_images(views, change):
    images = views.images.copy()
    change(images)
    return replace(views, images=images)


def state(fit):
    c = fit.gaussians.cloud
    return [read_scalars(a, c.capacity) for a in (c.raw, c.moment1, c.moment2)]


def assert_same_bits(a, b):
    for name in ("positions", "log_sigmas", "quaternions", "masses"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_a_fit_lowers_the_held_out_score_and_keeps_the_best_cloud(cpu32, start):
    fit, seeds = start()
    before = fit.objective.held_out_score()
    best = fit.run(seeds, STAGES)
    assert 0.9 < best.score < 0.5 * before, "noise alone is about 1"
    fit.gaussians.set_cloud(best.cloud)
    assert fit.objective.held_out_score() == pytest.approx(best.score, abs=2 * fit.objective.score_tolerance())
    scores = [row["held_out"] for row in fit.history]
    assert best.score == min(scores)
    assert [row["step"] for row in fit.history] == list(range(5, 5 * len(scores) + 1, 5))
    assert 1 <= len(best.stages) <= 2 and all(0 < s.steps <= 30 for s in best.stages)
    assert len(best.cloud) <= 250


def test_a_refit_takes_the_steps_it_is_told_and_ignores_the_held_out_view(cpu32, start):
    fit, seeds = start()
    changed = with_images(fit.objective.views, lambda images: images[4].fill(1e3))
    clouds = []
    for views in (None, changed):
        fit, seeds = start(views)
        clouds.append(fit.repeat(seeds, [replace(s, steps=6) for s in STAGES]))
        assert fit.at.step == 12
    assert len(clouds[0]) > len(seeds)
    assert_same_bits(*clouds)


def test_a_fit_does_not_remember_the_one_before_it(cpu32, start):
    """The refit on all views reuses device memory: moments and scores of the first fit are none of its business."""
    clouds = []
    for leftover in (0.0, 1e3):
        fit, seeds = start()
        c = fit.gaussians.cloud
        for field in (*c.moment1, *c.moment2, c.score):
            field.fill(leftover)
        clouds.append(fit.repeat(seeds, [replace(s, steps=6) for s in STAGES]))
    assert_same_bits(*clouds)


def test_a_stage_grows_the_cloud_to_its_size_and_conserves_the_mass(cpu32, start):
    fit, seeds = start()
    fit.repeat(seeds, [replace(STAGES[0], steps=4)])
    fit.objective.draw([0])  # masses follow the last step
    before = fit.gaussians.get_cloud()
    fit.densify(STAGES[1])
    after = fit.gaussians.get_cloud()
    useful = (before.masses >= fit.config.mass_min * before.masses.mean()).sum()
    assert len(after) == min(2 * useful, 250) > len(before)
    assert after.masses.sum() == pytest.approx(before.masses.sum(), rel=0.01)


def test_every_stage_begins_with_the_cloud_in_the_order_of_space(cpu32, start):
    fit, seeds = start()
    assert morton_order(seeds.positions, max(BOX)).tolist() != list(range(len(seeds)))
    for stage in STAGES:
        fit.enter(stage)
        positions = read_scalars(fit.gaussians.cloud.raw[:3], fit.gaussians.n).T
        assert morton_order(positions, max(BOX)).tolist() == list(range(fit.gaussians.n))
        fit.advance(stage)
        fit.leave()


def test_nothing_is_split_before_the_first_step(cpu32, start):
    fit, _ = start()
    fit.densify(STAGES[1])
    assert fit.gaussians.n == 100


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_the_model_is_touched(cpu32, start, poison):
    fit, _ = start()
    for _ in range(3):
        fit.take_step(STAGES[0])
    before = state(fit)
    fit.objective.views = with_images(fit.objective.views, lambda images: images[:, 5, 7].fill(poison))
    with np.errstate(invalid="ignore"), pytest.raises(NumericalError, match=r"fit, step 4: loss (nan|inf): view \d"):
        fit.take_step(STAGES[0])
    for a, b in zip(state(fit), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert fit.at.step == 3 and np.isfinite(fit.objective.gains).all()


def test_sigmas_stay_between_the_stages_floor_and_the_ceiling(cpu32, start):
    fit, seeds = start()
    cloud = fit.repeat(seeds, [Stage(1.9, 150, 20)])
    sigmas = np.exp(cloud.log_sigmas) / PIXEL_SIZE
    assert sigmas.min() == pytest.approx(1.9, rel=1e-5), "noise pulls some down to the floor"
    assert sigmas.max() <= fit.config.ceiling_px * 1.001


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(cpu32, start, restart):
    results = []
    for threads in (1, 2):
        restart(threads)
        fit, seeds = start()
        best = fit.run(seeds, [replace(s, steps=10) for s in STAGES])
        results.append((best.score, fit.history, best.cloud))
    assert results[0][:2] == results[1][:2]
    assert_same_bits(results[0][2], results[1][2])


@pytest.mark.parametrize(
    ("setting", "value"), [("rate_mass", 0.0), ("batch", -1), ("ceiling_px", np.nan), ("beta2", 1.0)]
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        FitConfig(**{setting: value})
