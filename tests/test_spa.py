"""Particles from images to clouds: half-sets, contrast, seeds, stopping, symmetry, and what a fit is worth."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from scipy import fft
from scipy.spatial.transform import Rotation

from taigs import particle_fit, runtime
from taigs.errors import InputError
from taigs.imaging.ctf import Ctf
from taigs.journal import Journal
from taigs.metrics import fsc, mean_fsc
from taigs.parallel import Alone
from taigs.particle_data import NegatedImages, deal_half_sets, gather, low_passed, skewness
from taigs.particle_fit import COARSE_TO_FINE, CONFIG, FEWEST_GAUSSIANS, ParticleFit, agree, describe, stages
from taigs.phantom import Scene, phantom_particles, phantom_volume
from taigs.progress import NoProgress
from taigs.schedule import FitResult, Stage
from taigs.shells import shells
from taigs.spa import reconstruct_particles
from taigs.symmetry import symmetry_matrices
from taigs.views import Grid, Views
from taigs.volume_objective import ring_correlation

N, PIXEL_SIZE, PARTICLES = 32, 2.3, 300
GRID = Grid((N,) * 3, PIXEL_SIZE, (N // 2,) * 3)
ROOM = 1200  # Gaussians in device memory
GAUSSIANS = 600  # of the last stage, for speed: an object this small needs no more
ONE = np.eye(3)[None]
RESULTS = {}  # of runs that several tests look at


@functools.cache
def scene(symmetry="C1"):
    """An ellipsoid of 200 atoms, sharp enough for power at all frequencies, or half of one and its copy."""
    rng = np.random.default_rng(0)
    operators = symmetry_matrices(symmetry)
    n = 200 // len(operators)
    directions = rng.normal(size=(n, 3))
    positions = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.random((n, 1)) ** (1 / 3)
    positions = np.concatenate([positions * [0.3, 0.26, 0.2] @ S.T for S in operators]) * N * PIXEL_SIZE
    sigmas = np.tile(rng.uniform(0.5, 0.8, (n, 1)), (len(operators), 3)) * PIXEL_SIZE
    masses = np.tile(rng.uniform(0.5, 2, n), len(operators))
    return Scene(positions, sigmas, np.tile([1.0, 0, 0, 0], (len(masses), 1)), masses)


@functools.cache
def truth(symmetry="C1"):
    return phantom_volume(scene(symmetry), GRID)


@functools.cache
def simulated(symmetry="C1", seed=1):
    """Views without half-sets, signal-to-noise ratio 0.15."""
    rng = np.random.default_rng(seed)
    rotations = Rotation.random(PARTICLES, random_state=seed).as_matrix()
    shifts = rng.uniform(-2, 2, (PARTICLES, 2))
    ctf = Ctf(300, 2.7, 0.1, *rng.uniform(8000, 16000, (2, PARTICLES)), rng.uniform(-90, 90, PARTICLES))
    images = phantom_particles(scene(symmetry), rotations, shifts, N, PIXEL_SIZE, ctf, 0.15, rng)
    return Views(images, rotations[:, :2], shifts, PIXEL_SIZE, np.full(2, N // 2), np.ones(PARTICLES), ctf=ctf)


@functools.cache
def halves(seed=1):
    return deal_half_sets(simulated(), np.random.default_rng(seed))[0]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(particle_fit, "FEWEST_GAUSSIANS", GAUSSIANS)


@pytest.fixture
def run(cpu32, few):
    """A function that reconstructs the simulated particles, once for each set of options."""

    def get(sample="C1", **options):
        key = (sample, tuple(options.items()))
        if key not in RESULTS:
            RESULTS[key] = reconstruct_particles(simulated(sample), **options)
        return RESULTS[key]

    return get


def score(volume, expected=None):
    """Mean FSC to the truth."""
    return mean_fsc(fsc(volume, truth() if expected is None else expected)[0])


def assert_same_bits(a, b):
    for name in ("positions", "log_sigmas", "quaternions", "masses"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def assert_same_sets(a, b):
    """All that a fit takes from a ParticleSet, bit for bit."""
    np.testing.assert_array_equal(a.picked, b.picked)
    np.testing.assert_array_equal(a.direct, b.direct)
    np.testing.assert_array_equal(a.seed, b.seed)
    for name in ("weight", "data", "power", "noise"):
        np.testing.assert_array_equal(getattr(a.data, name), getattr(b.data, name), err_msg=name)


def gathered(views=None, contrast="auto", operators=ONE):
    return gather(views or simulated(), halves(), operators, contrast, NoProgress(), Journal(), Alone())


# --- half-sets --------------------------------------------------------------------------------------------


def blank(n_views, **given):
    return Views(
        images=np.zeros((n_views, 4, 4)),
        projections=np.tile(np.eye(3)[:2], (n_views, 1, 1)),
        shifts=np.zeros((n_views, 2)),
        pixel_size=1.0,
        centre=np.full(2, 2),
        weights=np.ones(n_views),
        **given,
    )


def test_the_half_sets_of_the_views_are_kept(rng):
    given = np.array([1, 2, 2, 1, 2])
    found, own = deal_half_sets(blank(5, half_sets=given), rng)
    np.testing.assert_array_equal(found, given)
    assert own


def test_particles_are_dealt_evenly_and_never_shared_by_the_halves(rng):
    particles = rng.permutation(np.repeat(np.array([3, 8, 9, 20, 21, 40, 77]), [5, 1, 3, 2, 4, 1, 6]))
    found, own = deal_half_sets(blank(22, particles=particles), rng)
    assert not own
    shares = [set(particles[found == half]) for half in (1, 2)]
    assert not shares[0] & shares[1] and len(shares[0] | shares[1]) == 7
    assert sorted(map(len, shares)) == [3, 4]


def test_every_view_is_a_particle_of_its_own_unless_told_otherwise():
    dealt = [deal_half_sets(blank(101), np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    assert sorted(np.bincount(dealt[0])[1:]) == [50, 51]
    np.testing.assert_array_equal(dealt[0], dealt[1])
    assert (dealt[0] != dealt[2]).any()


def test_one_half_set_alone_is_dealt_anew(rng):
    found, own = deal_half_sets(blank(10, half_sets=np.full(10, 2)), rng)
    assert not own and np.bincount(found).tolist() == [0, 5, 5]


@pytest.mark.parametrize("given", [{"half_sets": np.array([1, 2, 2, 2])}, {"particles": np.array([4, 4, 4, 7])}])
def test_a_half_set_of_one_view_is_refused(rng, given):
    with pytest.raises(InputError, match=r"1 views in half-set \d; expected at least 2"):
        deal_half_sets(blank(4, **given), rng)


# --- what a half knows ------------------------------------------------------------------------------------


def test_a_half_knows_nothing_of_the_others_images(cpu32, few):
    """Map, sums, noise, seeds, and the cloud after some steps: the other half may only say when to stop."""
    views = simulated()
    images = views.images.copy()
    images[halves() == 2] = simulated(seed=2).images[halves() == 2]
    found, changed = gathered()[0], gathered(replace(views, images=images))[0]
    assert_same_sets(found[0], changed[0])
    assert np.abs(found[1].direct - changed[1].direct).max() > 0.1 * found[1].direct.max()
    clouds = []
    for sets in (found, changed):
        fitter = ParticleFit(views, "volume", "map", sets, NoProgress())
        schedule = [("volume", [Stage(0.5, 300, 4), Stage(0.35, 600, 2)])]
        clouds.append(fitter.repeat(schedule, sets[0], np.random.default_rng(0)))
    assert_same_bits(*clouds)


def test_the_third_set_is_both_halves(cpu32):
    first, second, both = gathered()[0]
    np.testing.assert_array_equal(both.picked, np.arange(PARTICLES))
    np.testing.assert_array_equal(np.sort(np.concatenate([first.picked, second.picked])), both.picked)
    for name in ("weight", "data", "power"):
        a, b, c = (getattr(one.data, name) for one in (first, second, both))
        there = (a != 0) & (b != 0)  # some weights would be below 0, and were cut off
        assert there.mean() > 0.4
        np.testing.assert_allclose((a + b)[there], c[there], atol=1e-5 * np.abs(c).max(), err_msg=name)
    assert score(both.direct) > 0.03 + max(score(first.direct), score(second.direct))


def test_negated_images_are_noticed_and_give_the_same_sets(cpu32):
    dark = replace(simulated(), images=-simulated().images)
    (bright_sets, bright_found), (dark_sets, dark_found) = gathered(), gathered(dark)
    assert not bright_found and dark_found
    for a, b in zip(bright_sets, dark_sets, strict=True):
        assert_same_sets(a, b)


def test_the_contrast_can_be_given(cpu32):
    (bright, found), (dark, negated) = gathered(contrast="bright"), gathered(contrast="dark")
    assert not found and negated
    np.testing.assert_array_equal(dark[0].direct, -bright[0].direct)
    np.testing.assert_array_equal(dark[2].data.data, -bright[2].data.data)
    assert skewness(bright[2].direct) > 0.5 and skewness(dark[2].direct) < -0.5


def test_negated_images_are_negated_when_indexed(rng):
    images = rng.normal(size=(5, 4, 4))
    negated = NegatedImages(images)
    assert len(negated) == 5 and negated.shape == (5, 4, 4)
    np.testing.assert_array_equal(negated[[3, 1]], -images[[3, 1]])


# --- seeds ------------------------------------------------------------------------------------------------


def filter_of(one):
    """(n // 2 + 1,) what `low_passed` multiplies each shell of a set's direct map by."""
    s = shells(N)
    before, after = (fft.rfftn(fft.ifftshift(v)) for v in (one.direct, low_passed(one.direct, one.data)))
    return (s.sum((after * before.conj()).real) / s.sum(np.abs(before) ** 2))[: N // 2 + 1]


def clean_images():
    """The simulated images without their noise."""
    views = simulated()
    rotations, rng = full_rotations(), np.random.default_rng(0)
    images = phantom_particles(scene(), rotations, views.shifts, N, PIXEL_SIZE, views.ctf, 1e8, rng)
    return images * np.float32(np.sqrt(0.15 / 1e8))


def test_the_seed_map_is_filtered_by_its_signal_to_noise_ratio_and_a_gaussian(cpu32):
    """The map is linear in the images: its signal and its noise can be looked at one by one."""
    views, clean = simulated(), clean_images()
    both, signal, noise = (
        gathered(replace(views, images=images))[0][2] for images in (views.images, clean, views.images - clean)
    )
    s = shells(N)
    powers = [s.sum(np.abs(fft.rfftn(one.direct)) ** 2)[: N // 2 + 1] for one in (signal, noise)]
    wiener = powers[0] / (powers[0] + powers[1])
    smooth = np.exp(-2 * (np.pi * np.arange(N // 2 + 1) / N) ** 2)
    assert wiener[3] > 0.95 and 0.55 < wiener[9] < 0.75 and wiener[14] < 0.3
    found = filter_of(both) / smooth
    np.testing.assert_allclose(found[3:10], wiener[3:10], atol=0.08)
    # Weights differ within a shell, and noise is 1 / weight: where there is little else, it is thought a third lower.
    np.testing.assert_allclose(found[10:15], wiener[10:15], atol=0.25)
    np.testing.assert_allclose((filter_of(signal) / smooth)[3:12], 1, atol=0.06)


def full_rotations():
    rows = simulated().projections
    return np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)


def test_the_seed_is_the_significant_part_of_the_filtered_map(cpu32):
    one = gathered()[0][0]
    filtered = low_passed(one.direct, one.data)
    kept = one.seed > 0
    np.testing.assert_array_equal(one.seed[kept], filtered[kept])
    assert filtered[~kept].max() <= 2.001 * filtered.std() < filtered[kept].min() * 1.001
    assert 0.01 < kept.mean() < 0.3
    assert (truth() * kept).sum() > 0.6 * truth().sum(), "that is where the object is"


def test_the_first_cloud_has_the_mass_of_the_seed_map(cpu32, few):
    sets, _ = gathered()
    fitter = ParticleFit(simulated(), "volume", "map", sets, NoProgress())
    for one in sets:
        cloud = fitter.start(one, np.random.default_rng(0))
        assert cloud.masses.sum() == pytest.approx(one.seed.sum() * PIXEL_SIZE**2, rel=1e-5)
        assert len(cloud) == stages(COARSE_TO_FINE, one)[0].n_gaussians
        voxels = np.rint(cloud.positions[:, ::-1] / PIXEL_SIZE + N // 2).astype(int)
        assert np.all(one.seed[tuple(voxels.T)] > 0)
        assert fitter.volume(cloud).sum() == pytest.approx(one.seed.sum(), rel=0.01), "in image units per voxel"


def test_the_number_of_gaussians_goes_with_the_size_of_the_seed_map():
    one = gathered_like(voxels=35_000)
    assert [s.n_gaussians for s in stages(COARSE_TO_FINE, one)] == [5000, 10_000]
    assert [s.n_gaussians for s in stages(COARSE_TO_FINE, gathered_like(10))] == [
        FEWEST_GAUSSIANS // 2,
        FEWEST_GAUSSIANS,
    ]


def gathered_like(voxels):
    class Seeded:
        seed = np.repeat([1.0, 0.0], [voxels, 1000])

    return Seeded


# --- whole reconstructions --------------------------------------------------------------------------------


def test_a_reconstruction_beats_the_direct_map(run):
    result = run()
    scores = {name: score(volume) for name, volume in result.volumes.items()}
    assert scores["map"] > 0.9 and scores["map"] > scores["direct"] + 0.1
    for half in ("half1", "half2"):
        assert scores[half] > scores[f"direct_{half}"] + 0.15
        assert scores["map"] > scores[half]
    for volume in result.volumes.values():
        assert volume.shape == (N,) * 3 and volume.dtype == np.float32
    ours, direct = (result.agreement[name] for name in ("taigs", "direct Fourier"))
    assert ours.shape == direct.shape == (N // 2 + 1,)
    assert ours[1:].mean() > 1.1 * direct[1:].mean()


def test_a_reconstruction_has_the_scale_of_the_images(run):
    result = run()
    whole = result.volumes["map"]
    slope = np.vdot(whole, result.volumes["direct"]) / np.vdot(whole, whole)
    assert slope == pytest.approx(1, abs=0.05)


def test_what_was_done_is_told(run):
    result = run()
    assert set(result.half_sets) == {1, 2} and abs(np.ptp(np.bincount(result.half_sets)[1:])) <= 1
    assert [row["half"] for row in result.histories] == sorted(row["half"] for row in result.histories)
    for half in (1, 2):
        rows = [row for row in result.histories if row["half"] == half]
        assert len(rows) > 3 and rows[-1]["loss"] < rows[0]["loss"]
        assert (
            f"{min(row['held_out'] for row in rows):.4f}"
            in result.settings["held-out score of the halves (1 - mean ring correlation)"]
        )
    assert len(result.seconds) == 3 and min(result.seconds.values()) > 0
    assert any("dealt into half-sets at random" in note for note in result.notes)
    assert any("bright in the images" in note for note in result.notes)


def test_halves_are_judged_by_the_images_of_the_other(run):
    result = run()
    sets, _ = gather(simulated(), result.half_sets, ONE, "auto", NoProgress(), Journal(), Alone())
    for name, maps in (("taigs", ("half1", "half2")), ("direct Fourier", ("direct_half1", "direct_half2"))):
        curves = [ring_correlation(sets[1 - half].data, result.volumes[maps[half]]) for half in (0, 1)]
        np.testing.assert_allclose(result.agreement[name], np.mean(curves, axis=0), rtol=1e-5, atol=1e-7)
        if name == "taigs":
            told = result.settings["held-out score of the halves (1 - mean ring correlation)"].split(", ")
            np.testing.assert_allclose([1 - curve[1:].mean() for curve in curves], [*map(float, told)], atol=1e-4)


def test_the_fit_of_all_particles_takes_the_mean_steps_of_the_halves(run):
    settings = run().settings
    parts = [settings[f"stages (smallest sigma in px: steps), {which}"] for which in ("half 1", "half 2")]
    both = settings["stages (smallest sigma in px: steps), all particles"]
    first = [int(text.split("volume 0.5: ")[1].split(",")[0]) for text in (*parts, both)]
    assert abs(first[2] - np.mean(first[:2])) <= 0.5


def test_random_seeds_come_near_those_from_the_map(run):
    result = run(init="random")
    assert score(result.volumes["map"]) > score(run().volumes["map"]) - 0.05
    assert score(result.volumes["map"]) > score(result.volumes["direct"]) + 0.1
    assert result.settings["seeds"] == "at random"


@pytest.mark.parametrize("objective", ["views", "both"])
def test_the_other_objectives_do_as_well(run, objective):
    result = run(objective=objective)
    assert score(result.volumes["map"]) > score(run().volumes["map"]) - 0.02
    stages_of_half = result.settings["stages (smallest sigma in px: steps), half 1"]
    assert stages_of_half.startswith({"views": "views 0.5", "both": "volume 0.5"}[objective])
    assert objective == "views" or len(result.histories) > len(run().histories), "refined by the views"


def test_negated_images_give_the_same_reconstruction(run):
    dark = reconstruct_particles(replace(simulated(), images=-simulated().images))
    assert_same_bits(dark.cloud, run().cloud)
    assert any("dark in the images: they were negated" in note for note in dark.notes)


def test_the_view_objective_sees_negated_images_negated(cpu32, few, monkeypatch):
    monkeypatch.setitem(particle_fit.SCHEDULES, "views", (("views", ((0.5, 0.5, 5, 1.0),)),))
    results = [
        reconstruct_particles(replace(simulated(), images=sign * simulated().images), objective="views")
        for sign in (1, -1)
    ]
    assert_same_bits(results[0].cloud, results[1].cloud)
    assert results[0].histories == results[1].histories


def test_symmetry_helps_where_the_object_has_it(run):
    plain, symmetric = run("C2"), run("C2", symmetry="c2")
    expected = truth("C2")
    for name in ("map", "half1", "half2", "direct"):
        assert score(symmetric.volumes[name], expected) > score(plain.volumes[name], expected) + 0.01, name
    volume = symmetric.volumes["direct"][1:, 1:, 1:]
    np.testing.assert_allclose(volume, volume[:, ::-1, ::-1], atol=2e-3 * volume.max())
    assert symmetric.settings["symmetry"] == "C2"


def test_symmetry_does_not_raise_the_agreement_with_the_held_out_images_by_counting_them_twice(cpu32):
    """The same map against the same images, summed with and without their symmetry copies."""
    views = simulated("C2")
    for operators in (ONE, symmetry_matrices("C2")):
        sets, _ = gathered(views, operators=operators)
        curve = ring_correlation(sets[1].data, truth("C2"))
        noise = sets[1].data.noise / N**2
        if len(operators) == 1:
            expected, noise_expected = curve, noise
    np.testing.assert_allclose(curve[2:], expected[2:], atol=0.06)
    assert curve[1:].mean() == pytest.approx(expected[1:].mean(), abs=0.01)
    np.testing.assert_allclose(noise[2:], noise_expected[2:], rtol=0.05)


def test_a_half_stops_near_the_best_cloud_on_its_way(cpu32, few, monkeypatch):
    """Judged by the truth, which it does not know, along a fit that is not stopped."""
    sets, _ = gathered()
    stopped = ParticleFit(simulated(), "volume", "map", sets, NoProgress())
    best = stopped.run(sets[0], sets[1], np.random.default_rng(0))
    reached = score(stopped.volume(best.cloud))
    monkeypatch.setattr(particle_fit, "CONFIG", replace(CONFIG, patience=1000))
    fitter = ParticleFit(simulated(), "volume", "map", sets, NoProgress())
    objective, along = fitter.volume_objective, []
    held_out_score = objective.held_out_score

    def watched():
        along.append(score(objective.volume()))
        return held_out_score()

    monkeypatch.setattr(objective, "held_out_score", watched)
    fitter.run(sets[0], sets[1], np.random.default_rng(0))
    assert len(along) == 28, "every fifth of 140 steps"
    assert reached > 0.99 * max(along)
    assert along[0] < 0.9 * max(along) and along[-1] < 0.99 * max(along), "stopping matters"


def test_another_seed_gives_other_half_sets(cpu32):
    found = [deal_half_sets(simulated(), np.random.default_rng([seed, 3]))[0] for seed in (0, 1)]
    assert (found[0] != found[1]).any()


def test_random_gaussians_start_with_the_scale_that_fits_best(cpu32, few, monkeypatch):
    class Recorded(particle_fit.Fit):
        def repeat(self, cloud, stages):
            clouds.append(cloud)
            return super().repeat(cloud, [replace(one, steps=1) for one in stages])

    clouds = []
    monkeypatch.setattr(particle_fit, "Fit", Recorded)
    sets, _ = gathered()
    fitter = ParticleFit(simulated(), "volume", "random", sets, NoProgress())
    fitter.start(sets[0], np.random.default_rng(0))
    assert len(clouds) == 1 and np.ptp(clouds[0].masses) == 0
    fitter.volume_objective.set_data(sets[0].data)
    assert fitter.volume_objective.best_scale(clouds[0]) == pytest.approx(1, rel=1e-4)
    spread = clouds[0].positions.std(axis=0) / (N * PIXEL_SIZE / 2)
    np.testing.assert_allclose(spread, 0.3, atol=0.05)


@pytest.mark.parametrize(("second", "kept"), [(0.4, 1), (0.7, 0)])
def test_the_second_objective_starts_at_the_best_of_the_first_and_counts_if_it_is_better(
    cpu32, few, monkeypatch, second, kept
):
    class Told:
        """A fit that finds what it is told to."""

        def __init__(self, *_):
            self.history = []

        def run(self, cloud, stages):
            starts.append(cloud)
            return FitResult(clouds[len(starts)], (0.5, second)[len(starts) - 1], stages)

    starts = []
    sets, _ = gathered()
    fitter = ParticleFit(simulated(), "both", "map", sets, NoProgress())
    clouds = [fitter.start(sets[0], np.random.default_rng(seed)) for seed in range(3)]
    monkeypatch.setattr(particle_fit, "Fit", Told)
    found = fitter.run(sets[0], sets[1], np.random.default_rng(0))
    assert_same_bits(starts[0], clouds[0])
    assert starts[1] is clouds[1]
    assert found.cloud is clouds[1 + kept] and found.score == min(0.5, second)
    assert [name for name, _ in found.schedule] == ["volume", "views"][: 1 + kept]


# --- schedules and refusals -------------------------------------------------------------------------------


def test_schedules_agree_on_the_stages_both_went_through_with_their_mean_steps():
    coarse, fine = Stage(0.5, 100, 80), Stage(0.35, 200, 60)
    first = [("volume", [replace(coarse, steps=30), replace(fine, steps=15)]), ("views", [replace(fine, steps=5)])]
    second = [("volume", [replace(coarse, steps=41)])]
    assert agree(first, second) == [("volume", [replace(coarse, steps=36)])]
    assert agree(first, first) == first
    assert describe(first) == "volume 0.5: 30, 0.35: 15; views 0.35: 5"


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"images": np.zeros((4, 6, 8))}, {}, "expected square, centre n // 2"),
        ({"centre": np.array([1.5, 1.5])}, {}, "expected square, centre n // 2"),
        ({}, {"objective": "volumes"}, 'objective "volumes"; expected one of volume, views, both'),
        ({}, {"init": "zero"}, 'init "zero"; expected one of map, random'),
        ({}, {"contrast": "black"}, 'contrast "black"; expected one of auto, bright, dark'),
        ({}, {"symmetry": "C0"}, 'symmetry "C0" is not known'),
        ({"half_sets": np.array([1, 1, 1, 2])}, {}, "1 views in half-set 2"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(change, options, words):
    with pytest.raises(InputError, match=words):
        reconstruct_particles(replace(blank(4), **change), **options)


# --- last, since it starts Taichi anew --------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(run, restart):
    expected = run()
    restart(2 if runtime.current().threads == 1 else 1)
    result = reconstruct_particles(simulated())
    assert_same_bits(result.cloud, expected.cloud)
    assert result.histories == expected.histories
    for name, volume in expected.volumes.items():
        np.testing.assert_array_equal(result.volumes[name], volume, err_msg=name)
