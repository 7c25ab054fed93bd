"""Tilt series from images to files: against the truth, the baselines, wrong geometry and damaged models."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from taigs.baseline import weighted_back_projection
from taigs.cli import main as cli
from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.evaluate import evaluate_run
from taigs.geometry import imod_views_geometry, tilt_rotation
from taigs.io.clouds import read_cloud, write_cloud
from taigs.io.mrc import open_stack, read_volume, write_stack
from taigs.io.tilt_series import read_tilt_series
from taigs.metrics import ncc, wedge_scores
from taigs.phantom import phantom_scene, phantom_volume
from taigs.progress import NoProgress
from taigs.render import Renderer, voxelize
from taigs.report import RunDirectory
from taigs.sirt import sirt
from taigs.tilt import held_out_views, reconstruct_tilt_series
from taigs.tilt_run import describe_held_out, run_tilt
from taigs.views import Grid, Views

GRID = Grid((26, 48, 48), 8.0)
ANGLES = np.linspace(-60, 60, 21)
SNR = 0.2
FILES = {
    "tomogram.mrc", "model.npz", "held_out.npz", "wbp.mrc", "metrics.csv", "report.html", "run.log", "config.json",
    "command.txt", "environment.json",
}  # fmt: skip
KNOWN = {}  # results that several tests look at


def reconstruct(views, thickness=GRID.shape[0]):
    return reconstruct_tilt_series(views, thickness)


def simulate(cloud, projections, shifts, snr, seed=0):
    """Views of a cloud through any geometry, with noise of variance 1."""
    n, (_, h, w) = len(projections), GRID.shape
    centre = np.array([(w - 1) / 2, (h - 1) / 2])
    renderer = Renderer(len(cloud), n, (h, w), cloud.signed)
    renderer.set_cloud(cloud)
    renderer.set_views(projections / GRID.voxel_size, shifts + centre, (h, w))
    renderer.forward()
    clean = renderer.get_images()
    clean *= np.sqrt(snr / clean[n // 2].var())
    images = clean + np.random.default_rng(seed).standard_normal(clean.shape, np.float32)
    return Views(images, projections, shifts, GRID.voxel_size, centre, np.ones(n), ANGLES)


def phantom():
    """(cloud, truth) of a small scene."""
    scene = phantom_scene(np.random.default_rng(5), np.array(GRID.shape[::-1]) * GRID.voxel_size)
    cloud = GaussianCloud(scene.positions, np.log(scene.sigmas), scene.quaternions, scene.masses)
    return cloud, phantom_volume(scene, GRID)


def blobs(voxels, masses):
    """Round Gaussians of sigma 2 voxels at (z, y, x)."""
    positions = (np.array(voxels, float)[:, ::-1] - GRID.centre) * GRID.voxel_size
    n, signed = len(masses), min(masses) < 0
    log_sigmas = np.full((n, 3), np.log(2 * GRID.voxel_size))
    return GaussianCloud(positions, log_sigmas, np.tile([1.0, 0, 0, 0], (n, 1)), np.array(masses), signed)


def aligned(cloud, snr=SNR):
    return simulate(cloud, tilt_rotation(ANGLES)[:, :2], np.zeros((21, 2)), snr)


def reconstructed():
    """(result, views, truth) of the aligned phantom."""
    if not KNOWN:
        cloud, truth = phantom()
        views = aligned(cloud)
        KNOWN["aligned"] = reconstruct(views), views, truth
    return KNOWN["aligned"]


# --- quality ----------------------------------------------------------------------------------------------


def test_a_phantom_is_reconstructed_better_than_by_wbp_and_sirt(cpu32):
    result, views, truth = reconstructed()
    ours = wedge_scores(result.volume, truth, 60)
    for volume in (weighted_back_projection(views, GRID), sirt(views, GRID, 30, positive=True)):
        theirs = wedge_scores(volume, truth, 60)
        assert ours["ncc"] > theirs["ncc"] + 0.1
        assert ours["fsc_measured"] > theirs["fsc_measured"] + 0.03
    assert ours["ncc"] > 0.8


def test_the_held_out_views_are_predicted_better_than_by_the_baselines(cpu32):
    result, views, _ = reconstructed()
    correlations = result.correlations()
    assert list(correlations) == ["taigs", "SIRT+", "WBP"]
    assert correlations["taigs"] > max(correlations["SIRT+"], correlations["WBP"])
    model, measured = result.predictions["taigs"]
    assert model.shape == measured.shape == (len(result.held_out), 48, 48)
    np.testing.assert_array_equal(measured, views.images[result.held_out])


def test_the_result_is_consistent_in_itself(cpu32):
    result, _, _ = reconstructed()
    assert result.grid == GRID and result.volume.shape == GRID.shape and result.volume.dtype == np.float32
    assert (result.cloud.masses >= 0).all()
    np.testing.assert_allclose(result.volume, voxelize(result.cloud, GRID), atol=1e-6 * result.volume.max())
    scores = [row["held_out"] for row in result.history]
    assert 0.9 < min(scores) < scores[0] * (1 + 1e-3) and min(scores) < 1.2, "noise alone is about 1"


def test_a_raw_stack_with_a_turned_axis_and_shifts_is_as_good_as_an_aligned_one(cpu32):
    cloud, truth = phantom()
    rng = np.random.default_rng(1)
    c, s = np.cos(np.radians(-8)), np.sin(np.radians(-8))
    xf = np.empty((21, 2, 3))
    xf[:, :, :2], xf[:, :, 2] = [[c, s], [-s, c]], rng.uniform(-5, 5, (21, 2))
    raw = simulate(cloud, *imod_views_geometry(ANGLES, 0.0, xf), SNR)
    found, aligned = reconstruct(raw), reconstructed()[0]
    ours, best = (wedge_scores(result.volume, truth, 60) for result in (found, aligned))
    assert ours["ncc"] > best["ncc"] - 0.04
    assert ours["fsc_measured"] > best["fsc_measured"] - 0.04
    # Baselines are judged by the images themselves: resampled ones, with less noise, would flatter them.
    print(found.correlations(), aligned.correlations())
    assert found.correlations() == pytest.approx(aligned.correlations(), abs=0.03)


def test_negated_angles_give_the_mirror_image(cpu32):
    """The data cannot tell: x cos t + z sin t is that of -t and -z. Only the truth can.

    Other views are held out, since these are chosen by angle, so the scores differ a little.
    """
    result, views, truth = reconstructed()
    negated = replace(views, projections=tilt_rotation(-ANGLES)[:, :2], tilt_angles=-ANGLES)
    other = reconstruct(negated)
    assert ncc(other.volume, truth) < 0.6 * ncc(result.volume, truth)
    assert ncc(other.volume[::-1], truth) == pytest.approx(ncc(result.volume, truth), abs=0.06)
    assert other.correlations()["taigs"] == pytest.approx(result.correlations()["taigs"], rel=0.06)


def test_a_wrong_tilt_axis_predicts_the_held_out_views_clearly_worse(cpu32):
    result, views, truth = reconstructed()
    wrong = reconstruct(replace(views, projections=tilt_rotation(ANGLES, 90.0)[:, :2]))
    assert wrong.correlations()["taigs"] < 0.94 * result.correlations()["taigs"]
    assert ncc(wrong.volume, truth) < 0.5 * ncc(result.volume, truth)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 17, 18, 41, 121])
def test_some_views_are_held_out_but_not_the_steepest_in_any_order(n, rng):
    angles = rng.permutation(np.linspace(-60, 60, n))
    held_out = held_out_views(angles)
    assert 1 <= len(held_out) <= n // 3
    assert not {angles.argmin(), angles.argmax()} & set(held_out)
    assert set(angles[held_out]) == set(np.sort(angles)[held_out_views(np.sort(angles))])


def test_views_that_make_no_tilt_series_are_refused(cpu32):
    views = Views(np.zeros((2, 8, 8), np.float32), np.zeros((2, 2, 3)), np.zeros((2, 2)), 8.0, np.zeros(2), np.ones(2))
    with pytest.raises(InputError, match="views without tilt angles"):
        reconstruct_tilt_series(views)
    with pytest.raises(InputError, match="2 views; expected at least 3"):
        reconstruct_tilt_series(replace(views, tilt_angles=np.array([-40.0, 40.0])))


# --- files ------------------------------------------------------------------------------------------------


def test_a_signed_run_leaves_its_files_and_finds_both_signs(cpu32, tmp_path):
    at = ((17, 12, 33), (9, 30, 14))  # z y x
    views = aligned(blobs(at, [1000.0, -1000.0]), snr=1.0)
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(["taigs"], {})
        settings = {"thickness": GRID.shape[0], "signed": True, "wbp": True, "sirt_iterations": 2, "seed": 0}
        run_tilt(views, directory, **settings, notes=["a note"], title="ts.mrc", progress=NoProgress())
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"sirt.mrc"}
    for name in ("tomogram.mrc", "wbp.mrc", "sirt.mrc"):
        volume, header = read_volume(directory / name)
        assert volume.shape == GRID.shape
        np.testing.assert_allclose(header.voxel_size, 8.0)
        assert np.abs(np.subtract(np.unravel_index(np.argmax(volume), volume.shape), at[0])).max() <= 2, name
        assert np.abs(np.subtract(np.unravel_index(np.argmin(volume), volume.shape), at[1])).max() <= 2, name
    cloud, header = read_cloud(directory / "model.npz")
    assert header["signed"] and cloud.signed and cloud.masses.min() < 0 < cloud.masses.max()
    report = (directory / "report.html").read_text()
    assert "a note" in report and "ts.mrc" in report and "<pre>taigs</pre>" in report
    assert report.count('class="plane"') == 3 and report.count("data:image/jpeg") == 9
    for name in ("taigs", "WBP", "SIRT 2"):
        assert report.count(f'<div class="name">{name}</div>') == 3


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([0.5, 0.4, 0.6], "better than SIRT+ and WBP: mean correlation with the measured images 0.5000"),
        ([0.2, 0.4, 0.3], "no better than SIRT+: mean correlation with the measured images 0.3000"),
    ],
)
def test_the_verdict_tells_who_predicts_the_held_out_views_best_and_how_often(own, words):
    found = {"taigs": np.array(own), "SIRT+": np.array([0.4, 0.3, 0.4]), "WBP": np.array([0.1, 0.1, 0.1])}
    ahead = sum(a > b for a, b in zip(own, found["SIRT+"], strict=True))
    assert describe_held_out(found) == (
        f"taigs predicts the held-out views {words}, against 0.3667 for SIRT+, 0.1000 for WBP; "
        f"ahead of SIRT+ in {ahead} of 3 views."
    )


def test_the_command_line_goes_from_a_stack_to_a_tomogram(cpu32, tmp_path):
    """Dark density, as microscopes write it; the model redraws the tomogram."""
    at = (17, 12, 33)
    write_stack(tmp_path / "ts.mrc", -50 * aligned(blobs([at], [1000.0]), snr=1.0).images + 7, 8.0)
    np.savetxt(tmp_path / "ts.tlt", ANGLES)
    arguments = ["tilt", "ts.mrc", "--angles", "ts.tlt", "-o", "run", "--thickness", "26", "--arch", "cpu"]
    command = [sys.executable, "-m", "taigs.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["run/tomogram.mrc"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"DONE"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["thickness"] == 26

    volume, header = read_volume(tmp_path / "run" / "tomogram.mrc")
    assert volume.shape == GRID.shape and header.voxel_size[0] == pytest.approx(8.0)
    weights = np.maximum(volume, 0.3 * volume.max()) - 0.3 * volume.max()
    centre = [(np.indices(volume.shape)[i] * weights).sum() / weights.sum() for i in range(3)]
    np.testing.assert_allclose(centre, at, atol=0.4)

    cloud, header = read_cloud(tmp_path / "run" / "model.npz")
    drawn = voxelize(cloud, tuple(header["shape_zyx"]), header["pixel_size_A"])
    np.testing.assert_allclose(drawn, volume, atol=1e-5 * volume.max())

    scores = evaluate_run(tmp_path / "run")  # finds the stack beside the folder
    assert scores["notes"][0] == "images as the run kept them, which are those of the stack"
    assert scores["tilt_angles_deg"] == pytest.approx(ANGLES[held_out_views(ANGLES)])
    assert scores["verdict"].split(" Unexplained")[0] in done.stderr
    assert np.mean(scores["methods"]["taigs"]["unexplained"]) == pytest.approx(np.mean(scores["noise"]), abs=0.05)


@pytest.fixture
def series(tmp_path):
    write_stack(tmp_path / "ts.mrc", np.random.default_rng(0).normal(size=(5, 24, 32)), 8.0)
    np.savetxt(tmp_path / "ts.tlt", np.linspace(-40, 40, 5))
    np.savetxt(tmp_path / "four.tlt", np.linspace(-40, 40, 4))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "tomogram.mrc").write_text("precious")
    return tmp_path


@pytest.mark.parametrize(
    ("stack", "angles", "output", "code", "message"),
    [
        ("ts.mrc", "ts.tlt", "full", 6, "full: holds files already"),
        ("no.mrc", "ts.tlt", "new", 3, "no.mrc: no such file"),
        ("ts.mrc", "no.tlt", "new", 3, "no.tlt: no such file"),
        ("ts.mrc", "four.tlt", "new", 3, "4 tilt angles"),
    ],
)
def test_bad_input_ends_with_its_code_before_any_work(
    series, monkeypatch, capsys, stack, angles, output, code, message
):
    arguments = ["tilt", str(series / stack), "--angles", str(series / angles), "-o", str(series / output)]
    monkeypatch.setattr(sys, "argv", ["taigs", *arguments])
    monkeypatch.setattr("taigs.runtime.init", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    heard = capsys.readouterr()
    assert stop.value.code == code
    assert message in heard.err and heard.err.count("error:") == 1 and not heard.out
    assert (series / "full" / "tomogram.mrc").read_text() == "precious"
    assert not (series / "new").exists()


# --- models -----------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, rng):
    n = 40
    cloud = GaussianCloud(
        rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), rng.normal(size=(n, 4)), rng.normal(size=n), True
    )
    write_cloud(tmp_path / "model.npz", cloud, 3.5, (5, 6, 7))
    return tmp_path / "model.npz", cloud


def rewritten(path, **changes):
    """The archive with some arrays replaced (None: left out)."""
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def header_bytes(**changes):
    header = {"format": "taigs-model", "version": 1, "signed": True, "pixel_size_A": 3.5, "shape_zyx": [5, 6, 7]}
    return np.frombuffer(json.dumps({**header, **changes}).encode(), np.uint8)


def test_a_model_survives_its_file(model):
    path, cloud = model
    back, header = read_cloud(path)
    for name in ("positions", "log_sigmas", "quaternions", "masses"):
        np.testing.assert_array_equal(getattr(back, name), getattr(cloud, name).astype(np.float32))
    assert back.signed and header["pixel_size_A"] == 3.5 and header["shape_zyx"] == [5, 6, 7]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_model_is_refused(model, part):
    path, _ = model
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match=r"model\.npz: "):
        read_cloud(path)


def test_a_flipped_bit_is_noticed(model):
    path, cloud = model
    whole = bytearray(path.read_bytes())
    whole[whole.find(cloud.positions.astype(np.float32).tobytes()) + 5] ^= 16
    path.write_bytes(whole)
    with pytest.raises(InputError, match="a damaged archive"):
        read_cloud(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": None}, "not a readable model"),
        ({"masses": None}, "not a readable model"),
        ({"masses": np.ones(39)}, "has shape"),
        ({"positions": np.full((40, 3), np.nan)}, "non-finite"),
        ({"header": header_bytes(format="another")}, "not a model of taigs"),
        ({"header": header_bytes(version=2)}, "model version 2; expected 1; try a newer taigs"),
        ({"header": header_bytes(signed=False)}, "negative"),
        ({"header": np.frombuffer(b"{half a hea", np.uint8)}, "not a readable model"),
        ({"header": np.frombuffer(b"[1, 2]", np.uint8)}, "not a"),
        ({"masses": np.array([{"a": "pickle"}] * 40, dtype=object)}, "no plain array .it holds Python"),
    ],
)
def test_a_foreign_newer_or_damaged_archive_is_refused(model, changes, message):
    path, _ = model
    rewritten(path, **changes)
    with pytest.raises(InputError, match=message):
        read_cloud(path)


def test_a_single_array_under_the_name_of_a_model_is_refused(tmp_path):
    with open(tmp_path / "model.npz", "wb") as file:
        np.save(file, np.ones(5))
    with pytest.raises(InputError, match="not a"):
        read_cloud(tmp_path / "model.npz")


# --- real data --------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_a_gold_bead_is_where_pytom_finds_it_and_not_with_the_other_hand(cpu32, shared):
    """PyTom counts angles the other way. Binned by 2, which keeps this short."""
    folder = shared / "data" / "tilt_series_bead"
    theirs = np.asarray(open_stack(folder / "p1_pytom_wbp.mrc")[1], float)
    theirs = theirs.reshape(50, 2, 50, 2, 50, 2).mean(axis=(1, 3, 5))
    agreement = []
    for invert in (True, False):
        stack, angles = folder / "p1_unweighted_aligned.mrc", folder / "p1.tlt"
        views = read_tilt_series(stack, angles, pixel_size=10.0, bin=2, invert_angles=invert, contrast="bright")
        agreement.append(ncc(reconstruct(views, 50).volume, theirs))
    right, wrong = agreement
    assert right > 0.2 and right > 2 * max(wrong, 0), agreement
