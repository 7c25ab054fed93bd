"""The examples run, in processes of their own as a reader would start them, and print what they promise."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name, *arguments, cwd):
    """What an example prints; it must end well."""
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers_after(label, text):
    """The numbers of the line that begins with a label."""
    line = re.search(rf"^{label}\b(.*)$", text, re.MULTILINE)[1]
    return [float(word) for word in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", line)]


def test_scripting_reconstructs_projects_and_differentiates(tmp_path):
    out = run("scripting.py", 32, cwd=tmp_path)
    assert numbers_after("NCC with the truth", out)[0] > 0.7
    assert numbers_after("NCC of a projection", out)[1] > 0.9
    loss, pulled_back = numbers_after("L", out)
    assert abs(pulled_back / loss - 1) < 1e-3
    assert "rotation (2, 3), shift (2,)" in out
    assert not list(tmp_path.iterdir())


def test_backends_agree_with_the_cpu(tmp_path):
    lines = run("backends.py", 500, 64, cwd=tmp_path).splitlines()[2:]
    rows = {backend: rest for backend, *rest in map(str.split, lines)}
    assert list(rows) == ["cpu", "cuda", "vulkan"]
    for backend, rest in rows.items():
        if rest != ["not", "on", "this", "machine"]:
            milliseconds, difference = map(float, rest[:2])
            assert milliseconds > 0 and difference < 1e-5, backend
    assert float(rows["cpu"][1]) == 0


def test_a_phantom_goes_through_the_command_line_and_is_scored(tmp_path):
    out = run("phantom_tilt_series.py", "series", cwd=tmp_path)
    taigs, wbp = numbers_after("taigs", out), numbers_after("WBP", out)
    assert all(ours > theirs for ours, theirs in zip(taigs, wbp, strict=True))
    assert {"tomogram.mrc", "model.npz", "report.html"} <= {p.name for p in (tmp_path / "series" / "run").iterdir()}


def test_phantom_particles_beat_the_direct_map(tmp_path):
    out = run("phantom_particles.py", 400, cwd=tmp_path)
    assert numbers_after("taigs", out)[0] > numbers_after("direct Fourier", out)[0] + 0.1


# --- jobs for clusters: with stand-ins for the commands that they start --------------------------------

SLURM = sorted((EXAMPLES / "slurm").glob("*.sh"))
STANDINS = {
    # What tilt and srun were asked for; then taigs waits, like a fit, until it is told to stop.
    "taigs": '#!/bin/bash\necho "$@" > called\n[[ $* == *--resume* ]] && exit 0\n'
             'trap "exit 143" TERM\ntouch started\nfor _ in {1..200}; do sleep 0.05; done\n',
    "srun": '#!/bin/bash\necho "$@" > called\n',
    "scontrol": '#!/bin/bash\necho "$@" > requeued\n',
}  # fmt: skip


@pytest.fixture
def job(tmp_path):
    """A function that starts a job in tmp_path."""
    for name, text in STANDINS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"}
    env = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return lambda name, *arguments: subprocess.Popen(
        ["bash", EXAMPLES / "slurm" / name, *arguments], cwd=tmp_path, env=env, start_new_session=True
    )


def checkpoint(run):
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "begun.npz").touch()


@pytest.mark.parametrize("script", SLURM, ids=lambda path: path.name)
def test_jobs_for_clusters_are_sound_shell(script):
    assert len(SLURM) == 2
    subprocess.run(["bash", "-n", script], check=True)


def test_a_task_of_the_array_passes_the_signal_on_and_is_queued_again_to_resume(tmp_path, job):
    (tmp_path / "series.txt").write_text("a\nb\nc\n")
    task = job("tilt_series.sh", "series.txt")
    for _ in range(500):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.02)
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=30) == 143
    assert (tmp_path / "requeued").read_text() == "requeue 7_2\n"
    called = (tmp_path / "called").read_text().split()
    assert called[:4] == ["tilt", "b/b.mrc", "--angles", "b/b.tlt"] and "--resume" not in called
    checkpoint(tmp_path / "b" / "taigs")
    assert job("tilt_series.sh", "series.txt").wait(timeout=30) == 0
    assert "--resume" in (tmp_path / "called").read_text()


@pytest.mark.parametrize("before, option", [("nothing", None), ("files", "--overwrite"), ("checkpoints", "--resume")])
def test_the_job_of_particles_goes_on_if_there_is_something_to_go_on_from(tmp_path, job, before, option):
    if before == "files":
        (tmp_path / "run").mkdir()
    if before == "checkpoints":
        checkpoint(tmp_path / "run")
    assert job("particles_mpi.sh", "p.star", "run").wait(timeout=30) == 0
    called = (tmp_path / "called").read_text().split()
    assert called[:6] == ["--mpi=pmix", "--cpus-per-task=8", "taigs", "spa", "p.star", "-o"]
    assert called[called.index("5") + 1 :] == ([option] if option else [])
