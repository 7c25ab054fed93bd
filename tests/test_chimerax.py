"""ChimeraX files follow the documented syntax, and lie upon the run's map."""

import re
from dataclasses import replace

import gemmi
import numpy as np
import pytest
from scenes import random_cloud

from taigs.errors import InputError, RefusedError
from taigs.io.chimerax import contour_level, write_bild, write_cxc
from taigs.io.mrc import write_volume

HEADER = {"format": "taigs-model", "version": 1, "pixel_size_A": 2.0, "shape_zyx": [8, 10, 12]}
NUMBER = r"-?\d+\.\d+"
# The directives and commands used, as documented.
BILD = re.compile(rf"\.comment .*|\.color( {NUMBER}){{3}}|\.sphere( {NUMBER}){{4}}")
CXC = re.compile(
    r'#.*|open "[^"]+"|volume #\d style surface level [-+.e\d]+ color #[0-9a-f]{6}|hide #[\d,]+ models'
    r"|show #\d atoms|style #\d sphere|size #\d atomRadius [.\d]+|view"
    r"|color byattribute occupancy #\d palette 0,#[0-9a-f]{6}:1,#[0-9a-f]{6}"
)


@pytest.fixture
def cloud(rng):
    return random_cloud(rng, 40, (12, 10, 8), sigmas=(0.5, 3.0))


@pytest.fixture
def run(tmp_path, rng):
    (tmp_path / "a run").mkdir()
    for name in ("map", "half1", "half2", "mask"):
        write_volume(tmp_path / "a run" / f"{name}.mrc", rng.normal(size=(8, 10, 12)), 2.0)
    return tmp_path / "a run"


def test_spheres_stand_for_the_gaussians(tmp_path, cloud):
    signed = replace(cloud, masses=np.where(np.arange(40) < 3, -1, 1) * cloud.masses, signed=True)
    write_bild(tmp_path / "m.bild", signed, HEADER)
    lines = (tmp_path / "m.bild").read_text().splitlines()
    assert all(BILD.fullmatch(line) for line in lines)
    spheres = np.array([line.split()[1:] for line in lines if line.startswith(".sphere")], float)
    expected = np.column_stack([np.add(signed.positions, [11, 9, 7]), np.exp(signed.log_sigmas).mean(axis=1)])
    np.testing.assert_allclose(spheres[np.argsort(spheres[:, 0])], expected[np.argsort(expected[:, 0])], atol=6e-4)
    colours = np.array([line.split()[1:] for line in lines if line.startswith(".color")], float)
    assert colours.min() >= 0 and colours.max() <= 1 and len(colours) <= 33
    assert (colours[0, 2] > colours[0, 0]) and (colours[-1, 0] > colours[-1, 2])  # blue below 0, red for the largest


def test_a_script_opens_maps_halves_and_model_with_levels(tmp_path, cloud, run):
    cif = write_cxc(run / "open.cxc", cloud, HEADER, run)
    assert cif == run / "open.cif" and len(gemmi.read_structure(str(cif))[0]["A"]) == 40
    lines = (run / "open.cxc").read_text().splitlines()
    assert [line for line in lines if not CXC.fullmatch(line)] == []
    opened = [line.split('"')[1] for line in lines if line.startswith("open")]
    assert opened == ["map.mrc", "half1.mrc", "half2.mrc", "open.cif"]
    levels = [float(line.split()[5]) for line in lines if line.startswith("volume")]
    assert levels == pytest.approx([contour_level(run / name) for name in opened[:3]], rel=1e-5)
    assert "hide #2,3 models" in lines


def test_a_script_elsewhere_finds_the_maps_by_relative_names(tmp_path, cloud, run):
    """ChimeraX runs a script in the script's own folder."""
    (tmp_path / "elsewhere").mkdir()
    write_cxc(tmp_path / "elsewhere" / "open.cxc", cloud, HEADER, run)
    assert 'open "../a run/map.mrc"' in (tmp_path / "elsewhere" / "open.cxc").read_text()


def test_a_tomogram_is_opened_without_halves(tmp_path, cloud, rng):
    write_volume(tmp_path / "tomogram.mrc", rng.normal(size=(8, 10, 12)), 2.0)
    write_cxc(tmp_path / "open.cxc", cloud, HEADER, tmp_path)
    lines = (tmp_path / "open.cxc").read_text().splitlines()
    assert 'open "tomogram.mrc"' in lines and "hide #2 models" in lines


def test_the_level_encloses_a_share_of_the_box(tmp_path, rng):
    volume = rng.normal(size=(20, 30, 40))
    write_volume(tmp_path / "map.mrc", volume, 2.0)
    assert np.mean(volume > contour_level(tmp_path / "map.mrc")) == pytest.approx(0.02, abs=1e-3)


def test_a_folder_without_a_map_is_refused(tmp_path, cloud):
    with pytest.raises(InputError, match=r"no map.mrc or tomogram.mrc; expected the folder of a run"):
        write_cxc(tmp_path / "open.cxc", cloud, HEADER, tmp_path)
    with pytest.raises(InputError, match=r"ending in \.cxc"):
        write_cxc(tmp_path / "open.cif", cloud, HEADER, tmp_path)
    assert not list(tmp_path.iterdir())


def test_neither_file_is_written_if_one_exists(cloud, run):
    (run / "open.cif").write_text("precious")
    with pytest.raises(RefusedError):
        write_cxc(run / "open.cxc", cloud, HEADER, run)
    assert (run / "open.cif").read_text() == "precious" and not (run / "open.cxc").exists()
