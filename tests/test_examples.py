"""The examples run, in processes of their own as a reader would start them, and print what they promise."""

import re
import subprocess
import sys
from pathlib import Path

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
