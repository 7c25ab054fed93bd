"""Voxels -> Gaussians: the objective's gradient, a cloud from its own volume, targets and budgets, what is refused."""

import numpy as np
import pytest
import reference
from gradients import assert_grad_close, central_difference
from scenes import PIXEL_SIZE, load_scalars, random_cloud

from taigs.device import DeviceCloud, raw_parameters, read_scalars
from taigs.errors import InputError
from taigs.io.clouds import BYTES_BESIDES, BYTES_PER_GAUSSIAN
from taigs.metrics import ncc
from taigs.render import Voxelizer
from taigs.views import Grid
from taigs.volume_fit import (
    CONFIG,
    Fidelity,
    TargetObjective,
    fit_volume,
    level_sizes,
    participation,
    prepared,
)

SHAPE = (13, 18, 21)


@pytest.fixture
def blobs(rng):
    """A function: volume of some Gaussians on an odd grid that is no cube."""

    def make(signed=False):
        cloud = random_cloud(rng, 25, (14, 11, 7), sigmas=(1.0, 2.0), signed=signed)
        return reference.voxelize(cloud, Grid(SHAPE, PIXEL_SIZE))

    return make


# --- objective --------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_half_the_summed_squares(cpu64, rng):
    cloud = random_cloud(rng, 6, (8, 6, 5), sigmas=(1.0, 2.0))
    grid = Grid((9, 10, 11), PIXEL_SIZE)
    held = DeviceCloud(len(cloud))
    objective = TargetObjective(held, rng.normal(0, 0.05, grid.shape), grid)
    objective.voxelizer = Voxelizer(held, grid, 12.0)  # or the differences would see the edge of the support move
    held.set_cloud(cloud)
    raw = raw_parameters(cloud, held.cloud.unit[None])

    def loss(values):
        load_scalars(held.cloud.raw, values)
        return 0.5 * ((objective.volume() - objective.target) ** 2).sum()

    expected = central_difference(loss, raw)
    assert loss(raw) == pytest.approx(objective.loss_and_gradient(), rel=1e-12)
    actual = read_scalars(held.cloud.v_raw, len(cloud))
    for name, rows in {"positions": slice(0, 3), "log_sigmas": slice(3, 6), "quaternions": slice(6, 10)}.items():
        assert_grad_close(actual[rows].T, expected[rows].T, 1e-6, name=name)
    assert_grad_close(actual[10], expected[10], 1e-6, name="raw masses")


# --- fit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_a_cloud_is_recovered_from_its_own_volume(cpu32, blobs, signed):
    volume = blobs(signed)
    result = fit_volume(volume, PIXEL_SIZE, gaussians=150, signed=signed)
    fitted = reference.voxelize(result.cloud, result.grid)
    assert ncc(fitted, volume) > 0.999
    np.testing.assert_allclose(fitted, result.volume, atol=2e-3 * np.abs(volume).max())
    assert result.rows[-1].cc == pytest.approx(ncc(fitted, volume), abs=1e-4)
    assert result.rows[-1].gaussians == len(result.cloud) <= 150
    assert (result.cloud.masses < 0).any() == signed
    assert result.reason == "the budget is used up"


def test_the_fit_stops_at_the_target_with_fewer_gaussians_than_the_budget(cpu32, blobs):
    volume = blobs()
    loose = fit_volume(volume, PIXEL_SIZE, gaussians=150, target_cc=0.9)
    assert loose.reason == "the target is met"
    assert loose.rows[-1].cc >= 0.9 and loose.rows[-1].gaussians < 150
    assert all(row.cc < 0.9 for row in loose.rows[:-1])
    sizes = [row.gaussians for row in loose.rows]
    assert sizes == sorted(sizes)


def test_a_budget_of_megabytes_is_that_of_the_file(cpu32, blobs, tmp_path):
    from taigs.io.clouds import write_cloud

    volume = blobs()
    result = fit_volume(volume, PIXEL_SIZE, megabytes=0.004)
    assert len(result.cloud) <= (4000 - BYTES_BESIDES) / BYTES_PER_GAUSSIAN
    write_cloud(tmp_path / "model.npz", result.cloud, PIXEL_SIZE, SHAPE, origin=(-123.456789,) * 3)
    assert (tmp_path / "model.npz").stat().st_size <= result.rows[-1].n_bytes <= 4000


def test_neither_the_scale_of_the_values_nor_the_unit_of_length_matters(cpu32, blobs):
    volume = blobs()
    plain = fit_volume(volume, 1.0, gaussians=60)
    tiny = fit_volume(volume * 2.0**-30, 4.0, gaussians=60)
    assert tiny.rows[-1].cc == pytest.approx(plain.rows[-1].cc, abs=2e-3)
    assert ncc(reference.voxelize(tiny.cloud, tiny.grid), volume) > 0.98


def test_what_is_below_the_contour_is_not_fitted(cpu32, blobs, rng):
    volume = blobs()
    level = 0.1 * volume.max()
    noisy = np.where(volume > level, volume, 0.9 * level * rng.random(SHAPE))
    result = fit_volume(noisy, PIXEL_SIZE, gaussians=150, contour=level)
    assert ncc(result.volume, np.where(noisy < level, 0, noisy)) == pytest.approx(result.rows[-1].cc, abs=1e-5)
    assert result.rows[-1].cc > 0.97
    assert noisy[noisy < level].max() > 0, "the caller's array is left alone"


def test_the_same_seed_gives_the_same_cloud(cpu32, blobs):
    volume = blobs()
    a, b, c = (fit_volume(volume, PIXEL_SIZE, gaussians=40, seed=seed).cloud for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.masses, b.masses)
    assert len(a) != len(c) or not np.array_equal(a.positions, c.positions)


def test_a_fit_ends_when_twice_the_gaussians_bring_nothing(cpu32, blobs):
    """Half of the power is negative: no positive cloud gets near the target."""
    volume = blobs()
    result = fit_volume(volume - volume[:, ::-1], PIXEL_SIZE, gaussians=300, target_cc=0.99)
    assert result.reason == "twice the Gaussians brought next to nothing"
    assert len(result.cloud) < 160


def test_a_single_bright_voxel_is_one_gaussian(cpu32):
    volume = np.zeros(SHAPE, np.float32)
    volume[3, 11, 16] = 2.0
    result = fit_volume(volume, PIXEL_SIZE)
    assert len(result.cloud) == 1
    at = result.cloud.positions[0] / PIXEL_SIZE + result.grid.centre
    np.testing.assert_allclose(at, (16, 11, 3), atol=0.05)


# --- sizes and fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("extent", "budget", "sizes"), [(2000, 800, [100, 200, 400, 800]), (2000, 30, [30]),
                                                         (2000, 130, [65, 130]), (1, 1, [1])])  # fmt: skip
def test_levels_double_up_to_the_budget_exactly(extent, budget, sizes):
    assert level_sizes(extent, budget) == sizes


def test_participation_counts_equal_voxels():
    volume = np.zeros((4, 5, 6))
    volume[1, 2, :4] = 3.0
    assert participation(volume, False) == pytest.approx(4)
    volume[2, 2, :4] = -3.0
    assert participation(volume, False) == pytest.approx(4)
    assert participation(volume, True) == pytest.approx(8)


def test_a_target_asks_for_correlation_resolution_or_both():
    row = Fidelity(100, 4400, 10.0, 0.95, 6.0, 1.0)
    assert row.meets(0.95, None) and not row.meets(0.951, None)
    assert row.meets(None, 6.0) and not row.meets(None, 5.9)
    assert row.meets(0.9, 7.0) and not row.meets(0.99, 7.0)
    assert Fidelity(100, 4400, 10.0, 0.95, None, 1.0).meets(None, 2.0)


# --- what is refused --------------------------------------------------------------------------------------


def with_value(value):
    volume = np.ones((3, 4, 5))
    volume[1, 1, 1] = value
    return volume


@pytest.mark.parametrize(
    ("volume", "settings", "message"),
    [
        (np.full((3, 4, 5), np.nan), {}, "every voxel is NaN or infinite"),
        (with_value(np.inf), {}, "1 voxels are NaN or infinite"),
        (np.zeros((3, 4, 5)), {}, "every voxel is 0; expected density that varies"),
        (with_value(2), {"contour": 2.5}, "contour 2.5 is not below the maximum, 2"),
        (with_value(-3), {"contour": 3, "signed": True}, "contour 3 is not below the maximum, 3"),
        (-with_value(2), {}, r"no density above 0 \(maximum -1\)"),
    ],
)
def test_volumes_without_anything_to_fit_are_refused(volume, settings, message):
    with pytest.raises(InputError, match=message):
        prepared(volume, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_cc": 1.0}, "target CC 1; expected between 0 and 1"),
        ({"target_fsc_resolution": 2.5}, "target resolution 2.5; expected at least Nyquist, 2.6 Å"),
        ({"gaussians": 0}, "budget of Gaussians 0; expected at least 1"),
        ({"megabytes": np.nan}, "budget in megabytes nan; expected a positive number"),
        ({"megabytes": 0.001}, "0.001 MB hold no Gaussian"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        fit_volume(with_value(2), PIXEL_SIZE, **settings)


def test_light_gaussians_do_not_stay(cpu32, blobs):
    volume = blobs()
    masses = fit_volume(volume, PIXEL_SIZE, gaussians=150).cloud.masses
    assert masses.min() > 0.9 * CONFIG.mass_min * masses.mean()
