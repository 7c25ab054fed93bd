"""A few hundred damaged files of every kind, read in a process of their own: see fuzz.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import TARGETS

SEED = int(os.environ.get("TAIGS_SEED") or 1)
ATTEMPTS = 250


@pytest.mark.parametrize("group", range(3))
def test_a_damaged_file_is_read_or_refused_soon_and_in_little_memory(group, tmp_path):
    print(f"seed {SEED} (TAIGS_SEED={SEED} repeats it)")
    targets = list(TARGETS)[group::3]
    script = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, script, ",".join(targets), str(SEED), "0", str(ATTEMPTS), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    last = (tmp_path / "last").read_text() if (tmp_path / "last").exists() else "none"
    assert done.returncode == 0, f"attempt {last} ended with {done.returncode}\n{done.stderr}"
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    shown = [f"attempt {found['target']} {found['number']}: {found['wrong']}" for found in findings[:5]]
    assert not findings, "\n".join(shown)
    assert last == f"{targets[-1]} {ATTEMPTS - 1}"
