"""`taigs plan`: what it says against what runs take and leave, its refusals, and that it leaves nothing."""

import re
import sys
import types

import numpy as np
import pytest
import test_spa_command

from taigs import journal, memory
from taigs import plan as planning
from taigs.cli.main import main
from taigs.errors import InputError, ResourceError
from taigs.io.mrc import write_stack, write_volume
from taigs.plan import Pace, fit_plan, measure_pace, spa_plan, tilt_plan, time_in_words
from taigs.views import Views

PACE = Pace(gaussian=200e-9, voxel=15e-9)


def some_views(n, shape, tilted=False):
    """Views without content."""
    angles = np.linspace(-60, 60, n) if tilted else None
    images = np.broadcast_to(np.float32(0), (n, *shape))
    return Views(images, np.zeros((n, 2, 3)), np.zeros((n, 2)), 5.0, np.zeros(2), np.ones(n), angles)


@pytest.fixture
def taigs(monkeypatch, capsys, tmp_path):
    """Run a command in a folder of this process, with a made-up pace: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "measure_pace", lambda: PACE)

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["taigs", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        # Taichi's banner is kept from file descriptor 1 only when it is first imported by the command.
        return code, "".join(line for line in out.splitlines(True) if not line.startswith("[Taichi]")), err

    return run


@pytest.fixture
def commands(tmp_path, rng):
    """Name -> a command line that can be run in the folder."""
    y, x = np.mgrid[-12:12, -16:16]
    write_stack(tmp_path / "ts.mrc", rng.normal(size=(7, 24, 32)) + 5 * np.exp(-(x**2 + y**2) / 20), 8.0)
    np.savetxt(tmp_path / "ts.tlt", np.linspace(-60, 60, 7))
    z, y, x = np.mgrid[-10:10, -12:12, -14:14]
    write_volume(tmp_path / "map.mrc", np.exp(-(x**2 + 2 * y**2 + z**2) / 20), 3.0)
    (tmp_path / "spa").mkdir()
    test_spa_command.particles(tmp_path / "spa")
    arguments = {
        "tilt": ("ts.mrc", "--angles", "ts.tlt", "--thickness", 12, "--sirt", 2, "-o", "run"),
        "spa": ("spa/p.star", "--sharpen", "auto", "-o", "run"),
        "fit": ("map.mrc", "--gaussians", 300, "--report", "-o", "model.npz"),
    }
    return {name: (name, *rest, "--arch", "cpu", "--checkpoint-minutes", 0) for name, rest in arguments.items()}


def files(folder):
    """Path -> (bytes, time of the last change) of all that is there, folders included."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


# --- what is said -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, expected",
    [
        ("tilt", ["images     7 of 32 x 24 px, 2 of them held out", "volume     32 x 24 x 12 voxels", "at most 2,800"]),
        ("spa", ["images     200 of 32 x 32 px", "volume     32 x 32 x 32 voxels of 8 Å", "about 4,000"]),
        ("fit", ["volume     28 x 24 x 20 voxels", "Gaussians  at most 300"]),
    ],
)
def test_a_plan_says_what_the_run_takes_and_touches_nothing(taigs, commands, tmp_path, name, expected):
    before = files(tmp_path)
    code, out, err = taigs("plan", *commands[name])
    assert code == 0, err
    assert files(tmp_path) == before
    for text in expected:
        assert text in out
    assert re.search(r"^memory +about \d+ MB; .* available$", out, re.M)
    assert re.search(r"^disk +about [\d.]+ [kM]B in the end, at most [\d.]+ [kM]B before; .* free$", out, re.M)
    assert re.search(r"^time +about \d+ s", out, re.M)


@pytest.mark.parametrize("seconds, words", [(3, "5 s"), (41, "40 s"), (89, "90 s"), (700, "12 min"), (2e4, "5.6 h")])
def test_times_in_words(seconds, words):
    assert time_in_words(seconds) == f"about {words}"


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("info", "map.mrc"), ("plan", "tilt")])
def test_only_some_commands_can_be_planned(taigs, words):
    code, out, err = taigs("plan", *words)
    assert code == 3 and out == ""
    assert len(err.splitlines()) == 1 and "tilt, spa, fit" in err


@pytest.mark.parametrize("name", ["tilt", "spa", "fit"])
def test_a_missing_file_is_refused_as_the_run_does(taigs, commands, tmp_path, name):
    wrong = [name, "missing.mrc", *commands[name][2:]]
    before = files(tmp_path)
    planned = taigs("plan", *wrong)
    assert planned[0] == 3 and files(tmp_path) == before
    assert taigs(*wrong) == planned


@pytest.mark.parametrize("name", ["tilt", "spa", "fit"])
def test_a_run_without_memory_is_refused_after_the_table(taigs, commands, monkeypatch, tmp_path, name):
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000_000)
    monkeypatch.setattr(memory, "_resident", lambda: 1_000_000)
    before = files(tmp_path)
    code, out, err = taigs("plan", *commands[name])
    assert code == 4 and files(tmp_path) == before
    assert "; 11 MB available" in out and "\ntime " in out
    assert err.splitlines()[-1].startswith("error: ") and "11 MB are available; try " in err
    assert taigs(*commands[name])[2].splitlines()[-1] == err.splitlines()[-1]


def test_a_run_without_disk_is_refused_after_the_table(taigs, commands, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1_000_000))
    code, out, err = taigs("plan", *commands["fit"])
    assert code == 0, err
    code, out, err = taigs("plan", *commands["spa"])
    assert code == 4 and "; 1.0 MB free" in out and "on disk, 1.0 MB are free; try another place for -o" in err
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=4_000_000))
    code, out, err = taigs("plan", *commands["spa"])
    assert code == 0 and "no room for checkpoints of up to" in err


def test_folders_are_refused_as_the_run_does(taigs, commands, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    for name in ("ts.mrc", "ts.mrc/under", "full", "spa"):
        wrong = [*commands["spa"], "-o", name]
        planned = taigs("plan", *wrong)
        assert planned[0] in (4, 6)
        assert taigs(*wrong) == planned


@pytest.mark.parametrize("name", ["tilt", "fit"])
def test_what_cannot_be_resumed_is_refused_as_the_run_does(taigs, commands, tmp_path, name):
    planned = taigs("plan", *commands[name], "--resume")
    assert planned[0] == 3 and "no checkpoints" in planned[2]
    assert not list(tmp_path.glob("*.lock"))
    checkpoints = (
        tmp_path / ("run" if name == "tilt" else "") / ("checkpoints" if name == "tilt" else "model.checkpoints")
    )
    checkpoints.parent.mkdir(exist_ok=True)
    held = journal.Journal(checkpoints, {})
    busy = taigs("plan", *commands[name], *(["--overwrite"] if name == "tilt" else []))
    assert busy[0] == 6 and "in use by process" in busy[2]
    held._lock.release()
    other = taigs("plan", *commands[name], "--resume")
    assert other[0] == 6 and "begun with other settings" in other[2]


def test_wrong_usage_is_that_of_the_command(taigs, commands):
    code, out, err = taigs("plan", "tilt", "ts.mrc", "-o", "run")
    assert code == 2 and "taigs tilt" in err and "--angles" in err
    code, out, err = taigs("plan", "tilt", "--help")
    assert code == 0 and "Reconstruct a tomogram" in out


def test_what_the_run_would_refuse_in_the_end_is_refused_at_once(cpu32):
    with pytest.raises(InputError, match="2 views; expected at least 3"):
        tilt_plan(some_views(2, (64, 64), True))
    with pytest.raises(ResourceError, match="a device image has"):
        tilt_plan(some_views(41, (2048, 2048), True))
    with pytest.raises(ResourceError, match="the Fourier grid has"):
        spa_plan(some_views(100, (600, 600)))


# --- disk -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tilt", "spa", "fit"])
def test_a_run_warns_as_planned_and_leaves_files_as_large(taigs, commands, monkeypatch, tmp_path, name):
    inputs, peak, plans = files(tmp_path), [0], []
    write = journal.write_checkpoint

    def measured(*arguments):
        write(*arguments)
        peak[0] = max(peak[0], written())

    def written():
        return sum(size for path, (size, _) in files(tmp_path).items() if path not in inputs and path.is_file())

    for kind in ("tilt_plan", "spa_plan", "fit_plan"):
        make = getattr(planning, kind)
        monkeypatch.setattr(planning, kind, lambda *a, make=make, **k: plans.append(make(*a, **k)) or plans[-1])
    code, _, warned = taigs("plan", *commands[name], "-q")
    assert code == 0, warned
    monkeypatch.setattr(journal, "write_checkpoint", measured)
    code, _, err = taigs(*commands[name], "-q")
    assert code == 0 and err.startswith(warned), err
    left, planned = written(), plans[0]
    assert planned.left / 1.5 < left < 1.5 * planned.left
    assert max(peak[0], left) < planned.peak < 3 * max(peak[0], left)


# --- time -------------------------------------------------------------------------------------------------
MEASURED = [  # seconds of whole commands on two busy processors; the mean pace, ns, before and after each
    (tilt_plan, (some_views(21, (64, 64), True), 31), (212, 18.0), 12.7),
    (tilt_plan, (some_views(41, (128, 128), True), 60), (218, 19.5), 29.2),
    (tilt_plan, (some_views(41, (256, 256), True), 90), (208, 17.8), 67.1),
    (spa_plan, (some_views(1000, (64, 64)), "C1", "both"), (208, 13.9), 24.6),
    (spa_plan, (some_views(500, (64, 64)),), (265, 22.1), 17.6),
    (spa_plan, (some_views(600, (96, 96)),), (206, 17.8), 33.5),
    (fit_plan, ((128, 128, 128), [750, 1500, 3000]), (163, 17.0), 11.6),
    (fit_plan, ((128, 128, 128), [2381, 4761, 9521, 19042, 38084]), (213, 18.3), 32.2),
]


@pytest.mark.parametrize("plan, arguments, pace, seconds", MEASURED)
def test_times_agree_with_what_was_measured(cpu32, plan, arguments, pace, seconds):
    planned = plan(*arguments).seconds(Pace(*(1e-9 * ns for ns in pace)))
    assert seconds / 2 < planned < 2 * seconds


def test_more_work_takes_longer_and_more_disk():
    def grows(*plans):
        times, disks = [p.seconds(PACE) for p in plans], [p.peak for p in plans]
        return all(np.diff(times) > 0) and all(np.diff(disks) >= 0)

    few, many, larger = (some_views(*sizes, True) for sizes in ((21, (64, 64)), (41, (64, 64)), (41, (96, 96))))
    assert grows(tilt_plan(few, 32), tilt_plan(many, 32), tilt_plan(many, 48), tilt_plan(larger, 48))
    assert grows(tilt_plan(few, 32), tilt_plan(few, 32, sirt=50))
    few, many, larger = (some_views(*sizes) for sizes in ((500, (64, 64)), (5000, (64, 64)), (5000, (96, 96))))
    assert grows(spa_plan(few), spa_plan(many), spa_plan(many, "D7"), spa_plan(larger, "D7"))
    assert grows(spa_plan(few), spa_plan(few, init="random"))
    assert grows(spa_plan(few), spa_plan(few, objective="both"))
    assert spa_plan(many, ranks=2).seconds(PACE) < spa_plan(many).seconds(PACE)
    assert grows(fit_plan((64,) * 3, [100]), fit_plan((64,) * 3, [100, 200]), fit_plan((96,) * 3, [100, 200]))


def test_the_pace_of_this_machine_is_one_of_a_computer(cpu32):
    pace = measure_pace(0.02)
    assert 1e-10 < pace.gaussian < 1e-4 and 1e-10 < pace.voxel < 1e-5
