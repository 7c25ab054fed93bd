"""`taigs fit`: a map file becomes model.npz where the map was, and bad input becomes one line."""

import sys

import numpy as np
import pytest
import reference
from scenes import PIXEL_SIZE, random_cloud

from taigs.cli import main as cli
from taigs.io.clouds import map_grid, read_cloud
from taigs.io.mrc import _HEADER, write_sections, write_volume
from taigs.metrics import ncc
from taigs.views import Grid
from taigs.volume_fit import Fidelity
from taigs.volume_fit_run import read_map, remarks, table

SHAPE = (9, 12, 15)


@pytest.fixture
def density(rng):
    cloud = random_cloud(rng, 10, (10, 7, 5), sigmas=(1.0, 1.6))
    return reference.voxelize(cloud, Grid(SHAPE, PIXEL_SIZE)).astype(np.float32)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in a folder: (exit code, stdout, lines of stderr)."""

    def call(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["taigs", "fit", *map(str, arguments), "--arch", "cpu"])
        capsys.readouterr()  # the seed of rng
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        # Taichi's banner is kept from file descriptor 1 only when it is first imported by the command.
        out = "".join(line for line in out.splitlines(keepends=True) if not line.startswith("[Taichi]"))
        return code, out, err.splitlines()

    return call


def edit_header(path, **fields):
    """Set fields of an MRC header in place."""
    header = np.fromfile(path, _HEADER, 1)
    for name, value in fields.items():
        header[name] = value
    with open(path, "r+b") as file:
        file.write(header.tobytes())


def test_the_model_redraws_the_map_where_it_was(run, density, tmp_path):
    path = tmp_path / "map.mrc"
    write_sections(path, density, SHAPE, PIXEL_SIZE, origin=(10, -20, 30))
    code, out, err = run("map.mrc", "-o", "model.npz", "--gaussians", 100, "--report")
    assert code == 0 and out == "model.npz\n"
    cloud, header = read_cloud(tmp_path / "model.npz")
    assert header["map_origin_A"] == [10, -20, 30]
    grid = map_grid(header)
    assert grid.shape == SHAPE and grid.voxel_size == pytest.approx(PIXEL_SIZE)
    assert ncc(reference.voxelize(cloud, map_grid(header)), density) > 0.99
    head = next(i for i, line in enumerate(err) if line.split()[:2] == ["Gaussians", "kB"])
    assert err[-2].split()[0] == str(len(cloud)) and err[-1] == "stopped: the budget is used up"
    assert len(err) - head >= 3
    text = (tmp_path / "model.html").read_text()
    assert f"{len(cloud)} Gaussians reach a correlation" in text and text.count("data:image/png") == 1
    assert text.count("data:image/jpeg") == 9 and "<td>gaussians</td><td>100</td>" in text
    assert "Compared with voxels of" in text and "<p>Why no more: the budget is used up.</p>" in text


def test_an_existing_model_is_refused_before_anything_is_computed(run, density, tmp_path):
    write_volume(tmp_path / "map.mrc", density, PIXEL_SIZE)
    (tmp_path / "model.npz").write_text("mine")
    code, _, err = run("map.mrc", "-o", "model.npz")
    assert code == 6 and len(err) == 1 and "exists already" in err[0]
    assert (tmp_path / "model.npz").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda v: v * np.nan, (), "every voxel is NaN or infinite"),
        (lambda v: v * 0 + 3, (), "every voxel is 3; expected density that varies"),
        (lambda v: v / v.max(), ("--contour", 2), "contour 2 is not below the maximum, 1"),
        (lambda v: v, ("--target-fsc-resolution", 1), "target resolution 1; expected at least Nyquist"),
    ],
)
def test_a_map_without_sense_is_one_line_and_nothing_is_written(run, density, tmp_path, change, options, message):
    path = tmp_path / "map.mrc"
    write_volume(path, density, PIXEL_SIZE)
    with open(path, "r+b") as file:  # the writer refuses NaN
        file.seek(1024)
        file.write(change(density).astype("<f4").tobytes())
    code, out, err = run("map.mrc", "-o", "model.npz", "--quiet", *options)
    assert code == 3 and out == "" and len(err) == 1
    assert err[0].startswith("error: map.mrc: ") and message in err[0]
    assert [p.name for p in tmp_path.iterdir()] == ["map.mrc"]


def test_files_that_are_no_maps_are_one_line(run, density, tmp_path):
    write_volume(tmp_path / "map.mrc", density, PIXEL_SIZE)
    (tmp_path / "map.tif").write_bytes(b"II")
    (tmp_path / "none.mrc").write_bytes(b"")
    write_volume(tmp_path / "empty.mrc", density, PIXEL_SIZE)
    edit_header(tmp_path / "empty.mrc", size=(0, 0, 0))
    for arguments, message in (
        (("map.tif", "-o", "model.npz"), "unknown kind of map"),
        (("map.mrc", "-o", "model.ply"), 'unknown kind of model ".ply"'),
        (("none.mrc", "-o", "model.npz"), "0 bytes, an MRC header is 1024"),
        (("empty.mrc", "-o", "model.npz"), "nx = 0 is not a size"),
        (("absent.mrc", "-o", "model.npz"), "no such file"),
    ):
        code, out, err = run(*arguments, "--quiet")
        assert code == 3 and out == "" and len(err) == 1, arguments
        assert message in err[0]
    assert not (tmp_path / "model.npz").exists()


def test_voxels_that_are_no_cubes_are_refused(run, density, tmp_path):
    for spread, code in ((1.005, 0), (1.02, 3)):
        write_volume(tmp_path / f"{code}.mrc", density, (2.0, 2.0, 2.0 * spread))
    assert read_map(tmp_path / "0.mrc")[2] == pytest.approx(2.0, rel=0.005)
    code, _, err = run("3.mrc", "-o", "model.npz", "--quiet")
    assert code == 3 and err == [
        "error: 3.mrc: voxels of 2 x 2 x 2.04 Å; expected cubes to 1 %; resample the map first"
    ]
    assert read_map(tmp_path / "3.mrc", 2.0)[2] == 2.0


def test_a_map_without_a_voxel_size_needs_one(run, density, tmp_path):
    write_volume(tmp_path / "map.mrc", density, 1.0)  # which is what programs write that do not know
    code, _, err = run("map.mrc", "-o", "model.npz", "--quiet")
    assert code == 3 and "no voxel size in the header; try --pixel-size" in err[0]


def test_the_start_of_the_grid_stands_in_for_an_origin_of_zero(density, tmp_path):
    """nstart counts along the axes of the file, here columns z, rows y, sections x."""
    path = tmp_path / "map.mrc"
    write_volume(path, density, 2.0)
    edit_header(path, start=(3, -4, 5), axes=(3, 2, 1), cell=2.0 * np.array(SHAPE), sampling=SHAPE)
    volume, _, size, origin = read_map(path)
    assert volume.shape == SHAPE[::-1] and size == pytest.approx(2.0)
    np.testing.assert_allclose(origin, (10, -8, 6))


def test_what_limits_a_map_is_said(rng):
    noise = rng.normal(size=SHAPE)
    assert any("without --signed" in note for note in remarks(noise, None, False))
    assert remarks(noise, None, True) == []
    assert any("the median of the map is 3" in note for note in remarks(0.1 * noise.clip(-3, 3) + 3, None, False))
    (note,) = remarks(np.arange(8.0).reshape(2, 2, 2), 2.0, False)
    assert note.startswith("25.0% of the voxels, below 2, are set to 0")


def test_the_table_has_one_line_for_each_level():
    rows = [Fidelity(1000, 46000, 20.04, 0.98765, 7.0, 3.21), Fidelity(2000, 90000, 10.2, 0.99, None, 11.0)]
    lines = table(rows)
    assert len(set(map(len, lines))) == 1
    assert lines[1].split() == ["1,000", "46", "20.0", "0.9877", "7.00", "Å", "3.2"]
    assert "Nyquist" in lines[2]
