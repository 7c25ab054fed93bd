"""`taigs spa` from the files to the terminal, the folder and the exit code."""

import csv
import functools
import json
import shutil
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from taigs import runtime, spa_report, spa_run
from taigs.cli import main as cli
from taigs.errors import InputError, TaigsError
from taigs.evaluate import evaluate_run
from taigs.imaging.ctf import Ctf
from taigs.io.clouds import read_cloud
from taigs.io.mrc import read_volume, write_stack, write_volume
from taigs.io.particles import read_particles_with_notes
from taigs.io.star import Table, read_star, write_star
from taigs.metrics import fsc, mean_fsc
from taigs.phantom import phantom_particles, phantom_scene, phantom_volume
from taigs.render import voxelize
from taigs.spa import reconstruct_particles
from taigs.views import Grid

N, PIXEL_SIZE, PARTICLES = 32, 8.0, 200
GRID = Grid((N,) * 3, PIXEL_SIZE, (N // 2,) * 3)
MAPS = ("map", "half1", "half2", "direct", "direct_half1", "direct_half2")
FILES = {f"{name}.mrc" for name in (*MAPS, "mask")} | {
    "model.npz", "fsc.csv", "fsc.xml", "postprocess.star", "metrics.csv", "report.html", "run.log", "config.json",
    "command.txt", "environment.json", "DONE",
}  # fmt: skip
KNOWN = {}  # the folder of a run that several tests look at, and what it said


@functools.cache
def simulated():
    """(images, Euler angles, shifts in pixels, Ctf, truth) of a phantom."""
    rng = np.random.default_rng(4)
    scene = phantom_scene(rng, (210.0,) * 3)
    angles = Rotation.random(PARTICLES, random_state=4).as_euler("ZYZ", degrees=True)
    # rlnAngleRot is the first rotation, psi the last; RELION's matrices turn coordinate systems.
    matrices = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    shifts = rng.normal(0, 1.5, (PARTICLES, 2))
    ctf = Ctf(300.0, 2.7, 0.1, *rng.uniform(15000, 30000, (2, PARTICLES)), rng.uniform(0, 90, PARTICLES))
    images = phantom_particles(scene, matrices, shifts, N, PIXEL_SIZE, ctf, 0.3, rng)
    return images, angles, shifts, ctf, phantom_volume(scene, GRID)


def particles(folder, **columns):
    """p.star and p.mrcs of a phantom in a folder, with columns replaced or, if None, left out; (path, truth)."""
    images, angles, shifts, ctf, truth = simulated()
    write_stack(folder / "p.mrcs", images, PIXEL_SIZE, overwrite=True)
    table = {
        "rlnImageName": [f"{i + 1:06d}@p.mrcs" for i in range(PARTICLES)],
        **{f"rlnAngle{name}": column for name, column in zip(("Rot", "Tilt", "Psi"), angles.T, strict=True)},
        **{f"rlnOrigin{axis}Angst": -PIXEL_SIZE * column for axis, column in zip("XY", shifts.T, strict=True)},
        "rlnDefocusU": ctf.defocus_u,
        "rlnDefocusV": ctf.defocus_v,
        "rlnDefocusAngle": ctf.defocus_angle,
        "rlnRandomSubset": 1 + np.arange(PARTICLES) % 2,
        "rlnOpticsGroup": np.ones(PARTICLES, int),
    } | columns
    optics = {
        "rlnOpticsGroup": [1], "rlnImagePixelSize": [PIXEL_SIZE], "rlnImageSize": [N], "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    tables = [Table("optics", optics), Table("particles", {k: c for k, c in table.items() if c is not None})]
    write_star(folder / "p.star", tables, overwrite=True)
    return folder / "p.star", truth


def taigs_spa(*arguments):
    """(exit code, stdout, stderr) of the command, run in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # the command reports warnings; pytest would raise them
        result = CliRunner().invoke(cli.app, ["spa", *map(str, arguments), "--arch", "cpu"])
    if isinstance(result.exception, TaigsError):
        return result.exception.exit_code, result.stdout, f"error: {result.exception}\n"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    # Taichi's banner is kept from file descriptor 1, which is not where this runner looks.
    out = "".join(line for line in result.stdout.splitlines(keepends=True) if not line.startswith("[Taichi]"))
    return result.exit_code, out, result.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(star, truth)."""
    return particles(tmp_path_factory.mktemp("spa"))


@pytest.fixture
def run(data, tmp_path_factory, cpu32):
    """(folder, stdout, stderr, truth) of a run with defaults and --sharpen."""
    if not KNOWN:
        folder = tmp_path_factory.mktemp("run") / "out"
        code, out, err = taigs_spa(data[0], "-o", folder, "--sharpen", "-200")
        assert code == 0, err
        KNOWN["run"] = folder, out, err, data[1]
    return KNOWN["run"]


@pytest.fixture
def fit(monkeypatch):
    """A stand-in for the reconstruction that records what it is called with."""
    calls = []

    def run_spa(views, directory, *, progress, **settings):
        calls.append((views, settings))
        return spa_run.Verdict("a verdict", False, ["a doubt"])

    monkeypatch.setattr(spa_run, "run_spa", run_spa)
    return calls


# --- what is written -----------------------------------------------------------------------------


def test_the_folder_holds_everything_and_stdout_the_map_alone(run):
    folder, out, err, _ = run
    assert {path.name for path in folder.iterdir()} == FILES | {"map_sharpened.mrc"}
    assert out == f"{folder}/map.mrc\n"
    assert "fitting half 1" in err and "note: half-sets as in the file" in err
    assert err.splitlines()[-1].startswith("taigs predicts the images of the other half better than the direct Fourier")
    assert "Half maps: " in err and "direct Fourier maps of the same images" in err
    assert json.loads((folder / "config.json").read_text())["sharpen"] == -200
    assert "Half maps: " in (folder / "run.log").read_text()


def test_every_map_has_the_voxel_size_and_says_what_it_is(run):
    for name in (*MAPS, "mask", "map_sharpened"):
        volume, header = read_volume(run[0] / f"{name}.mrc")
        assert volume.shape == (N,) * 3 and header.dtype == np.float32
        assert header.voxel_size == (PIXEL_SIZE,) * 3
        if name in MAPS:
            assert "image units per voxel, protein bright" in header.labels[0]
            assert ("direct" in name) == ("direct" in header.labels[0])


def test_the_map_is_the_model_and_closer_to_the_truth_than_the_direct_map(run):
    folder, _, _, truth = run
    volume, _ = read_volume(folder / "map.mrc")
    cloud, header = read_cloud(folder / "model.npz")
    assert header["shape_zyx"] == [N] * 3 and header["pixel_size_A"] == PIXEL_SIZE
    again = voxelize(cloud, GRID) * PIXEL_SIZE
    np.testing.assert_allclose(volume, again, atol=1e-5 * volume.max())
    ours, direct = (mean_fsc(fsc(read_volume(folder / f"{name}.mrc")[0], truth)[0]) for name in ("map", "direct"))
    assert ours > direct + 0.05 and ours > 0.8


def test_the_curves_are_those_of_the_maps_in_every_file(run):
    folder = run[0]
    rows = list(csv.DictReader((folder / "fsc.csv").read_text().splitlines()))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    assert len(rows) == N // 2 + 1
    masks = {"unmasked": None, "masked": read_volume(folder / "mask.mrc")[0]}
    for prefix in ("", "direct_"):
        halves = [read_volume(folder / f"{prefix}half{half}.mrc")[0] for half in (1, 2)]
        for kind, mask in masks.items():
            expected = fsc(*halves, mask=mask, weights="relion")[0]
            np.testing.assert_allclose(columns[prefix + kind], expected, atol=1e-4)
        for name in ("phase_randomised", "corrected", "cone_mean", "cone_sd", "cone_min", "cone_max"):
            assert prefix + name in columns
        rings = columns[f"{prefix}ring_correlation"][1:]
        assert rings[:4].min() > 0.1 and rings.max() < 1.05
    assert abs(columns["ring_correlation_poses_interchanged"][6:]).max() < 0.1
    points = ElementTree.parse(folder / "fsc.xml").getroot().findall("coordinate")
    np.testing.assert_allclose([float(p.find("y").text) for p in points], columns["corrected"], atol=1e-4)
    tables = read_star(folder / "postprocess.star")
    assert tables["general"].columns["rlnMaskName"][0].decode() == str(folder / "mask.mrc")
    assert tables["general"].columns["rlnUnfilteredMapHalf1"][0].decode() == str(folder / "half1.mrc")
    unmasked = tables["fsc"].floats("rlnFourierShellCorrelationUnmaskedMaps")
    np.testing.assert_allclose(unmasked, columns["unmasked"], atol=1e-5)


def test_the_history_of_both_halves_is_kept(run):
    rows = list(csv.DictReader((run[0] / "metrics.csv").read_text().splitlines()))
    assert {row["half"] for row in rows} == {"1", "2"}
    assert set(rows[0]) == {"half", "step", "loss", "held_out", "gaussians"}


def test_the_report_shows_taigs_and_the_direct_maps_side_by_side(run):
    report = (run[0] / "report.html").read_text()
    assert report.count("<figure>") == 7 and report.count('class="plane"') == 3
    assert ">taigs<" in report and ">direct Fourier<" in report and "p.mrcs (" in report
    for text in ("taigs, corrected", "direct Fourier, corrected", "cFAR", "mean ring correlation", "not how true"):
        assert text in report
    assert "Control of the poses: 200 images of 200 particles" in report
    assert "B-factor" in report and "-200 Å²" in report


def test_the_command_runs_as_a_program_and_gives_the_same_bytes_again(run, data, tmp_path):
    command = [sys.executable, "-m", "taigs.cli.main", "spa", data[0], "-o", tmp_path / "out", "-q", "--arch", "cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out/map.mrc\n")
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert "do not agree" not in done.stderr
    for name in ("map.mrc", "half1.mrc", "half2.mrc", "direct.mrc", "mask.mrc", "fsc.csv"):
        first, second = ((folder / name).read_bytes() for folder in (run[0], tmp_path / "out"))
        assert first == second, name


def test_help_has_an_example():
    result = CliRunner().invoke(cli.app, ["spa", "--help"])
    assert result.exit_code == 0 and "Example:\n    taigs spa" in result.stdout


# --- honesty -------------------------------------------------------------------------------------


def test_shuffled_poses_are_reported_as_a_failure_even_quietly(data, tmp_path, cpu32):
    table = read_star(data[0])["particles"]
    order = np.random.default_rng(1).permutation(PARTICLES)
    moved = {k: table.columns[k][order] for k in table.columns if k.startswith(("rlnAngle", "rlnOrigin"))}
    star, _ = particles(tmp_path, **moved)
    code, out, err = taigs_spa(star, "-o", tmp_path / "out", "--quiet")
    assert (code, out) == (0, f"{tmp_path}/out/map.mrc\n")
    assert "warning: The halves do not agree" in err and "poses are probably wrong" in err
    assert "Å at FSC" not in err
    report = (tmp_path / "out/report.html").read_text()
    assert "The halves do not agree" in report and "<dt>Resolution at 0.143</dt><dd>none</dd>" in report


def outcome(curve):
    """A stand-in for a scored pair of maps."""
    from taigs.fsc_run import Outcome
    from taigs.resolution import HalfMapFsc

    return Outcome(HalfMapFsc(2 * (len(curve) - 1), 4.0, np.asarray(curve, float)), None, None, 0.0)


def validation(taigs_curve, direct_curve, t=50.0, share=0.6):
    from taigs.pose_control import PoseControl

    rings = {"taigs": np.full(9, 0.3), "direct Fourier": np.full(9, 0.25)}
    control = PoseControl(np.zeros(9), t, share, 100, 100, 1)
    return spa_run.Validation(outcome(taigs_curve), outcome(direct_curve), control, rings, None, "none", [])


FALLING, HIGH = np.linspace(1, 0, 9), np.full(9, 0.9)


def test_a_curve_that_does_not_cross_is_never_a_resolution():
    text = spa_run.describe(validation(HIGH, FALLING))
    assert text == (
        "taigs predicts the images of the other half better than the direct Fourier map does: mean ring correlation "
        "0.3000, against 0.2500. Half maps: FSC 0.143 not crossed: at or beyond Nyquist (8.00 Å), unmasked; direct "
        "Fourier maps of the same images: 9.33 Å at FSC 0.143."
    )


def test_the_verdict_says_so_where_the_direct_map_is_better():
    found = validation(HIGH, FALLING)
    found.agreement["taigs"] = found.agreement["direct Fourier"] - 0.01
    assert spa_run.describe(found).startswith(
        "taigs predicts the images of the other half no better than the direct Fourier map does: mean ring correlation "
        "0.2400, against 0.2500."
    )


@pytest.mark.parametrize("t, share", [(1.0, 0.5), (50.0, 0.02), (-6.0, -0.2)])
def test_no_resolution_is_quoted_where_the_poses_do_not_matter(t, share):
    text = spa_run.describe(validation(HIGH, FALLING, t, share))
    assert text.startswith("The halves do not agree") and "Å" not in text and "-" not in text.split("t = ")[0]


def test_the_cones_range_says_how_many_never_cross():
    def cones(*found):
        return type("Cones", (), {"resolutions": np.array(found)})

    assert spa_report._cone_range(cones(8.0, 9.5)) == "8.00 to 9.50 Å"
    assert spa_report._cone_range(cones(np.nan, 9.5, 9.0)) == "9.00 to 9.50 Å, 1 not crossed"
    assert spa_report._cone_range(cones(np.nan, np.nan)) == "not crossed"


def test_the_steps_of_several_objectives_count_on():
    rows = [{"step": step} for step in (5, 10, 15, 5, 10, 5)]
    assert list(spa_report._running_steps(rows)) == [5, 10, 15, 20, 25, 30]


def test_the_gallery_spreads_over_the_defocus_and_predicts_the_images(run, data):
    views, _ = read_particles_with_notes(data[0])
    cloud, _ = read_cloud(run[0] / "model.npz")
    measured, predicted = spa_report.example_particles(views, cloud)
    assert measured.shape == predicted.shape == (6, N, N)
    defocus = views.ctf.defocus_u + views.ctf.defocus_v
    np.testing.assert_array_equal(measured[0], views.images[int(defocus.argmin())])
    np.testing.assert_array_equal(measured[5], views.images[int(defocus.argmax())])
    for a, b in zip(measured, predicted, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.3
        # In the images' own units: the best scale of the prediction is 1.
        assert np.vdot(a, b) / np.vdot(b, b) == pytest.approx(1, abs=0.2)
    negated, _ = spa_report.example_particles(views, cloud, sign=-1)
    np.testing.assert_array_equal(negated, -measured)


# --- options -------------------------------------------------------------------------------------


def test_options_reach_the_reader_and_the_fit(data, tmp_path, fit):
    code, out, err = taigs_spa(
        data[0], "-o", tmp_path / "out", "--box-crop", 16, "--no-ctf", "--sym", "d2", "--objective", "both",
        "--init", "random", "--contrast", "dark", "--sharpen", "auto", "--seed", 7,
    )  # fmt: skip
    assert code == 0
    ((views, settings),) = fit
    assert views.image_shape == (16, 16) and views.ctf is None
    expected = {
        "symmetry": "d2", "objective": "both", "init": "random", "contrast": "dark", "bfactor": "auto", "seed": 7,
        "mask": None, "mask_name": None, "title": "p.star",
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    assert any("cropped in Fourier space" in note for note in settings["notes"])
    assert err.splitlines()[-2:] == ["warning: a doubt", "a verdict"]
    assert out == f"{tmp_path}/out/map.mrc\n"


def test_a_half_set_alone_and_a_pixel_size_can_be_asked_for(data, tmp_path, fit):
    assert taigs_spa(data[0], "-o", tmp_path / "out", "--subset", 2, "--pixel-size", 12, "--quiet")[0] == 0
    views = fit[0][0]
    assert len(views) == PARTICLES // 2 and views.image_shape == (20, 20)


def test_a_given_mask_is_used_and_kept(data, tmp_path, fit):
    ball = (np.linalg.norm(np.indices((N,) * 3) - N // 2, axis=0) < 10).astype(np.float32)
    write_volume(tmp_path / "ball.mrc", ball, PIXEL_SIZE)
    assert taigs_spa(data[0], "-o", tmp_path / "out", "--mask", tmp_path / "ball.mrc")[0] == 0
    np.testing.assert_array_equal(fit[0][1]["mask"], ball)
    assert fit[0][1]["mask_name"] == str(tmp_path / "ball.mrc")


def test_a_failure_is_said_once_and_as_a_warning(data, tmp_path, monkeypatch, cpu32):
    monkeypatch.setattr(spa_run, "run_spa", lambda *_, **__: spa_run.Verdict("It failed.", True, []))
    assert taigs_spa(data[0], "-o", tmp_path / "a", "--quiet")[2] == "warning: It failed.\n"
    assert taigs_spa(data[0], "-o", tmp_path / "b")[2].count("It failed.") == 1


# --- taigs evaluate ------------------------------------------------------------------------------


def test_evaluation_reads_the_images_again_and_finds_what_the_run_found(run, monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "init", lambda *_, **__: runtime.current())
    result = CliRunner().invoke(cli.app, ["evaluate", str(run[0]), "--json", str(tmp_path / "scores.json")])
    assert result.exit_code == 0 and "the figures are those of the run's fsc.csv" in result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    with open(run[0] / "fsc.csv") as file:
        rows = list(csv.DictReader(file))
    for name, column in {
        "taigs": "ring_correlation", "direct Fourier": "direct_ring_correlation",
        "poses interchanged": "ring_correlation_poses_interchanged",
    }.items():  # fmt: skip
        found = [float(row[column]) for row in rows]
        np.testing.assert_allclose(scores["ring_correlation"][name], found, rtol=1e-4, atol=1e-5)
    *table, _, verdict = result.stdout.splitlines()
    assert len(table) == 1 + N // 2 + 1 and table[-1].split()[0] == "mean" and len(set(map(len, table))) == 1
    assert verdict.startswith("The half models agree better with the images of the other half")
    assert table[-1].split()[1] in verdict


def test_a_half_map_that_has_seen_the_images_agrees_with_them_better_and_is_noticed(run, tmp_path):
    folder = tmp_path / "swapped"
    shutil.copytree(run[0], folder)
    for one, other in ((1, 2), (2, 1)):
        shutil.copy(run[0] / f"half{one}.mrc", folder / f"half{other}.mrc")
    honest, swapped = evaluate_run(run[0]), evaluate_run(folder)
    means = [np.mean(scores["ring_correlation"]["taigs"][1:]) for scores in (honest, swapped)]
    assert means[1] > means[0] + 0.01
    assert not honest["warnings"] and "fsc.csv has other figures" in swapped["warnings"][0]


def test_half_sets_that_were_dealt_out_are_dealt_alike_again(run, tmp_path, monkeypatch):
    star, _ = particles(tmp_path, rlnRandomSubset=None)
    dealt = []

    def gather(views, half_sets, *_):
        dealt.append(half_sets)
        raise InputError("enough")

    for module in ("taigs.spa", "taigs.particle_data"):
        monkeypatch.setattr(f"{module}.gather", gather)
    with pytest.raises(InputError, match="enough"):
        reconstruct_particles(read_particles_with_notes(star)[0], seed=7)
    shutil.copytree(run[0], tmp_path / "run")
    config = json.loads((run[0] / "config.json").read_text()) | {"particles": str(star), "seed": 7}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="enough"):
        evaluate_run(tmp_path / "run")
    np.testing.assert_array_equal(*dealt)


def test_a_run_without_its_maps_or_with_those_of_another_is_one_line(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    write_volume(folder / "half2.mrc", np.ones((8, 8, 8)), PIXEL_SIZE, overwrite=True)
    with pytest.raises(InputError, match=r"half2\.mrc: shape \(8, 8, 8\); expected 32 voxels"):
        evaluate_run(folder)
    (folder / "half2.mrc").unlink()
    with pytest.raises(InputError, match=r"half2\.mrc: no such file"):
        evaluate_run(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"particles": config["particles"]}))
    with pytest.raises(InputError, match=r"config\.json: lacks seed"):
        evaluate_run(folder)


# --- bad input -----------------------------------------------------------------------------------


def missing_stack(folder):
    (folder / "p.mrcs").unlink()
    return [], 3, "1 of 1 stacks missing, first: p.mrcs"


def one_half_set(folder):
    particles(folder, rlnRandomSubset=np.ones(PARTICLES, int))
    return [], 3, "all images are in half-set 1; expected 1 and 2"


def lonely_half_set(folder):
    particles(folder, rlnRandomSubset=1 + (np.arange(PARTICLES) == 3))
    return [], 3, "1 views in half-set 2; expected at least 2"


def no_poses(folder):
    particles(folder, rlnAngleRot=None, rlnAngleTilt=None, rlnAnglePsi=None)
    return [], 3, "no poses"


def mask_of_another_shape(folder):
    write_volume(folder / "mask.mrc", np.ones((8, 8, 8), np.float32), PIXEL_SIZE)
    return ["--mask", folder / "mask.mrc"], 3, "mask has shape (8, 8, 8)"


def empty_mask(folder):
    write_volume(folder / "mask.mrc", np.zeros((N,) * 3, np.float32), PIXEL_SIZE)
    return ["--mask", folder / "mask.mrc"], 3, "mask is empty"


def given(arguments, code, said):
    return lambda folder: (arguments, code, said)


@pytest.mark.parametrize(
    "case",
    [
        missing_stack, one_half_set, lonely_half_set, no_poses, mask_of_another_shape, empty_mask,
        given(["--sym", "Q7"], 3, 'symmetry "Q7" is not known'),
        given(["--mask", "nowhere.mrc"], 3, "no such file"),
        given(["--class", "2"], 3, "class 2 asked for"),
        given(["--pixel-size", "4"], 3, "expected at least the images'"),
        given(["--box-crop", "16", "--pixel-size", "16"], 2, "exclude each other"),
        given(["--pixel-size", "nan"], 2, "expected a positive number"),
        given(["--sharpen", "much"], 2, "neither auto nor a number"),
        given(["--sharpen", "inf"], 2, "neither auto nor a number"),
        given(["--subset", "3"], 2, "--subset"),
        given(["--objective", "nothing"], 2, "nothing"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_leaves_nothing(case, tmp_path, fit):
    particles(tmp_path)
    arguments, code, said = case(tmp_path)
    found, out, err = taigs_spa(tmp_path / "p.star", "-o", tmp_path / "out", *arguments)
    assert (found, out) == (code, "")
    assert said in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "out").exists() and not fit


def test_an_existing_result_is_kept(data, tmp_path, fit):
    (tmp_path / "map.mrc").write_text("precious")
    code, out, err = taigs_spa(data[0], "-o", tmp_path)
    assert (code, out) == (6, "") and "--overwrite" in err
    assert [path.name for path in tmp_path.iterdir()] == ["map.mrc"] and not fit
    assert (tmp_path / "map.mrc").read_text() == "precious"
    assert taigs_spa(data[0], "-o", tmp_path, "--overwrite")[0] == 0


# --- taigs info ----------------------------------------------------------------------------------


def info(path):
    result = CliRunner().invoke(cli.app, ["info", str(path)])
    assert result.exit_code == 0
    return dict(line.split("  ", 1) for line in result.stdout.splitlines())


def test_info_tells_what_spa_would_read(data):
    found = {name: value.strip() for name, value in info(data[0]).items()}
    assert found["data_particles"] == f"{PARTICLES} rows, 11 columns"
    assert found["images"] == f"{PARTICLES} of {N} x {N} px" and found["pixel size"] == "8 Å"
    assert found["defocus"].endswith("µm")


def test_info_tells_why_spa_would_refuse(tmp_path):
    star, _ = particles(tmp_path, rlnRandomSubset=np.ones(PARTICLES, int))
    assert "all images are in half-set 1" in info(star)["for taigs spa"]
