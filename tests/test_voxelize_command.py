"""`taigs voxelize`: any grid of a model, slab by slab to disk, upon the run's map."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import reference
from scenes import random_cloud

from taigs import render, voxelize
from taigs.cli import main as cli
from taigs.errors import InputError, RefusedError, ResourceError
from taigs.io.clouds import map_grid, write_cloud
from taigs.io.mrc import _HEADER, read_volume, write_sections, write_volume
from taigs.render import Voxelizer
from taigs.views import Grid
from taigs.voxel_output import draw_sections, target_grid, write_map

SHAPE = (9, 12, 14)
HEADER = {"format": "taigs-model", "version": 1, "pixel_size_A": 2.0, "shape_zyx": list(SHAPE)}
PARTICLE = {**HEADER, "shape_zyx": [12] * 3, "centre_xyz": [6.0] * 3, "map_unit": "per voxel"}


@pytest.fixture
def cloud(rng):
    return random_cloud(rng, 30, (14, 12, 9), sigmas=(0.7, 1.5))


@pytest.fixture
def memory(monkeypatch):
    """A function that has slabs of some planes drawn."""

    def use(planes):
        def voxelizer(gaussians, grid):
            made = Voxelizer(gaussians, grid)
            made.planes = planes
            return made

        monkeypatch.setattr("taigs.voxel_output.Voxelizer", voxelizer)

    return use


def origin(path):
    return np.fromfile(path, _HEADER, 1)[0]["origin"]


# --- grids ------------------------------------------------------------------------------------------------


def test_the_default_is_the_grid_of_the_run():
    assert target_grid(HEADER) == map_grid(HEADER) == Grid(SHAPE, 2.0)
    assert target_grid(PARTICLE).centre == (6, 6, 6)


@pytest.mark.parametrize(
    ("header", "request_", "shape", "centre"),
    [
        (HEADER, {"pixel_size": 1.0}, (18, 24, 28), (13.5, 11.5, 8.5)),
        (HEADER, {"pixel_size": 4.0}, (4, 6, 7), (3, 2.5, 1.5)),
        (HEADER, {"shape": (3, 5, 6)}, (3, 5, 6), (2.5, 2, 1)),
        (PARTICLE, {"pixel_size": 1.0}, (24,) * 3, (12,) * 3),
        (PARTICLE, {"shape": (7, 8, 16)}, (7, 8, 16), (8, 4, 3)),
        (HEADER, {"region": ((1, 4), (0, 12), (5, 14))}, (3, 12, 9), (1.5, 5.5, 3)),
        ({**HEADER, "centre_xyz": [1, 2, 3]}, {"pixel_size": 1.0}, (18, 24, 28), (2.5, 4.5, 6.5)),
        ({**HEADER, "map_origin_A": [10, 20, 30]}, {"origin": (10, 20, 28)}, SHAPE, (6.5, 5.5, 5)),
    ],
)
def test_the_models_origin_keeps_its_place_in_the_box(header, request_, shape, centre):
    grid = target_grid(header, **request_)
    assert grid.shape == shape
    np.testing.assert_allclose(grid.centre, centre)


@pytest.mark.parametrize(
    ("header", "request_", "message"),
    [
        (HEADER, {"pixel_size": 0.2}, "expected Angstrom, not nm"),
        (HEADER, {"pixel_size": 20.0}, "expected Angstrom, not nm"),
        (HEADER, {"pixel_size": 0.0}, "expected a positive number of Angstrom"),
        (HEADER, {"pixel_size": np.nan}, "expected a positive number of Angstrom"),
        (HEADER, {"shape": (0, 4, 4)}, "expected three sizes"),
        (HEADER, {"shape": (4, 4, 10**6)}, "at most 65536 along an axis"),
        (HEADER, {"origin": (0, np.inf, 0)}, "three numbers of Angstrom"),
        (HEADER, {"region": ((0, 4), (3, 3), (0, 4))}, "region y 3:3 is empty"),
        (HEADER, {"region": ((0, 4), (0, 4), (0, 40))}, "region x 0:40 leaves the 14 voxels"),
        (HEADER, {"region": ((-1, 4), (0, 4), (0, 4))}, "region z -1:4 leaves the 9 voxels"),
        ({**HEADER, "pixel_size_A": None}, {}, "names no pixel size; expected --pixel-size"),
        ({**HEADER, "shape_zyx": None}, {}, "names no box; expected --shape"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(header, request_, message):
    with pytest.raises(InputError, match=message):
        target_grid(header, **request_)


def test_a_small_part_may_be_as_fine_as_one_likes():
    assert target_grid(HEADER, 0.1, region=((0, 10), (0, 20), (0, 30))).shape == (10, 20, 30)


# --- maps -------------------------------------------------------------------------------------------------


# Gaussians end at the border of a block of 8 voxels in x beyond 4 sigma: where blocks lie elsewhere, tails differ.
@pytest.mark.parametrize("planes", [1, 4, 16])
@pytest.mark.parametrize(
    ("region", "tolerance"),
    [(None, 1e-7), (((3, 8), (1, 12), (8, 11)), 1e-7), (((2, 9), (0, 7), (5, 6)), np.exp(-8))],
)
def test_slabs_are_the_volume(cpu64, memory, volumes, tmp_path, cloud, planes, region, tolerance):
    """Slabs of one section, of four (the regions cross their borders), and of all."""
    whole = volumes().voxelize(cloud, Grid(SHAPE, 2.0))
    memory(planes)
    write_map(tmp_path / "m.mrc", cloud, HEADER, target_grid(HEADER, region=region))
    volume, header = read_volume(tmp_path / "m.mrc")
    part = (slice(None),) * 3 if region is None else tuple(slice(*ends) for ends in region)
    np.testing.assert_allclose(volume, whole[part], atol=tolerance * whole.max())
    np.testing.assert_allclose(header.voxel_size, 2.0)
    first = (0, 0, 0) if region is None else [2 * ends[0] for ends in region[::-1]]
    np.testing.assert_array_equal(origin(tmp_path / "m.mrc"), first)


def test_a_finer_and_larger_map_lies_upon_the_runs(cpu64, memory, volumes, tmp_path, cloud):
    """Of another pixel and extent: positions in the frame of the run's map agree through the origin."""
    grid, shape = target_grid(HEADER, 1.5, (15, 30, 21)), (15, 30, 21)
    whole = volumes().voxelize(cloud, Grid(shape, 1.5))
    memory(4)
    write_map(tmp_path / "m.mrc", cloud, HEADER, grid)
    np.testing.assert_allclose(read_volume(tmp_path / "m.mrc")[0], whole, atol=1e-7 * whole.max())
    at = origin(tmp_path / "m.mrc")  # of voxel 0
    np.testing.assert_allclose(at + np.array(grid.centre) * 1.5, np.array([6.5, 5.5, 4]) * 2.0)


def test_maps_of_particles_are_per_voxel_with_the_centre_of_relion(cpu64, memory, volumes, tmp_path, cloud):
    for size, shape in ((2.0, (12,) * 3), (1.5, (16,) * 3)):
        expected = size * volumes().voxelize(cloud, Grid(shape, size, tuple(n // 2 for n in shape)))
        memory(4)
        write_map(tmp_path / "m.mrc", cloud, PARTICLE, target_grid(PARTICLE, size), overwrite=True)
        volume, header = read_volume(tmp_path / "m.mrc")
        np.testing.assert_allclose(volume, expected, atol=1e-7 * expected.max())
        assert header.labels == ("taigs: image units per voxel, protein bright",)
        np.testing.assert_array_equal(origin(tmp_path / "m.mrc"), 0)


def test_a_low_pass_adds_its_variance_to_the_covariances(cpu64, memory, tmp_path, cloud):
    """Half amplitude at 1/d: exp(-2 pi^2 sigma^2 / d^2) = 1/2."""
    d = 9.0
    sigma = d * np.sqrt(np.log(2) / 2) / np.pi
    assert np.exp(-2 * (np.pi * sigma / d) ** 2) == pytest.approx(0.5)
    memory(4)
    write_map(tmp_path / "m.mrc", cloud, HEADER, Grid(SHAPE, 2.0), lowpass=d)
    volume, header = read_volume(tmp_path / "m.mrc")
    blurred = replace(cloud, log_sigmas=0.5 * np.log(np.exp(2 * cloud.log_sigmas) + sigma**2))
    np.testing.assert_allclose(blurred.covariances(), cloud.covariances() + sigma**2 * np.eye(3), atol=1e-12)
    expected = reference.voxelize(blurred, Grid(SHAPE, 2.0), cutoff=4.0)
    np.testing.assert_allclose(volume, expected, atol=1e-7 * expected.max())
    assert "low-pass 9 A" in header.labels[0]


def test_sections_that_fail_leave_no_file(tmp_path):
    def failing():
        yield np.zeros((4, 5), np.float32)
        raise ResourceError("no more memory")

    with pytest.raises(ResourceError):
        write_sections(tmp_path / "m.mrc", failing(), (3, 4, 5), 1.0)
    with pytest.raises(ValueError, match="zip"):
        write_sections(tmp_path / "m.mrc", iter(np.zeros((2, 4, 5))), (3, 4, 5), 1.0)
    assert not list(tmp_path.iterdir())


def test_sections_give_the_file_a_volume_gives(tmp_path, rng):
    volume = rng.normal(size=(3, 4, 5))
    write_volume(tmp_path / "a.mrc", volume, 1.5)
    write_sections(tmp_path / "b.mrc", iter(volume), volume.shape, 1.5)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


@pytest.mark.parametrize(
    ("name", "lowpass", "message"),
    [("m.tif", None, "unknown kind of map"), ("m.mrc", -3, "expected Angstrom"), ("m.mrc", 99.0, "at most the box")],
)
def test_a_bad_name_or_low_pass_is_refused(tmp_path, cloud, name, lowpass, message):
    with pytest.raises(InputError, match=message):
        write_map(tmp_path / name, cloud, HEADER, Grid(SHAPE, 2.0), lowpass)


def test_a_full_disk_is_noticed_before_any_work(tmp_path, cloud):
    with pytest.raises(ResourceError, match="expected room"):
        write_map(tmp_path / "m.mrc", cloud, HEADER, Grid((2**16,) * 3, 2.0))


def test_an_existing_map_is_refused_before_any_work(tmp_path, cloud, monkeypatch):
    (tmp_path / "m.mrc").write_text("precious")
    monkeypatch.setattr("taigs.voxel_output.Voxelizer", lambda *_: pytest.fail("work began"))
    with pytest.raises(RefusedError):
        write_map(tmp_path / "m.mrc", cloud, HEADER, Grid(SHAPE, 2.0))


def test_progress_counts_sections(cpu64, memory, cloud):
    memory(4)
    heard = []
    progress = type("P", (), {"stage": lambda *_: None, "update": lambda _, *step: heard.append(step)})()
    assert len(list(draw_sections(cloud, Grid(SHAPE, 2.0), progress=progress))) == 9
    assert heard == [(4, 9), (8, 9), (9, 9)]


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, cloud):
    """Runs `taigs voxelize model.npz -o out.mrc ...`: (exit code, stdout, stderr)."""
    write_cloud(tmp_path / "model.npz", cloud, 2.0, SHAPE)

    def run(*arguments, model="model.npz"):
        words = ["taigs", "voxelize", tmp_path / model, "-o", tmp_path / "out.mrc", "--arch", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = 0
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_the_command_redraws_the_run(cpu32, command, monkeypatch, tmp_path, cloud):
    """In slabs, from the file."""
    expected = voxelize(cloud, Grid(SHAPE, 2.0))
    monkeypatch.setattr(render, "SLAB_VECTORS", 4 * 12 * 2)
    code, out, err = command("--quiet")
    assert (code, out.splitlines()[-1], err) == (0, f"{tmp_path}/out.mrc", "")
    volume, header = read_volume(tmp_path / "out.mrc")
    np.testing.assert_allclose(volume, expected, atol=1e-5 * expected.max())
    assert header.labels == ("taigs: image units per A, protein bright",) and not origin(tmp_path / "out.mrc").any()


def test_the_command_hands_its_options_on(command, monkeypatch):
    heard = []
    monkeypatch.setattr("taigs.runtime.init", lambda *_, **__: None)
    monkeypatch.setattr("taigs.voxel_output.write_map", lambda *given: heard.append(given))
    code, _, err = command("--pixel-size", "4", "--shape", "6,7,8", "--origin", "-3,0,1.5", "--region", "0:4,1:2,2:7")
    assert code == 0 and "note: voxels 2.0 times" in err and "--lowpass 8" in err
    code, _, err = command("--lowpass", "9", "--overwrite", "--quiet")
    assert (code, err) == (0, "")
    assert [given[4:6] for given in heard] == [(None, False), (9.0, True)]
    part, whole = (given[3] for given in heard)
    assert part.shape == (5, 1, 4) and whole == Grid(SHAPE, 2.0)
    np.testing.assert_allclose(part.centre, (np.array([13, 11, 8]) - [-3, 0, 1.5]) / 4 - [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--region", "5:5,0:4,0:4"], 3, "region x 5:5 is empty"),
        (["--pixel-size", "0.1"], 3, "expected Angstrom"),
        (["--region", "1:2"], 2, "expected X0:X1"),
        (["--shape", "4,4,x"], 2, "expected NX,NY,NZ"),
        (["--origin", "1,2"], 2, "expected X,Y,Z in Angstrom"),
    ],
)
def test_bad_requests_end_with_their_code_and_write_nothing(command, monkeypatch, tmp_path, arguments, code, message):
    monkeypatch.setattr("taigs.runtime.init", lambda *_, **__: pytest.fail("work began"))
    found, out, err = command(*arguments)
    assert (found, out) == (code, "") and message in " ".join(err.split())
    assert code != 3 or err.count("\n") == 1
    assert not (tmp_path / "out.mrc").exists()


def test_a_model_that_is_none_ends_with_3(command, tmp_path):
    (tmp_path / "model.txt").write_text("no model")
    for model, message in (("model.txt", 'kind of model ".txt"; expected .npz or .ply'), ("no", "no such file")):
        code, out, err = command(model=model)
        assert (code, out, err.count("\n")) == (3, "", 1) and message in err
