"""`taigs fsc` from the files to the terminal, the folder and the exit code."""

import csv
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import relion
from typer.testing import CliRunner

from taigs import fsc_run, half_maps
from taigs.cli import main as cli
from taigs.errors import InputError, InputWarning, TaigsError
from taigs.io.mrc import read_volume, write_volume
from taigs.sharpening import sharpen


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """half1.mrc, half2.mrc and mask.mrc, in the current directory."""
    half1, half2, mask, voxel_size = relion.half_maps("even")
    for name, volume in (("half1", half1), ("half2", half2), ("mask", mask)):
        write_volume(tmp_path / f"{name}.mrc", volume, voxel_size)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def taigs_fsc(*arguments):
    """(exit code, stdout, stderr) of the command, run in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # the command reports warnings; pytest would raise them
        result = CliRunner().invoke(cli.app, ["fsc", *map(str, arguments)])
    if isinstance(result.exception, TaigsError):
        return result.exception.exit_code, result.stdout, f"error: {result.exception}\n"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def table(stdout):
    """{first cell: other cells} of the printed table."""
    lines = stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("FSC "))
    rows = [line.split("  ") for line in lines[start + 1 : lines.index("", start)] if not line.startswith("(")]
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def test_without_a_mask_there_is_the_unmasked_figure_alone(folder):
    code, out, err = taigs_fsc("half1.mrc", "half2.mrc")
    assert code == 0
    assert list(table(out)) == ["unmasked"]
    assert table(out)["unmasked"][1:] == ["10.15 Å", "7.11 Å", "7.27 Å"]
    assert "mask        none" in out and "cFAR" in out and "(SIMPLE definition)" in out
    assert "40 x 40 x 40 voxels of 2 Å" in out
    assert out.splitlines()[-1].startswith("7.11 Å at FSC 0.143, unmasked; cFAR 0.")
    assert "not how true they are" in err
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_with_a_mask_there_are_all_figures_and_the_masks_share(folder):
    code, out, err = taigs_fsc("half1.mrc", "half2.mrc", "--mask", "mask.mrc", "--quiet")
    assert (code, err) == (0, "")
    assert list(table(out)) == ["unmasked", "masked", "phase-randomised", "corrected"]
    assert table(out)["masked"][-1] == "6.15 Å"  # rlnFinalResolution
    assert "mask.mrc, 14.8% of the box" in out


def test_the_folder_holds_curves_report_and_what_was_run(folder):
    code, out, _ = taigs_fsc("half1.mrc", "half2.mrc", "--mask", "mask.mrc", "--sharpen", "-50", "-o", "out")
    assert code == 0
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {
        "command.txt", "config.json", "environment.json", "fsc.csv", "fsc.xml", "postprocess.star", "report.html",
        "run.log", "sharpened.mrc",
    }  # fmt: skip
    assert out.splitlines()[-1] == "report: out/report.html"
    rows = list(csv.DictReader((folder / "out/fsc.csv").read_text().splitlines()))
    np.testing.assert_allclose(
        [float(row["masked"]) for row in rows], relion.curves("even", relion.MASKED)[0], atol=1e-5
    )
    star = (folder / "out/postprocess.star").read_text()
    assert relion.pairs(star)["rlnMaskName"] == "mask.mrc"
    sharpened, header = read_volume(folder / "out/sharpened.mrc")
    assert header.voxel_size == (2, 2, 2) and "B -50.0 A^2" in header.labels[0]
    half1, half2, _, _ = relion.half_maps("even")
    corrected = [float(row["corrected"]) for row in rows]
    expected = sharpen((half1 + half2) / 2, 2.0, -50.0, corrected).volume
    np.testing.assert_allclose(sharpened, expected, atol=1e-3 * expected.max())
    report = (folder / "out/report.html").read_text()
    assert "phase-randomised" in report and report.count("<figure>") == 2 and "not how true" in report
    config = json.loads((folder / "out/config.json").read_text())
    assert config["mask"] == "mask.mrc" and config["sharpen"] == -50


def test_a_mask_made_from_the_maps_is_described_and_kept(folder):
    code, out, _ = taigs_fsc("half1.mrc", "half2.mrc", "--auto-mask", "-o", "out")
    assert code == 0
    assert "made from the average: low-pass" in out
    mask, _ = read_volume(folder / "out/auto_mask.mrc")
    assert mask.max() == 1 and f"{mask.mean():.1%} of the box" in out
    assert relion.pairs((folder / "out/postprocess.star").read_text())["rlnMaskName"] == "out/auto_mask.mrc"


def test_a_curve_that_never_crosses_is_no_resolution(folder):
    volume, _ = read_volume("half1.mrc")
    write_volume("again.mrc", volume, 2.0)
    code, out, err = taigs_fsc("half1.mrc", "again.mrc", "--quiet")
    assert code == 0
    assert table(out)["unmasked"] == ["1.000", "not crossed", "not crossed", "not crossed"]
    assert "(not crossed: at or beyond Nyquist, 4.00 Å)" in out
    assert out.splitlines()[-1] == "FSC 0.143 not crossed: at or beyond Nyquist, unmasked; cFAR 1.00."
    assert err == "warning: half1.mrc and again.mrc hold the same map: its FSC is 1 whatever it shows\n"


def test_a_given_pixel_size_overrules_the_headers(folder):
    code, out, _ = taigs_fsc("half1.mrc", "half2.mrc", "--pixel-size", "4", "--quiet")
    assert code == 0
    assert table(out)["unmasked"][1:] == ["20.31 Å", "14.22 Å", "14.55 Å"]


def test_the_seed_decides_the_random_phases_and_nothing_else(folder):
    runs = [taigs_fsc("half1.mrc", "half2.mrc", "--mask", "mask.mrc", "-q", "--seed", seed)[1] for seed in (0, 0, 5)]
    assert runs[0] == runs[1] != runs[2]
    assert table(runs[0])["masked"] == table(runs[2])["masked"]


def test_directions_that_differ_are_warned_of(folder):
    half1, half2, _, _ = relion.half_maps("even")
    k = np.meshgrid(*[np.fft.fftfreq(40)] * 3, indexing="ij")
    missing = np.abs(k[0]) > np.sqrt(sum(c * c for c in k)) * np.cos(np.radians(50))
    noise = np.random.default_rng(0).normal(size=(2, 40, 40, 40))
    for name, half, own in (("a.mrc", half1, noise[0]), ("b.mrc", half2, noise[1])):
        transform = np.where(missing, np.fft.fftn(own), np.fft.fftn(half))
        write_volume(name, np.fft.ifftn(transform).real, 2.0)
    code, _, err = taigs_fsc("a.mrc", "b.mrc", "-q")
    assert code == 0
    assert "warning: cFAR 0." in err and "depends on the direction" in err


def test_no_b_factor_at_low_resolution_is_said(folder):
    code, out, err = taigs_fsc("half1.mrc", "half2.mrc", "--mask", "mask.mrc", "--sharpen", "auto", "-o", "out", "-q")
    assert code == 0
    assert "no B-factor can be fitted" in err and "B-factor    0.0 Å²" in out
    assert "no B-factor can be fitted" in (folder / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["half1.mrc", "./half1.mrc"], "half1.mrc, half1.mrc: one and the same file"),
        (["half1.mrc", "hlaf2.mrc"], "no such file; did you mean half2.mrc"),
        (["half1.mrc", "small.mrc"], "half1.mrc is 40 x 40 x 40, small.mrc is 40 x 40 x 38 voxels"),
        (["half1.mrc", "other.mrc"], "half1.mrc has voxels of 2 Å, other.mrc of 2.1 Å"),
        (["half1.mrc", "unset.mrc"], "unset.mrc: no voxel size in the header; try --pixel-size"),
        (["half1.mrc", "slab.mrc"], "slab.mrc: voxels of 2 x 2 x 4 Å; expected cubes"),
        (["half1.mrc", "nan.mrc"], r"nan.mrc: 2 NaN or infinite voxels, the first at \(z, y, x\) = \(1, 2, 3\)"),
        (["half1.mrc", "flat.mrc"], "second half map is constant"),
        (["half1.mrc", "half2.mrc", "--mask", "small.mrc"], r"small.mrc: mask has shape \(38, 40, 40\)"),
        (["half1.mrc", "half2.mrc", "--mask", "zero.mrc"], "zero.mrc: mask is empty"),
        (["half1.mrc", "half2.mrc", "--mask", "half1.mrc"], "half1.mrc: mask has values from"),
        (["dark.mrc", "darker.mrc", "--auto-mask"], "no structure stands out"),
    ],
)
def test_unusable_files_end_with_3_and_are_named(folder, arguments, message):
    volume, _ = read_volume("half1.mrc")
    other, _ = read_volume("half2.mrc")
    write_volume("small.mrc", volume[:38], 2.0)
    write_volume("other.mrc", other, 2.1)
    write_volume("slab.mrc", other, (2.0, 2.0, 4.0))
    write_volume("zero.mrc", np.zeros(volume.shape), 2.0)
    write_volume("flat.mrc", np.ones(volume.shape), 2.0)
    write_volume("dark.mrc", -np.abs(volume), 2.0)
    write_volume("darker.mrc", -np.abs(other), 2.0)
    write_volume("unset.mrc", other, 2.0)
    np.memmap("unset.mrc", np.float32, "r+", offset=40, shape=3)[:] = 0  # the cell's edges
    write_volume("nan.mrc", other, 2.0)
    np.memmap("nan.mrc", np.float32, "r+", offset=1024, shape=other.shape)[[1, 5], [2, 6], [3, 7]] = np.nan
    code, out, err = taigs_fsc(*arguments, "-o", "out", "-q")
    assert (code, out) == (3, "")
    with pytest.raises(InputError, match=message):
        raise InputError(err)
    assert not (folder / "out").exists()


def test_a_mask_of_other_voxel_size_is_warned_of(folder):
    mask, _ = read_volume("mask.mrc")
    write_volume("coarse.mrc", mask, 2.5)
    with pytest.warns(InputWarning, match=r"coarse.mrc: voxel size 2.5 Å, the half maps 2 Å"):
        half_maps.read_half_maps("half1.mrc", "half2.mrc", mask="coarse.mrc")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "mask.mrc", "--auto-mask"], "exclude each other"),
        (["--sharpen", "auto"], "give -o DIR too"),
        (["--sharpen", "much", "-o", "out"], "neither auto nor a number"),
        (["--pixel-size", "-1"], "expected a positive number"),
    ],
)
def test_wrong_usage_ends_with_2(folder, arguments, message):
    code, out, err = taigs_fsc("half1.mrc", "half2.mrc", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_folder_with_files_is_refused_and_an_input_is_never_replaced(folder):
    (folder / "out").mkdir()
    for name in ("half1.mrc", "half2.mrc"):
        (folder / name).rename(folder / "out" / name)
    (folder / "mask.mrc").rename(folder / "out/auto_mask.mrc")
    arguments = ("out/half1.mrc", "out/half2.mrc", "--mask", "out/auto_mask.mrc", "-o", "out", "-q")
    code, out, err = taigs_fsc(*arguments)
    assert (code, out) == (6, "") and "--overwrite" in err
    before = (folder / "out/auto_mask.mrc").read_bytes()
    code, out, err = taigs_fsc(*arguments, "--overwrite")
    assert (code, out) == (6, "") and "out/auto_mask.mrc: would be overwritten" in err
    assert (folder / "out/auto_mask.mrc").read_bytes() == before
    (folder / "out/auto_mask.mrc").rename(folder / "mask.mrc")
    assert taigs_fsc(*arguments[:2], "-o", "out", "-q", "--overwrite")[0] == 0


def test_the_installed_command_prints_its_figures_on_stdout(folder):
    command = [sys.executable, "-m", "taigs.cli.main", "fsc", "half1.mrc", "half2.mrc", "--mask", "mask.mrc", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert table(done.stdout)["masked"][-1] == "6.15 Å"


def test_help_has_an_example_and_imports_nothing_heavy():
    result = CliRunner().invoke(cli.app, ["fsc", "--help"])
    assert result.exit_code == 0 and "Example:\n    taigs fsc" in result.stdout
    code = (
        "import sys\nfrom taigs.cli.main import app\n"
        "try:\n    app(['fsc', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'taichi', 'scipy', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_cones_that_do_not_cross_are_counted():
    curves = np.array([[1, 1, 1, 1, 0.5, 0.1], [1, 1, 1, 1, 0.6, 0.5]])
    cones = fsc_run.DirectionalFsc(np.eye(3)[:2], curves, 10, 2.0)
    outcome = fsc_run.Outcome(fsc_run.HalfMapFsc(10, 2.0, curves[0]), cones, None, 0.0)
    assert "1 not crossed" in outcome.directions
    none = fsc_run.DirectionalFsc(np.eye(3)[:1], curves[1:], 10, 2.0)
    assert fsc_run.Outcome(outcome.fsc, none, None, 0.0).directions.endswith("none crossed")
