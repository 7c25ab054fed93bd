"""`taigs evaluate` of tilt series: scores against least squares, the stack read again, folders of something else."""

import json
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from taigs.cli import main as cli
from taigs.errors import InputError, TaigsError
from taigs.evaluate import evaluate_run
from taigs.held_out import read_held_out, write_held_out
from taigs.io.mrc import write_stack
from taigs.io.tilt_series import read_tilt_series
from taigs.run_input import number_list

PICKED = [1, 3]  # of the views that are used
ANGLES = [-40.0, -20.0, 0.0, 20.0, 40.0, 50.0]
NOISE = {"taigs": 0.5, "SIRT+": 1.0, "WBP": 2.0}  # of the predictions


def taigs_evaluate(*arguments):
    """(exit code, stdout, stderr) of the command, run in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])
    if isinstance(result.exception, TaigsError):
        return result.exception.exit_code, result.stdout, f"error: {result.exception}\n"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def run(tmp_path, monkeypatch, rng):
    """A finished run's folder in the current directory, without its tomogram: (path, what was predicted)."""
    monkeypatch.chdir(tmp_path)
    images = rng.normal(size=(6, 24, 32)) + 9 * np.exp(-((np.mgrid[-12:12, -16:16] / 4) ** 2).sum(axis=0))
    write_stack("ts.mrc", images, 8.0)
    np.savetxt("ts.tlt", ANGLES)
    (tmp_path / "run").mkdir()
    config = {"stack": "ts.mrc", "angles": "ts.tlt", "exclude": "2", "contrast": "bright", "xf": None, "bin": 1}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    views = read_tilt_series("ts.mrc", "ts.tlt", exclude=[2], contrast="bright")
    measured = views.images[PICKED]
    predictions = {
        # Their scale and offset are not the images'.
        name: (3 * (measured + noise * rng.normal(size=measured.shape)).astype(np.float32) + 7, measured)
        for name, noise in NOISE.items()
    }
    result = types.SimpleNamespace(held_out=np.array(PICKED), predictions=predictions)
    write_held_out("run/held_out.npz", result, views)
    return tmp_path / "run", predictions


def test_scores_are_those_of_a_least_squares_fit_of_gain_and_offset(run):
    scores = evaluate_run(run[0])
    assert scores["views"] == [3, 5] and scores["tilt_angles_deg"] == [0, 40], "image 2 is excluded"
    for name, (predicted, measured) in run[1].items():
        for i, (p, m) in enumerate(zip(predicted, measured, strict=True)):
            left = np.polyfit(p.ravel(), m.ravel(), 1, full=True)[1][0] / m.size
            assert scores["methods"][name]["unexplained"][i] == pytest.approx(left / m.var(), rel=1e-4)
            assert scores["methods"][name]["correlation"][i] == pytest.approx(np.corrcoef(p.ravel(), m.ravel())[0, 1])


def test_all_methods_are_compared_where_all_predict(run):
    held_out = read_held_out(run[0] / "held_out.npz")
    before = held_out.correlations()
    held_out.predicted[2, :, :, 20:] = np.nan
    after = held_out.correlations()
    inside = held_out.predicted[0, 0, :, :20], held_out.measured[0, :, :20]
    assert after["taigs"][0] == pytest.approx(np.corrcoef(*(v.ravel() for v in inside))[0, 1])
    assert after["taigs"][0] != pytest.approx(before["taigs"][0], abs=1e-6)
    held_out.predicted[1] = np.nan
    assert (held_out.correlations()["WBP"] == 0).all()


def test_noise_is_told_apart_from_what_a_prediction_misses(run, rng):
    y, x = np.mgrid[-1:1:64j, -1:1:96j]
    seen, missed, noise = np.exp(-9 * (x**2 + y**2)), 0.5 * np.sin(2 * x + y), 0.3 * rng.normal(size=x.shape)
    measured = (seen + missed + noise).astype(np.float32)[None]
    found = replace(
        read_held_out(run[0] / "held_out.npz"), measured=measured, predicted=5 * seen.astype(np.float32)[None, None]
    )
    assert found.noise() == pytest.approx(noise.var() / measured.var(), rel=0.05)
    assert found.noise() < 0.6 * (1 - np.corrcoef(seen.ravel(), measured.ravel())[0, 1] ** 2)


def test_a_prediction_of_the_wrong_sign_explains_nothing(run):
    held_out = read_held_out(run[0] / "held_out.npz")
    negative = replace(held_out, predicted=-held_out.predicted)
    assert (negative.correlations()["taigs"] < -0.5).all()
    predictions = {name: (-p, m) for name, (p, m) in run[1].items()}
    result = types.SimpleNamespace(held_out=np.array(PICKED), predictions=predictions)
    views = types.SimpleNamespace(names=(), tilt_angles=np.array(ANGLES))
    write_held_out(run[0] / "held_out.npz", result, views, overwrite=True)
    assert evaluate_run(run[0])["methods"]["WBP"]["unexplained"] == [1, 1]


def test_the_table_has_a_line_for_each_view_and_the_verdict_is_in_words(run, tmp_path):
    code, out, err = taigs_evaluate("run", "--held-out", "--json", "scores.json")
    assert code == 0 and err.startswith("note: images as the run kept them, which are those of the stack\n")
    lines, scores = out.splitlines(), json.loads((tmp_path / "scores.json").read_text())
    assert [line.split()[0] for line in lines[:4]] == ["view", "3", "5", "mean"]
    assert len(set(map(len, lines[:4]))) == 1
    for column, name in enumerate(NOISE):
        assert lines[1].split()[2 + column] == f"{scores['methods'][name]['correlation'][0]:.4f}"
        assert lines[2].split()[5 + column] == f"{scores['methods'][name]['unexplained'][1]:.4f}"
    assert lines[-1] == scores["verdict"]
    assert "taigs predicts the held-out views better than SIRT+ and WBP" in lines[-1]
    assert "ahead of SIRT+ in 2 of 2 views" in lines[-1] and "noise alone is about" in lines[-1]
    assert f"WBP {np.mean(scores['methods']['WBP']['unexplained']):.1%}" in lines[-1]
    assert taigs_evaluate("run", "--json", "scores.json")[0] == 6


def test_a_baseline_that_is_better_is_said_to_be(run):
    predictions = dict(zip(NOISE, list(run[1].values())[::-1], strict=True))
    views = types.SimpleNamespace(names=("1@a", "2@a", "3@a", "4@a", "5@a"), tilt_angles=np.array(ANGLES))
    result = types.SimpleNamespace(held_out=np.array(PICKED), predictions=predictions)
    write_held_out(run[0] / "held_out.npz", result, views, overwrite=True)
    verdict = evaluate_run(run[0])["verdict"]
    assert "taigs predicts the held-out views no better than WBP" in verdict
    assert "ahead of WBP in 0 of 2 views" in verdict


def test_a_stack_that_is_not_the_runs_is_warned_of_and_one_that_is_gone_is_said(run, rng, tmp_path, monkeypatch):
    monkeypatch.chdir("/")  # the stack is found beside the folder of the run
    before = taigs_evaluate(run[0], "-q")
    assert before[0] == 0 and before[2] == ""
    write_stack(tmp_path / "ts.mrc", rng.normal(size=(6, 24, 32)), 8.0, overwrite=True)
    code, out, err = taigs_evaluate(run[0], "-q")
    assert (code, out) == before[:2] and "image 3 is not the one that" in err and err.startswith("warning: ")
    (tmp_path / "ts.mrc").unlink()
    code, out, err = taigs_evaluate(run[0])
    assert (code, out) == before[:2] and "ts.mrc: no such file" in err


def test_settings_that_make_no_sense_leave_the_images_that_the_run_kept(run):
    for nonsense in ({"stack": 5}, {"exclude": [1]}, {"bin": "two"}):
        config = json.loads((run[0] / "config.json").read_text()) | nonsense
        (run[0] / "config.json").write_text(json.dumps(config))
        code, _, err = taigs_evaluate("run")
        assert code == 0 and "config.json: " in err, err


def damage(path, **changes):
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **arrays)


def newer(run):
    header = np.frombuffer(b'{"format": "taigs-held-out", "version": 9}', np.uint8)
    damage(run / "held_out.npz", header=header)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("absent", None, "absent: no such folder"),
        ("run/config.json", None, "config.json: is a file"),
        (".", None, "holds no run of taigs tilt or taigs spa"),
        ("run", lambda run: (run / "held_out.npz").unlink(), "run: no held_out.npz, which a finished run leaves"),
        (
            "run",
            lambda run: (run / "held_out.npz").write_bytes(b"PK\x03\x04"),
            "held_out.npz: a damaged archive",
        ),
        ("run", lambda run: damage(run / "held_out.npz", numbers=[1, 2, 3]), "the file is damaged"),
        ("run", newer, "version 9; expected 1; try a newer taigs"),
    ],
)
def test_other_folders_are_one_line(run, name, change, message):
    if change is not None:
        change(run[0])
    code, out, err = taigs_evaluate(name)
    assert (code, out) == (3, "") and message in err and err.count("\n") == 1


def test_a_list_of_numbers_that_is_none_is_refused():
    with pytest.raises(InputError, match='"5-x" is not a number or range'):
        number_list("1,5-x")
