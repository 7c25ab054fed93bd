"""Every command on maps and models, given what it cannot use: one line, exit code 3, nothing on stdout, no file."""

import json
import shutil
import sys

import numpy as np
import pytest

from taigs import runtime
from taigs.cli import main as cli
from taigs.cloud import GaussianCloud
from taigs.io.clouds import write_cloud
from taigs.io.mrc import _HEADER, write_volume

SHAPE, VOXEL = (12, 12, 12), 4.0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a map, a model and what goes wrong with them."""
    folder = tmp_path_factory.mktemp("bad")
    volume = np.exp(-((np.indices(SHAPE) - 5.5) ** 2).sum(axis=0) / 8).astype("<f4")
    for name, values in {"map": volume, "nan": volume * np.nan, "constant": 0 * volume + 3, "zero": 0 * volume}.items():
        write_volume(folder / f"{name}.mrc", volume, VOXEL)
        with open(folder / f"{name}.mrc", "r+b") as file:  # the writer refuses NaN
            file.seek(1024)
            file.write(values.tobytes())
    header = np.fromfile(folder / "map.mrc", _HEADER, 1)
    header["size"] = 0
    (folder / "sizeless.mrc").write_bytes(header.tobytes())
    (folder / "empty.mrc").write_bytes(b"")
    (folder / "map.xyz").write_bytes(b"neither a map nor a model" * 99)
    ones = np.ones(5)
    cloud = GaussianCloud(np.arange(15.0).reshape(5, 3), np.full((5, 3), 1.6), np.tile([1.0, 0, 0, 0], (5, 1)), ones)
    write_cloud(folder / "model.npz", cloud, VOXEL, SHAPE)
    with np.load(folder / "model.npz") as file:
        arrays = {**file}
    arrays["header"] = np.frombuffer(json.dumps(json.loads(bytes(arrays["header"])) | {"version": 2}).encode(), "u1")
    np.savez(folder / "newer.npz", **arrays)
    shutil.copy(folder / "model.npz", folder / "model.xyz")
    (folder / "tilts.tlt").write_text("-30\n0\n30\n")
    return folder


MAPS = (  # what is wrong with a map, and how each command that reads maps says it
    ("empty.mrc", "0 bytes, an MRC header is 1024"),
    ("sizeless.mrc", "nx = 0 is not a size"),
    ("nan.mrc", "NaN or infinite"),
    ("constant.mrc", "every voxel is 3|0 voxels above the contour 3, maximum 3"),
    ("zero.mrc", "every voxel is 0|0 voxels above the contour 0, maximum 0"),
    ("map.xyz", 'unknown kind of map|unknown extension ".xyz"|not an MRC file'),
    ("absent.mrc", "no such file"),
)
MODELS = (
    ("newer.npz", "model version 2; expected 1; try a newer taigs"),
    ("model.xyz", 'unknown kind of model ".xyz"|unknown extension ".xyz"'),
    ("absent.npz", "no such file"),
)
OF_MAPS = (
    "fit @ -o new.npz",
    "simulate spa @ -o new",
    "simulate tilt @ -o new",
    "compare @ map.mrc",
    "compare map.mrc @",
)
OF_MODELS = (
    "voxelize @ -o new.mrc", "project @ --tilt-angles tilts.tlt -o new.mrcs", "export @ --to ply", "export @ --to cif",
    "export @ --to bild", "export @ --to cxc", "view @", "simulate spa @ -o new", "simulate tilt @ -o new",
)  # fmt: skip
OTHERS = (
    ("fit map.mrc -o new.npz --contour 9", "contour 9 is not below the maximum, 0.9105"),
    ("simulate spa map.mrc -o new --contour 9", "0 voxels above the contour 9, maximum 0.9105"),
    ("simulate tilt map.mrc -o new --contour 9", "0 voxels above the contour 9, maximum 0.9105"),
    ("fit map.mrc -o new.xyz", 'unknown kind of model ".xyz"; expected .npz'),
    ("voxelize model.npz -o new.xyz", 'unknown kind of map ".xyz"; expected .mrc'),
    ("project model.npz --tilt-angles tilts.tlt -o new.xyz", 'unknown extension ".xyz"; expected .mrcs'),
    ("export model.npz -o new.xyz", 'unknown kind of file ".xyz"; expected one of ply'),
    ("view model.npz -o new.xyz", 'unknown kind of page ".xyz"; expected .html'),
    ("evaluate model.npz", "model.npz: is a file; expected the folder of a run"),
    ("evaluate absent", "absent: no such folder; expected the folder of a run"),
    ("evaluate .", "holds no run of taigs tilt or taigs spa"),
)
CASES = [
    *((command.replace("@", name), said) for name, said in MAPS for command in OF_MAPS),
    *((command.replace("@", name), said) for name, said in MODELS for command in OF_MODELS),
    *OTHERS,
]


@pytest.mark.parametrize(("command", "said"), CASES, ids=[command for command, _ in CASES])
def test_a_command_says_in_one_line_what_it_cannot_use(files, cpu32, monkeypatch, capsys, command, said):
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "argv", ["taigs", *command.split(), "--quiet"])
    monkeypatch.setattr(runtime, "init", lambda *_, **__: runtime.current())
    before = set(files.iterdir())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 3 and out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    assert any(words in err for words in said.split("|")), err
    assert set(files.iterdir()) == before
