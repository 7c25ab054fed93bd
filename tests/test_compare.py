"""`taigs compare`: scores against slow references and the peers' metrics, atoms on a map's grid, and refusals."""

import json
import sys
import warnings

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from taigs import runtime
from taigs.atoms import read_atoms
from taigs.cli import main as cli
from taigs.compare import compare, ssim
from taigs.errors import InputError, TaigsError
from taigs.io.mrc import write_volume

SHAPE = (20, 26, 33)


@pytest.fixture
def pair(rng):
    """A noisy map, its truth, and a mask."""
    truth = gaussian_filter(rng.normal(size=SHAPE), 1.5)
    z, y, x = (np.arange(n) - n / 2 for n in SHAPE)
    mask = np.clip(9 - np.sqrt(x**2 + y[:, None] ** 2 + z[:, None, None] ** 2), 0, 1)
    return 3 * truth + rng.normal(0, 0.2, SHAPE) - 1, truth, mask


@pytest.fixture
def folder(tmp_path, monkeypatch, pair):
    """map.mrc, truth.mrc and mask.mrc, in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name, volume in zip(("map", "truth", "mask"), pair, strict=True):
        write_volume(f"{name}.mrc", volume, 4.0)
    monkeypatch.setattr(runtime, "init", lambda *arguments, **options: runtime.current())
    return tmp_path


def taigs_compare(*arguments):
    """(exit code, stdout, stderr) of the command, run in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])
    if isinstance(result.exception, TaigsError):
        return result.exception.exit_code, result.stdout, f"error: {result.exception}\n"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


# --- the scores ----------------------------------------------------------------------------------


def slow_ssim(x, y, width=7):
    """Window by window, with NumPy's own covariances."""
    slope, offset = np.polyfit(x.ravel(), y.ravel(), 1)
    x = slope * x + offset
    c1, c2 = (0.01 * np.ptp(y)) ** 2, (0.03 * np.ptp(y)) ** 2
    found = []
    for corner in np.ndindex(*(n - width + 1 for n in y.shape)):
        window = tuple(slice(i, i + width) for i in corner)
        a, b = x[window].ravel(), y[window].ravel()
        (va, vab), (_, vb) = np.cov(a, b)
        found.append(
            (2 * a.mean() * b.mean() + c1) * (2 * vab + c2) / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (va + vb + c2))
        )
    return np.mean(found)


def test_ssim_equals_its_definition_window_by_window(pair):
    volume, truth = (v[:9, :12, :11] for v in pair[:2])
    assert ssim(volume, truth) == pytest.approx(slow_ssim(volume, truth), abs=1e-9)


def test_ssim_of_a_rescaled_truth_is_one_and_a_slab_has_none(pair):
    _, truth, _ = pair
    assert ssim(5 - 2 * truth, truth) == pytest.approx(1)
    assert ssim(truth[:6], truth[:6]) is None


def test_scores_do_not_depend_on_scale_and_offset(pair):
    volume, truth, mask = pair
    one, other = (compare(v, truth, 4.0, mask, 60) for v in (volume, 7 * volume + 100))
    for key in ("ncc", "ncc_masked", "psnr", "ssim"):
        assert one[key] == pytest.approx(other[key], rel=1e-9)
    assert one["fsc"]["unmasked"]["curve"][1:] == pytest.approx(other["fsc"]["unmasked"]["curve"][1:])


@pytest.mark.shared
def test_scores_are_those_of_the_peers_metrics(shared, pair, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "peers"))
    import metrics

    volume, truth, mask = pair
    scores = compare(volume, truth, 4.0, mask, 60)
    found, _ = metrics.full(volume, truth, 4.0, mask, 60)
    names = {"fsc": "unmasked", "fsc_mask": "masked", "fsc_in": "measured region", "fsc_out": "missing wedge"}
    for theirs, ours in names.items():
        assert scores["fsc"][ours]["mean"] == pytest.approx(found[theirs]["auc"], abs=6e-5)
        for key, label in (("at_0.5", "res05"), ("at_0.143", "res0143")):
            # Where the curve does not cross, theirs is Nyquist.
            crossing = scores["fsc"][ours][key]
            expected = max(SHAPE) * 4.0 / (max(SHAPE) // 2) if crossing is None else crossing
            assert expected == pytest.approx(found[theirs][label], abs=6e-4)
    assert scores["ncc"] == pytest.approx(metrics.ncc(volume, truth), abs=1e-9)
    assert scores["ncc_masked"] == pytest.approx(metrics.ncc(volume, truth, mask), abs=1e-9)
    assert scores["psnr"] == pytest.approx(metrics.psnr(volume, truth), abs=1e-6)
    sys.modules.pop("metrics")


# --- the command ---------------------------------------------------------------------------------


def test_the_table_holds_every_score(folder):
    code, out, err = taigs_compare("map.mrc", "truth.mrc", "--mask", "mask.mrc", "--wedge", 60, "--json", "scores.json")
    assert (code, err) == (0, "")
    scores = json.loads((folder / "scores.json").read_text())
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert {"FSC", "unmasked", "masked", "measured region", "missing wedge", "NCC", "PSNR", "SSIM"} <= lines.keys()
    assert "33 x 26 x 20 voxels of 4 Å" in out
    for name, row in scores["fsc"].items():
        assert f"{row['mean']:.3f}" in lines[name] and f"{row['at_0.5']:.1f} Å" in lines[name]
        assert len(row["curve"]) == 17
    assert f"{scores['ncc']:.4f}, {scores['ncc_masked']:.4f} masked" in lines["NCC"]
    assert f"{scores['psnr']:.2f} dB" in lines["PSNR"] and f"{scores['ssim']:.4f}" in lines["SSIM"]
    assert (scores["map"], scores["truth"]) == ("map.mrc", "truth.mrc")


def test_a_negative_map_is_pointed_at(folder, pair):
    write_volume("dark.mrc", -pair[0], 4.0)
    assert "dark where the other is bright" in taigs_compare("dark.mrc", "truth.mrc")[1]


def test_a_map_compared_with_itself_is_warned_of(folder):
    code, out, err = taigs_compare("map.mrc", "map.mrc")
    assert code == 0 and "compared with itself" in err
    assert "not crossed" in out and "NCC     1.0000" in out


def test_bad_input_is_one_line_and_leaves_nothing(folder, pair):
    volume = pair[0]
    write_volume("small.mrc", volume[1:], 4.0)
    write_volume("coarse.mrc", volume, 5.0)
    write_volume("unset.mrc", volume, 1.0)
    write_volume("constant.mrc", np.zeros(SHAPE), 4.0)
    hole = volume.astype(np.float32)
    hole[3, 2, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mrcfile does not like it either
        mrcfile.write("nan.mrc", hole, voxel_size=4.0)
    (folder / "notes.txt").write_text("no map")
    before = set(folder.iterdir())
    for arguments, message in (
        (["map.mrc", "missing.mrc"], "missing.mrc: no such file"),
        (["map.mrc", "notes.txt"], "notes.txt: 6 bytes, an MRC header is 1024"),
        (["map.mrc", "small.mrc"], "33 x 26 x 19 voxels (x, y, z); expected the same"),
        (["map.mrc", "coarse.mrc"], "of 5 Å; expected the same"),
        (["unset.mrc", "unset.mrc"], "no voxel size in the header"),
        (["map.mrc", "constant.mrc"], "every voxel is 0; expected density"),
        (["map.mrc", "nan.mrc"], "NaN or infinite voxels"),
        (["map.mrc", "truth.mrc", "--mask", "small.mrc"], "small.mrc: mask has shape"),
        (["map.mrc", "truth.mrc", "--wedge", "95"], "95"),
    ):
        code, out, err = taigs_compare(*arguments, "--json", "scores.json")
        assert (code, out) == (3, "") and message in err and err.count("\n") == 1, arguments
    assert set(folder.iterdir()) == before


def test_figures_are_not_overwritten_unasked_and_inputs_never(folder):
    (folder / "scores.json").write_text("precious")
    assert taigs_compare("map.mrc", "truth.mrc", "--json", "scores.json")[0] == 6
    assert (folder / "scores.json").read_text() == "precious"
    assert taigs_compare("map.mrc", "truth.mrc", "--json", "scores.json", "--overwrite")[0] == 0
    assert taigs_compare("map.mrc", "truth.mrc", "--json", "map.mrc", "--overwrite")[0] == 6


# --- atoms ---------------------------------------------------------------------------------------

PIXEL, ORIGIN = 2.0, np.array([30.0, -14.0, 8.0])


@pytest.fixture
def model(folder, rng):
    """atoms.cif with 40 atoms, and atoms.mrc with their density, Gaussians of sigma 1.4 A, drawn by NumPy."""
    gemmi = pytest.importorskip("gemmi")
    structure, chain = gemmi.Structure(), gemmi.Chain("A")
    first, n = gemmi.Model("1") if gemmi.__version__ < "0.7" else gemmi.Model(1), np.array([24, 22, 20])  # x, y, z
    positions = ORIGIN + PIXEL * (n - 1) / 2 + rng.uniform(-9, 9, (40, 3))
    positions[:20, 0] += 4  # unlike its mirror images
    for i, position in enumerate(positions):
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = "C", gemmi.Element("C"), gemmi.Position(*position)
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(i + 1))
        residue.add_atom(atom)
        chain.add_residue(residue)
    first.add_chain(chain)
    structure.add_model(first)
    structure.make_mmcif_document().write_file("atoms.cif")
    axes = [ORIGIN[i] + PIXEL * np.arange(n[i]) for i in range(3)]
    x, y, z = (np.exp(-((a - positions[:, i, None]) ** 2) / 2 / 1.4**2) for i, a in enumerate(axes))
    return np.einsum("nz,ny,nx->zyx", z, y, x)


def test_atoms_are_read_with_their_electron_scattering(model):
    atoms = read_atoms("atoms.cif")
    assert len(atoms.weights) == 40 and atoms.weights == pytest.approx(np.full(40, 2.51), abs=0.01)


@pytest.mark.parametrize("how", ["origin", "nstart"])
def test_a_map_is_compared_with_atoms_where_its_header_puts_them(cpu32, folder, model, how):
    with mrcfile.new("atoms.mrc", model.astype(np.float32)) as file:
        file.voxel_size = PIXEL
        if how == "origin":
            file.header.origin.x, file.header.origin.y, file.header.origin.z = ORIGIN
        else:
            file.nstart = tuple(int(o / PIXEL) for o in ORIGIN)
    code, _, err = taigs_compare("atoms.mrc", "atoms.cif", "--json", "scores.json")
    assert code == 0 and "40 atoms as Gaussians of sigma 1.20 Å" in err
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["ncc"] > 0.97
    assert min(scores["fsc"]["unmasked"]["curve"][1:10]) > 0.99  # amplitudes differ, but not within a shell
    with mrcfile.open("atoms.mrc", "r+") as file:
        file.set_data(model[::-1].astype(np.float32))
    taigs_compare("atoms.mrc", "atoms.cif", "--json", "scores.json", "--overwrite")
    assert json.loads((folder / "scores.json").read_text())["ncc"] < 0.8  # the mirror image


def test_atoms_elsewhere_are_refused(cpu32, model):
    write_volume("atoms.mrc", model, PIXEL)
    code, _, err = taigs_compare("atoms.mrc", "atoms.cif")
    assert code == 3 and "of the atoms lie inside" in err and err.count("\n") == 1


def test_files_without_atoms_are_refused(folder):
    pytest.importorskip("gemmi")
    for name, content in (
        ("empty.pdb", "REMARK\n"),
        ("bad.cif", "data_x\nloop_\n_a\n'open"),
        ("binary.pdb", "\x00\x01"),
    ):
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=name):
            read_atoms(name)
