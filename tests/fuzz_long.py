"""Fuzzing for some minutes, on all processors: python tests/fuzz_long.py MINUTES [SEED].

Prints each new kind of finding once (a crash or hang of the worker too), with the command that repeats it; ends with 1
if there was any. Files of findings are kept in temporary folders.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz import TARGETS

COUNT = 1000
SCRIPT = Path(__file__).with_name("fuzz.py")


def batch(target, seed, first):
    """Findings of one batch: list of (kind, what to print)."""
    folder = tempfile.mkdtemp(prefix="fuzz-")
    command = [sys.executable, str(SCRIPT), target, str(seed), str(first), str(COUNT), folder]
    done = subprocess.run(command, capture_output=True, text=True)
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    found = [(kind(f["wrong"]), f"{target}, attempt {f['number']}: {f['file']}\n{f['wrong']}") for f in findings]
    if done.returncode:
        last = Path(folder, "last").read_text()
        found.append((f"ends with {done.returncode}", f"{last} in {folder} ends with {done.returncode}\n{done.stderr}"))
    if not found:
        shutil.rmtree(folder)
    return found


def kind(wrong):
    """What findings of one cause have in common: the innermost place and the type of error."""
    places = re.findall(r'File "(\S+)", line (\d+)', wrong)
    return (places[-1], wrong.splitlines()[-1].split(":")[0]) if places else re.sub(r"\d", "", wrong)


def main(minutes, seed=None):
    seed = int(time.time()) if seed is None else int(seed)
    print(f"seed {seed}")
    ends, known, attempts = time.monotonic() + 60 * float(minutes), set(), 0
    work = ((first, target) for first in itertools.count(0, COUNT) for target in TARGETS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while time.monotonic() < ends:
            now = [next(work) for _ in range(2 * os.cpu_count())]
            for found in pool.map(lambda job: batch(job[1], seed, job[0]), now):
                attempts += COUNT
                for what, text in found:
                    if what not in known:
                        known.add(what)
                        print(text, flush=True)
    print(f"{attempts} attempts, {len(known)} kinds of findings")
    return bool(known)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
