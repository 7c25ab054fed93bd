"""The command line's contract: exit codes, one-line messages on stderr, results alone on stdout."""

import json
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

from taigs.cli import main as cli
from taigs.cli.options import numbers
from taigs.cloud import GaussianCloud
from taigs.errors import StoppedError, TaigsError
from taigs.io.clouds import write_cloud
from taigs.io.mrc import write_stack
from taigs.progress import NoProgress, PlainProgress, RichProgress

COMMANDS = (
    "tilt",
    "spa",
    "fsc",
    "fit",
    "project",
    "compare",
    "evaluate",
    "export",
    "voxelize",
    "view",
    "demo",
    "info",
    "doctor",
)


def taigs(*arguments, **changes):
    """Run the installed program; (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "taigs.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **changes)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def series(tmp_path):
    """A stack of five views and its angles."""
    stack = np.random.default_rng(0).normal(size=(5, 24, 32)) + np.hypot(*np.mgrid[-12:12, -16:16])
    write_stack(tmp_path / "ts.mrc", stack, 8.0)
    np.savetxt(tmp_path / "ts.tlt", np.linspace(-40, 40, 5))
    return tmp_path


@pytest.fixture
def fit(monkeypatch):
    """A stand-in for the reconstruction that records what it is called with."""
    calls = []

    def run_tilt(views, directory, *, progress, **settings):
        progress.stage("fitting")
        calls.append((views, directory, settings))

    monkeypatch.setitem(sys.modules, "taigs.tilt_run", types.SimpleNamespace(run_tilt=run_tilt))
    return calls


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example:\n    taigs {command}" in result.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom taigs.cli.main import app\n"
        "try:\n    app(['tilt', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'taichi', 'scipy', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_version_is_a_result():
    code, out, err = taigs("--version")
    assert (code, err) == (0, "")
    assert out.startswith("taigs ")


def test_wrong_usage_ends_with_2():
    for arguments in (["tilt", "--nonsense"], ["tilt", "x.mrc"], ["nonsense"], ["demo", "--seed", "nan"]):
        code, out, err = taigs(*arguments)
        assert (code, out) == (2, "")
        assert "Error:" in err


def test_bad_input_ends_with_3_and_one_line(tmp_path):
    code, out, err = taigs("info", tmp_path / "missing.mrc")
    assert (code, out) == (3, "")
    assert err == f"error: {tmp_path}/missing.mrc: no such file\n"


def test_the_traceback_is_shown_on_request_only(tmp_path):
    assert "Traceback" not in taigs("info", tmp_path / "missing.mrc")[2]
    assert "Traceback" in taigs("info", tmp_path / "missing.mrc", "--debug")[2]


def test_an_existing_result_ends_with_6_and_is_kept(tmp_path):
    (tmp_path / "tomogram.mrc").write_text("precious")
    code, out, err = taigs("demo", "-o", tmp_path)
    assert (code, out) == (6, "")
    assert err.startswith("error: ") and "--overwrite" in err and err.count("\n") == 1
    assert (tmp_path / "tomogram.mrc").read_text() == "precious"


def test_our_own_errors_ask_for_a_report(monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", lambda: 1 / 0)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "ZeroDivisionError" in printed.err and "please report" in printed.err


def test_a_stopped_run_says_how_to_go_on(monkeypatch, capsys):
    def stopped():
        raise StoppedError(signal.SIGTERM, "at step 3 of fit")

    monkeypatch.setattr(cli, "app", stopped)
    monkeypatch.setattr("sys.argv", ["/usr/bin/taigs", "spa", "my star.star", "--overwrite", "-o", "run"])
    with pytest.raises(SystemExit, match="143"):
        cli.main()
    assert capsys.readouterr().err == (
        "stopped by SIGTERM at step 3 of fit; to go on: taigs spa 'my star.star' -o run --resume\n"
    )


@pytest.mark.parametrize("kind", [kind for kind in TaigsError.__subclasses__() if kind is not StoppedError])
def test_every_error_class_has_its_exit_code(kind, monkeypatch, capsys):
    def fail():
        raise kind("what; expected; try")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == kind.exit_code
    assert capsys.readouterr().err == "error: what; expected; try\n"


def test_an_interrupt_ends_with_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit, match="130"):
        cli.main()


def test_warnings_are_one_line_on_stderr(monkeypatch, capsys):
    import warnings

    monkeypatch.setattr(cli, "app", lambda: warnings.warn("guessed", UserWarning, stacklevel=1))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restored afterwards
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.main()
    assert capsys.readouterr().err == "warning: guessed\n"


def test_a_reader_that_leaves_early_is_no_error(series):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "taigs.cli.main", "info", str(series / "ts.mrc")]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_tilt_hands_checked_views_and_settings_to_the_fit(series, fit):
    arguments = [
        "tilt",
        "ts.mrc",
        "--angles",
        "ts.tlt",
        "--thickness",
        "20",
        "--bin",
        "2",
        "--exclude",
        "1,4-5",
    ]
    arguments = [str(series / a) if a.startswith("ts.") else a for a in arguments]
    result = CliRunner().invoke(cli.app, [*arguments, "-o", str(series / "out"), "--arch", "cpu", "--quiet"])
    assert result.exit_code == 0, result.exception
    assert result.stdout.splitlines()[-1] == f"{series}/out/tomogram.mrc"
    [(views, directory, settings)] = fit
    assert views.images.shape == (2, 12, 16)
    assert settings["thickness"] == 10
    assert settings["signed"] is False and settings["wbp"] is True and settings["sirt_iterations"] == 0
    assert json.loads((directory / "config.json").read_text())["exclude"] == "1,4-5"
    assert json.loads((directory / "environment.json").read_text())["backend"]["arch"] == "cpu"


def test_a_tilt_series_that_cannot_be_read_leaves_no_folder(series):
    np.savetxt(series / "ts.tlt", np.linspace(-40, 40, 4))
    code, out, err = taigs("tilt", series / "ts.mrc", "--angles", series / "ts.tlt", "-o", series / "out")
    assert (code, out) == (3, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not (series / "out").exists()


def test_info_describes_a_stack(series):
    code, out, err = taigs("info", series / "ts.mrc")
    assert (code, err) == (0, "")
    for expected in ("5 x 24 x 32", "2 (float32)", "8 x 8 x 8 Å"):
        assert expected in out


def test_info_describes_a_model(tmp_path):
    positions = np.array([[0.0, 1, 2], [-30, 4, 5]])
    cloud = GaussianCloud(positions, np.zeros((2, 3)), np.tile([1.0, 0, 0, 0], (2, 1)), np.ones(2))
    write_cloud(tmp_path / "model.npz", cloud, 3.5)
    code, out, err = taigs("info", tmp_path / "model.npz")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["Gaussians", "2"]
    assert "-30.0 to 0.0 Å" in out


def test_info_refuses_a_foreign_archive(tmp_path):
    np.savez(tmp_path / "other.npz", a=1)
    code, out, err = taigs("info", tmp_path / "other.npz")
    assert (code, out) == (3, "")
    assert err.startswith("error: ")


def test_doctor_finds_the_cpu():
    code, out, err = taigs("doctor")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith("backend"))
    assert {"taigs", "taichi", "python", "threads", "memory", "cache"} <= lines.keys()
    assert any(line.split() == ["backend", "cpu", "works"] for line in out.splitlines())


def test_lists_of_views_may_hold_ranges():
    assert numbers("") == []
    assert numbers("1, 5-7") == [1, 5, 6, 7]
    assert taigs("tilt", "a", "--angles", "b", "-o", "c", "--exclude", "1,x")[0] == 2


@pytest.mark.parametrize("kind", [NoProgress, PlainProgress, RichProgress])
def test_progress_is_silent_on_stdout_and_takes_unknown_figures(kind, capsys):
    progress = kind()
    progress.stage("fitting")
    progress.update(1, 2)
    progress.update(2, 2, loss=0.5, held_out=1.25, gaussians=12345)
    progress.stage("writing")
    progress.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    if kind is not NoProgress:
        assert "held-out 1.25" in printed.err and "12,345 Gaussians" in printed.err
