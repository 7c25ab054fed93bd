"""Tests of faults: tiny good inputs, and the real command in a process of its own under limits.

    series = good_tilt_series(folder)             # .stack, .angles, .xf and .dose; five images of 24 x 32 pixels of 8 A
    star = good_particles(folder)                 # p.star and p.mrcs: 24 particles of 16 pixels of 8 A with CTF
    outcome = run(["info", series.stack], folder) # taigs info ..., in that working directory
    outcome.code, outcome.stdout, outcome.stderr, outcome.seconds, outcome.peak_bytes
    python("import taigs...", folder)             # a script, likewise

`run` takes ``timeout`` (s), ``memory`` (bytes of address space; importing NumPy and SciPy takes about 300 MB of it,
Taichi 1 GB more), ``file_size`` (largest file in bytes; writing more fails as on a full disk), ``env`` (variables to
set, or to unset if None) and ``stdin`` (bytes). ``peak_bytes`` is the largest resident memory of the command alone,
60 to 120 MB for one that reads a file; ``seconds`` its processor time, which a busy machine does not lengthen.

`refused` asserts how a command ends that may not do anything: exit code, key words, no traceback, nothing written, no
input touched, in `REFUSAL_SECONDS` and `REFUSAL_BYTES`.
"""

import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taigs.io.mrc import write_stack
from taigs.io.star import Table, write_star

COMMAND = (sys.executable, "-m", "taigs.cli.main")
REFUSAL_SECONDS = 4.0  # imports take 0.5 to 1.5 s of it
REFUSAL_BYTES = 200e6
PIXEL_SIZE = 8.0
TILTS = np.linspace(-40, 40, 5)
PARTICLES, BOX = 24, 16

# The peak of a child counts from what its parent holds, so the command is the child of a process that holds nothing.
LAUNCHER = """
import json, os, resource, signal, sys
report, limits, command = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
pid = os.fork()
if not pid:
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.close(report)
    os.execv(command[0], command)
_, status, used = os.wait4(pid, 0)
found = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]
os.write(report, json.dumps(found).encode())
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `code` is negative if a signal killed it."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int


def run(args, cwd, *, timeout=60, memory=None, file_size=None, env=None, stdin=b"", command=COMMAND):
    """Run `taigs ARGS` (or another command) in the folder `cwd` and return its Outcome; see the module."""
    limits = {"RLIMIT_AS": memory, "RLIMIT_FSIZE": file_size}
    limits = {name: int(value) for name, value in limits.items() if value is not None}
    variables = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    reader, writer = os.pipe()
    command = [sys.executable, "-ISc", LAUNCHER, str(writer), json.dumps(limits), *command, *map(str, args)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with open(reader, "rb") as report:
        try:
            process = subprocess.Popen(
                command, cwd=cwd, env=variables, pass_fds=[writer], start_new_session=True, **pipes
            )
        finally:
            os.close(writer)
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException:
            os.killpg(process.pid, 9)
            process.communicate()
            raise
        code, seconds, peak = json.loads(report.read())
    return Outcome(code, stdout.decode(), stderr.decode(), seconds, peak)


def python(script, cwd, **limits):
    """Run a Python script in a process of its own; its Outcome."""
    return run(["-c", script], cwd, command=(sys.executable,), **limits)


def accepted(args, cwd, *words, **limits):
    """Assert that a command ends well, having said these words (regular expressions). Returns the Outcome."""
    outcome = run(args, cwd, **limits)
    said = f"exit code {outcome.code}\n{outcome.stdout}{outcome.stderr}"
    assert outcome.code == 0, said
    for word in words:
        assert re.search(word, outcome.stdout + outcome.stderr), f"no {word} in: {said}"
    return outcome


def refused(args, cwd, *words, code=3, **limits):
    """Assert that a command is refused with these words (regular expressions), leaving everything as it was.

    Returns the Outcome.
    """
    before = content(cwd)
    outcome = run(args, cwd, **limits)
    said = f"exit code {outcome.code}\n{outcome.stdout}{outcome.stderr}"
    assert outcome.code == code, said
    assert not outcome.stdout and "Traceback" not in outcome.stderr, said
    assert sum(line.startswith("error: ") for line in outcome.stderr.splitlines()) == 1, said
    for word in words:
        assert re.search(word, outcome.stderr), f"no {word} in: {said}"
    assert content(cwd) == before, "files were written, changed or removed"
    assert outcome.seconds < REFUSAL_SECONDS and outcome.peak_bytes < REFUSAL_BYTES, outcome
    return outcome


def content(folder):
    """What every file below a folder holds, or its size and time if it is long, to see that nothing changed."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        status = path.lstat()
        is_short = path.is_file() and os.access(path, os.R_OK) and status.st_size < 10**6
        found[path] = (status.st_mode, path.read_bytes() if is_short else (status.st_size, status.st_mtime_ns))
    return found


@dataclass(frozen=True)
class TiltSeries:
    """The files of a tilt series: stack, tilt angles, alignment, dose."""

    stack: Path
    angles: Path
    xf: Path
    dose: Path

    @property
    def arguments(self):
        """Of `taigs tilt`, but for the output."""
        return ["tilt", self.stack, "--angles", self.angles, "--xf", self.xf, "--dose", self.dose]


def good_tilt_series(folder):
    """ts.mrc, ts.tlt, ts.xf and ts.dose of a dark blob, which `taigs tilt` reconstructs."""
    series = TiltSeries(*(Path(folder) / f"ts.{kind}" for kind in ("mrc", "tlt", "xf", "dose")))
    y, x = np.mgrid[-12:12, -16:16]
    blobs = [np.exp(-((x - 4 * np.sin(np.deg2rad(tilt))) ** 2 + y**2) / 18) for tilt in TILTS]
    noise = np.random.default_rng(0).normal(size=(len(TILTS), 24, 32))
    write_stack(series.stack, noise - 10 * np.array(blobs), PIXEL_SIZE)
    np.savetxt(series.angles, TILTS, "%.2f")
    np.savetxt(series.xf, np.tile([1.0, 0, 0, 1, 0, 0], (len(TILTS), 1)), "%.3f")
    np.savetxt(series.dose, 3.0 * np.arange(len(TILTS)), "%.1f")
    return series


def good_particles(folder, optics=None, **columns):
    """p.star and p.mrcs of noise with a blob, which `taigs spa` reconstructs; the path of the star.

    `columns` replace those of the particles, `optics` those of the optics table; None leaves one out.
    """
    folder = Path(folder)
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-BOX // 2 : BOX // 2, -BOX // 2 : BOX // 2]
    write_stack(folder / "p.mrcs", rng.normal(size=(PARTICLES, BOX, BOX)) - 6 * np.exp(-(x**2 + y**2) / 8), PIXEL_SIZE)
    poses = np.stack([rng.uniform(-180, 180, PARTICLES), rng.uniform(5, 175, PARTICLES), np.zeros(PARTICLES)])
    table = {
        "rlnImageName": [f"{i + 1:06d}@p.mrcs" for i in range(PARTICLES)],
        **{f"rlnAngle{name}": values for name, values in zip(("Rot", "Tilt", "Psi"), poses, strict=True)},
        "rlnDefocusU": np.full(PARTICLES, 15000.0),
        "rlnDefocusV": np.full(PARTICLES, 14000.0),
        "rlnDefocusAngle": np.full(PARTICLES, 30.0),
        "rlnRandomSubset": 1 + np.arange(PARTICLES) % 2,
        "rlnOpticsGroup": np.ones(PARTICLES, int),
    } | columns
    group = {
        "rlnOpticsGroup": [1], "rlnImagePixelSize": [PIXEL_SIZE], "rlnImageSize": [BOX], "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
    } | (optics or {})  # fmt: skip
    blocks = {"optics": group, "particles": table}
    kept = {name: {k: v for k, v in values.items() if v is not None} for name, values in blocks.items()}
    write_star(folder / "p.star", [Table(name, values) for name, values in kept.items()])
    return folder / "p.star"


def patched(path, at, form, *values):
    """The file with some bytes replaced, packed as `struct.pack` does; its path."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, *values))
    return path
