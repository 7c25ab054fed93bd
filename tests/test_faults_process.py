"""Faults of processes and disks, cases 44 to 52 of FAULTS.md: the command is stopped, killed, starved, run twice."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from faults import COMMAND, accepted, good_particles, good_tilt_series, patched, refused, run

import taigs.volume_fit  # noqa: F401 - the classes that its checkpoints hold
from taigs.checkpoint import read_checkpoint
from taigs.io.clouds import read_cloud
from taigs.io.mrc import read_volume, write_volume

OFTEN = ("--checkpoint-minutes", "0")
KILLS = int(os.environ.get("TAIGS_KILLS", 5))  # each costs a start of the command


@pytest.fixture(scope="module")
def tilted(tmp_path_factory):
    """(folder with the inputs, arguments of `taigs tilt`, the bytes of its results)."""
    folder = tmp_path_factory.mktemp("tilted")
    arguments = [*good_tilt_series(folder).arguments, "--thickness", "16", "--arch", "cpu", "--quiet"]
    accepted([*arguments, "-o", "run"], folder)
    return folder, arguments, results(folder / "run")


def results(directory):
    return {name: (directory / name).read_bytes() for name in ("tomogram.mrc", "model.npz", "metrics.csv", "wbp.mrc")}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """(folder with map.mrc, arguments of `taigs fit`, the bytes of its model): checkpoints at the least cost."""
    folder = tmp_path_factory.mktemp("fitted")
    z, y, x = np.mgrid[-12:12, -12:12, -12:12]
    blobs = [
        np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 9) for a, b, c in ((0, 0, 0), (5, -3, 2), (-4, 4, -6))
    ]
    write_volume(folder / "map.mrc", sum(blobs).astype(np.float32), 2.0)
    arguments = ["fit", folder / "map.mrc", "--gaussians", "300", "--arch", "cpu", "--quiet"]
    accepted([*arguments, "-o", "model.npz"], folder)
    return folder, arguments, (folder / "model.npz").read_bytes()


@contextlib.contextmanager
def started(arguments, cwd):
    """The command as a process that is still at work when the block begins to run."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process, found, seconds=60):
    """Wait until `found()`; whether that came before the process ended."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "nothing happened"
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def at_step(checkpoints, part=""):
    return lambda: any(Path(checkpoints).glob(f"{part}*.step-*.npz"))


def test_44_a_run_killed_at_random_moments_ends_in_the_same_bits(fitted, tmp_path, rng):
    folder, arguments, expected = fitted
    arguments, kept = [*arguments, *OFTEN, "-o", tmp_path / "m.npz"], tmp_path / "m.checkpoints"
    for kill in range(KILLS):
        with started([*arguments, *(["--resume"] if kill else [])], folder) as process:
            before = set(kept.glob("*.step-*")) if kill else set()
            wait_for(process, lambda before=before: set(kept.glob("*.step-*")) - before)
            time.sleep(rng.uniform(0, 0.3) if kill % 2 else 0)  # any moment, or that after a save, when the next begins
            process.kill()
            process.wait()
        for state in kept.glob("*.npz"):
            read_checkpoint(state)
        if kill == 0:
            assert not (tmp_path / "m.npz").exists()
    if not (tmp_path / "m.npz").exists():
        accepted([*arguments, "--resume"], folder)
    assert (tmp_path / "m.npz").read_bytes() == expected
    assert not list(tmp_path.glob("m.checkpoints*"))


@pytest.mark.parametrize(("number", "part"), [(signal.SIGTERM, "fit"), (signal.SIGINT, "refit")])
def test_45_a_signal_ends_the_step_and_the_resumed_run_ends_in_the_same_bits(tilted, tmp_path, number, part):
    folder, arguments, expected = tilted
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "run"]
    with started(arguments, folder) as process:
        assert wait_for(process, at_step(tmp_path / "run" / "checkpoints", part))
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number and out == ""
    assert err.startswith(f"stopped by {number.name} at step ") and err.endswith(" --resume\n"), err
    assert f"of {part}; to go on: taigs tilt " in err and len(err.splitlines()) == 1
    assert not list((tmp_path / "run").glob("**/*.tmp-*"))
    accepted([*arguments, "--resume"], folder)
    assert results(tmp_path / "run") == expected
    again = accepted([*arguments, "--resume"], folder, "complete already, nothing to resume")
    assert again.seconds < 4


def test_45_particles_are_resumed_too(tmp_path):
    star = good_particles(tmp_path)
    arguments = ["spa", star, "--arch", "cpu", "--quiet"]
    run([*arguments, "-o", "whole"], tmp_path)
    with started([*arguments, *OFTEN, "-o", "run"], tmp_path) as process:
        assert wait_for(process, at_step(tmp_path / "run" / "checkpoints", "fitting-half-2-volume"))
        process.terminate()
        assert process.wait(30) == 143
    run([*arguments, *OFTEN, "-o", "run", "--resume"], tmp_path)
    names = ("map.mrc", "half1.mrc", "half2.mrc", "direct.mrc", "model.npz", "fsc.csv")
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == [
        (tmp_path / "whole" / name).read_bytes() for name in names
    ]


def test_46_a_disk_too_full_for_checkpoints_stops_the_run_the_third_time(fitted, tmp_path):
    folder, arguments, expected = fitted
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "m.npz"]
    starved = run(arguments, folder, file_size=30_000)  # room for the first states, and not for those of more Gaussians
    assert starved.code == 4 and starved.stderr.count("warning: no checkpoint: ") == 3, starved.stderr
    assert starved.stderr.endswith("3 checkpoints in a row; what was computed is kept: make room and try --resume\n")
    assert not list(tmp_path.glob("**/*.tmp-*"))
    accepted([*arguments, "--resume"], folder)
    assert (tmp_path / "m.npz").read_bytes() == expected


def test_47_a_disk_too_full_for_the_volume_leaves_the_old_one(tilted):
    folder, arguments, expected = tilted
    starved = run([*arguments, "-o", "run", "--overwrite", "--seed", "1"], folder, file_size=45_000)
    assert starved.code == 4, starved.stderr
    assert starved.stderr == "error: run/tomogram.mrc: cannot be written (File too large)\n"
    assert (folder / "run" / "tomogram.mrc").read_bytes() == expected["tomogram.mrc"]
    assert not list(folder.glob("**/*.tmp-*"))
    assert not (folder / "run" / "DONE").exists(), "the folder holds files of two runs now"


def test_48_outputs_that_exist_cannot_be_written_or_are_inputs_are_refused(tilted):
    folder, arguments, expected = tilted
    refused([*arguments, "-o", "run"], folder, "run: holds files already", "--overwrite", code=6)
    refused([*arguments, "-o", "ts.mrc"], folder, "ts.mrc: is a file", code=6)
    refused([*arguments, "-o", "/proc/taigs"], folder, "/proc/taigs: cannot be created", code=4)
    refused([*arguments, "-o", ".", "--overwrite"], folder, r"\.: holds the input .*ts\.mrc", code=6)
    assert (folder / "run" / "tomogram.mrc").read_bytes() == expected["tomogram.mrc"]


def test_49_two_runs_do_not_work_in_one_place(fitted, tmp_path):
    folder, arguments, expected = fitted
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "m.npz"]
    with started(arguments, folder) as first:
        assert wait_for(first, at_step(tmp_path / "m.checkpoints"))
        first.send_signal(signal.SIGSTOP)  # so that it is at work for as long as the others take
        for option in ("--overwrite", "--resume"):
            second = run([*arguments, option], folder)
            assert second.code == 6 and f"in use by process {first.pid} on " in second.stderr, second.stderr
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 0
    assert (tmp_path / "m.npz").read_bytes() == expected


def stopped(arguments, folder, checkpoints):
    """Let a run stop in its midst."""
    with started(arguments, folder) as process:
        assert wait_for(process, at_step(checkpoints))
        process.terminate()
        assert process.wait(60) == 143


def test_50_a_damaged_checkpoint_is_never_a_silent_new_beginning(fitted, tmp_path):
    folder, arguments, expected = fitted
    arguments, kept = [*arguments, *OFTEN, "-o", tmp_path / "m.npz"], tmp_path / "m.checkpoints"
    stopped(arguments, folder, kept)
    *others, newest = sorted(kept.glob("*.step-*.npz"), key=lambda path: path.stat().st_mtime_ns)
    for state in others:
        state.unlink()
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    refusal = run([*arguments, "--resume"], folder)
    assert refusal.code == 3 and f"{newest.name}: a damaged archive" in refusal.stderr, refusal.stderr
    assert newest.read_bytes() == whole[: len(whole) // 2], "it may be of use to who looks into it"
    older = newest.with_name(newest.name.split(".step-")[0] + ".step-00000000.npz")
    older.write_bytes(whole)
    accepted(
        [*arguments, "--resume"], folder, f"warning: .*{newest.name}: a damaged archive.*going on from {older.name}"
    )
    assert (tmp_path / "m.npz").read_bytes() == expected


def test_51_a_run_is_not_resumed_with_other_data_or_settings(fitted, tmp_path):
    folder, arguments, expected = fitted
    arguments, kept = [*arguments, *OFTEN, "-o", tmp_path / "m.npz"], tmp_path / "m.checkpoints"
    missing = run([*arguments, "--resume"], folder)
    assert missing.code == 3 and "no checkpoints" in missing.stderr and "try without --resume" in missing.stderr
    assert not list(tmp_path.iterdir())
    stopped(arguments, folder, kept)
    other = run([*arguments, "--resume", "--seed", "7", "--signed"], folder)
    assert other.code == 6
    assert "\n  signed: False there, True here\n  seed: 0 there, 7 here\n" in other.stderr, other.stderr
    whole = (folder / "map.mrc").read_bytes()
    patched(folder / "map.mrc", 5000, "<f", 0.5)
    try:
        changed = run([*arguments, "--resume"], folder)
    finally:
        (folder / "map.mrc").write_bytes(whole)
    assert changed.code == 6 and "\n  map: map.mrc, " in changed.stderr, changed.stderr
    accepted([*arguments, "--resume", "--threads", "1"], folder)
    assert (tmp_path / "m.npz").read_bytes() == expected


HOSTILE = {"HOME": "/proc", "XDG_CACHE_HOME": None, "LC_ALL": "C", "TMPDIR": None}


def test_52_a_hostile_environment_changes_nothing(tilted, tmp_path):
    folder, _, _ = tilted
    common = ["voxelize", folder / "run" / "model.npz", "--arch", "cpu", "-o"]
    accepted([*common, "plain.mrc"], tmp_path)
    accepted([*common, "hostile.mrc", "--threads", "1"], tmp_path, env=HOSTILE)
    a, b = (read_volume(tmp_path / f"{name}.mrc")[0] for name in ("plain", "hostile"))
    np.testing.assert_array_equal(a, b)
    assert a.max() > 0 and len(read_cloud(folder / "run" / "model.npz")[0]) > 0


def test_52_a_reader_of_stdout_that_leaves_is_no_error(tilted):
    folder, _, _ = tilted
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, "info", "run/tomogram.mrc"], cwd=folder, stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0 and done.stderr == ""
