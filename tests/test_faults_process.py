"""Faults of processes and disks, cases 44 to 52 of FAULTS.md: the command is stopped, killed, starved, run twice."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from faults import COMMAND, accepted, good_particles, good_tilt_series, refused, run

from taigs.io.clouds import read_cloud
from taigs.io.mrc import read_volume

OFTEN = ("--checkpoint-minutes", "0")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(folder with the inputs, arguments of `taigs tilt`, the bytes of its results)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = [*good_tilt_series(folder).arguments, "--thickness", "16", "--arch", "cpu", "--quiet"]
    accepted([*arguments, "-o", "run"], folder)
    return folder, arguments, results(folder / "run")


def results(directory):
    return {name: (directory / name).read_bytes() for name in ("tomogram.mrc", "model.npz", "metrics.csv", "wbp.mrc")}


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


def at_step(directory, part):
    return lambda: any(Path(directory, "checkpoints").glob(f"{part}.step-*.npz"))


def test_44_a_run_killed_at_random_moments_ends_in_the_same_bits(undisturbed, tmp_path, rng):
    folder, arguments, expected = undisturbed
    arguments, kills = [*arguments, *OFTEN, "-o", tmp_path / "run"], 0
    begun = tmp_path / "run" / "checkpoints" / "begun.npz"
    while kills < 5:
        with started([*arguments, *(["--resume"] if kills else [])], folder) as process:
            wait_for(process, begun.exists)
            before = set(begun.parent.iterdir()) if begun.parent.exists() else set()
            if kills % 2:  # when a save has just begun, or ended
                wait_for(process, lambda before=before: set(begun.parent.iterdir()) != before)
            else:
                time.sleep(rng.uniform(0, 2))
            process.kill()
            process.wait()
            kills += 1
    if not (tmp_path / "run" / "DONE").exists():
        accepted([*arguments, "--resume"], folder)
    assert results(tmp_path / "run") == expected
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("number", "part"), [(signal.SIGTERM, "fit"), (signal.SIGINT, "refit")])
def test_45_a_signal_ends_the_step_and_the_resumed_run_ends_in_the_same_bits(undisturbed, tmp_path, number, part):
    folder, arguments, expected = undisturbed
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "run"]
    with started(arguments, folder) as process:
        assert wait_for(process, at_step(tmp_path / "run", part))
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


def test_45_particles_and_maps_are_resumed_too(tmp_path):
    star = good_particles(tmp_path)
    arguments = ["spa", star, "--arch", "cpu", "--quiet"]
    run([*arguments, "-o", "whole"], tmp_path)
    with started([*arguments, *OFTEN, "-o", "run"], tmp_path) as process:
        assert wait_for(process, at_step(tmp_path / "run", "fitting-half-2-volume"))
        process.terminate()
        assert process.wait(30) == 143
    run([*arguments, *OFTEN, "-o", "run", "--resume"], tmp_path)
    names = ("map.mrc", "half1.mrc", "half2.mrc", "direct.mrc", "model.npz", "fsc.csv")
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == [
        (tmp_path / "whole" / name).read_bytes() for name in names
    ]

    fit = ["fit", "whole/map.mrc", "--gaussians", "60", "--arch", "cpu", "--quiet"]
    accepted([*fit, "-o", "a.npz"], tmp_path)
    with started([*fit, *OFTEN, "-o", "b.npz"], tmp_path) as process:
        assert wait_for(process, lambda: any(tmp_path.glob("b.checkpoints/*.step-*.npz")))
        process.terminate()
        assert process.wait(30) == 143
    assert not (tmp_path / "b.npz").exists()
    accepted([*fit, *OFTEN, "-o", "b.npz", "--resume"], tmp_path)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not list(tmp_path.glob("b.checkpoints*"))


def test_46_a_disk_too_full_for_checkpoints_stops_the_run_the_third_time(undisturbed, tmp_path):
    folder, arguments, expected = undisturbed
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "run"]
    starved = run(arguments, folder, file_size=20_000)
    assert starved.code == 4 and starved.stderr.count("warning: no checkpoint: ") == 3, starved.stderr
    assert "File too large): 3 checkpoints in a row" in starved.stderr.splitlines()[-1]
    assert not list((tmp_path / "run").glob("**/*.tmp-*"))
    if (tmp_path / "run" / "checkpoints").exists():
        accepted([*arguments, "--resume"], folder)
    else:  # nothing had been kept
        accepted([*arguments, "--overwrite"], folder)
    assert results(tmp_path / "run") == expected


def test_47_a_disk_too_full_for_the_volume_leaves_the_old_one(undisturbed, tmp_path):
    folder, arguments, expected = undisturbed
    arguments = [*arguments, "-o", tmp_path / "run"]
    accepted(arguments, folder)
    starved = run([*arguments, "--overwrite", "--seed", "1", *OFTEN], folder, file_size=45_000)
    assert starved.code == 4, starved.stderr
    assert "tomogram.mrc: cannot be written (File too large); what was computed is kept" in starved.stderr
    assert (tmp_path / "run" / "tomogram.mrc").read_bytes() == expected["tomogram.mrc"]
    done = accepted([*arguments, "--seed", "1", "--resume", *OFTEN], folder)
    assert done.stdout.split() == [str(tmp_path / "run" / "tomogram.mrc")]
    assert (tmp_path / "run" / "tomogram.mrc").read_bytes() != expected["tomogram.mrc"]


def test_48_outputs_that_exist_cannot_be_written_or_are_inputs_are_refused(undisturbed):
    folder, arguments, expected = undisturbed
    refused([*arguments, "-o", "run"], folder, "run: holds files already", "--overwrite", code=6)
    refused([*arguments, "-o", "ts.mrc"], folder, "ts.mrc: is a file", code=6)
    refused([*arguments, "-o", "/proc/taigs"], folder, "/proc/taigs: cannot be created", code=4)
    refused([*arguments, "-o", ".", "--overwrite"], folder, r"\.: holds the input .*ts\.mrc", code=6)
    assert results(folder / "run") == expected


def test_49_two_runs_do_not_work_in_one_folder(undisturbed, tmp_path):
    folder, arguments, expected = undisturbed
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "run"]
    with started(arguments, folder) as first:
        assert wait_for(first, at_step(tmp_path / "run", "fit"))
        first.send_signal(signal.SIGSTOP)  # so that it is at work for as long as the others take
        for option in ("--overwrite", "--resume"):
            second = run([*arguments, option], folder)
            assert second.code == 6 and f"in use by process {first.pid} on " in second.stderr, second.stderr
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 0
    assert results(tmp_path / "run") == expected


def test_50_a_damaged_checkpoint_is_never_a_silent_new_beginning(undisturbed, tmp_path):
    folder, arguments, expected = undisturbed
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "run"]
    with started(arguments, folder) as process:
        assert wait_for(process, lambda: at_step(tmp_path / "run", "refit")())
        process.terminate()
        process.wait(30)
    states = sorted((tmp_path / "run" / "checkpoints").glob("refit.step-*.npz"))
    whole = states[-1].read_bytes()
    states[-1].write_bytes(whole[: len(whole) // 2])
    for state in states[:-1]:
        state.unlink()
    stopped = run([*arguments, "--resume"], folder)
    assert stopped.code == 3 and f"{states[-1].name}: damaged checkpoint" in stopped.stderr, stopped.stderr
    assert stopped.peak_bytes < 600e6
    older = states[-1].with_name("refit.step-00000000.npz")
    older.write_bytes(whole)
    accepted([*arguments, "--resume"], folder, f"warning: .*{states[-1].name}: damaged.*going on from {older.name}")
    assert results(tmp_path / "run") == expected


def test_51_a_run_is_not_resumed_with_other_data_or_settings(undisturbed, tmp_path):
    folder, arguments, expected = undisturbed
    arguments = [*arguments, *OFTEN, "-o", tmp_path / "run"]
    refused([*arguments, "--resume"], folder, "no checkpoints", "try without --resume")
    assert not (tmp_path / "run").exists()
    with started(arguments, folder) as process:
        assert wait_for(process, at_step(tmp_path / "run", "fit"))
        process.terminate()
        process.wait(30)
    other = run([*arguments, "--resume", "--seed", "7", "--signed"], folder)
    assert other.code == 6
    assert "\n  signed: False there, True here\n  seed: 0 there, 7 here\n" in other.stderr, other.stderr
    dose = folder / "ts.dose"
    before = dose.read_text()
    dose.write_text(before.replace("3.0", "4.0"))
    try:
        changed = run([*arguments, "--resume"], folder)
    finally:
        dose.write_text(before)
    assert changed.code == 6 and "\n  dose: ts.dose, " in changed.stderr, changed.stderr
    accepted([*arguments, "--resume", "--threads", "1"], folder)
    assert results(tmp_path / "run") == expected


HOSTILE = {"HOME": "/proc", "XDG_CACHE_HOME": None, "LC_ALL": "C", "TMPDIR": None}


def test_52_a_hostile_environment_changes_nothing(undisturbed, tmp_path):
    folder, _, _ = undisturbed
    common = ["voxelize", folder / "run" / "model.npz", "--arch", "cpu", "-o"]
    accepted([*common, "plain.mrc"], tmp_path)
    accepted([*common, "hostile.mrc", "--threads", "1"], tmp_path, env=HOSTILE)
    a, b = (read_volume(tmp_path / f"{name}.mrc")[0] for name in ("plain", "hostile"))
    np.testing.assert_array_equal(a, b)
    assert a.max() > 0 and len(read_cloud(folder / "run" / "model.npz")[0]) > 0


def test_52_a_reader_of_stdout_that_leaves_is_no_error(undisturbed):
    folder, _, _ = undisturbed
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, "info", "run/tomogram.mrc"], cwd=folder, stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0 and done.stderr == ""
