"""Timing, tables and CSV files for the benchmarks."""

import csv
import platform
import statistics
import subprocess
import time
from datetime import date
from pathlib import Path

from taigs import __version__
from taigs.runtime import ti


def timed(work, repeats=7, least_s=0.2):
    """(median, smallest) seconds of one call of `work`, compiled and warm; a repeat takes `least_s` at least."""
    work()
    ti.sync()
    calls, seconds = 1, seconds_of(work)
    while seconds < least_s:
        calls = max(2 * calls, int(calls * least_s / max(seconds, 1e-9)))
        seconds = seconds_of(work, calls)
    each = [seconds_of(work, calls) / calls for _ in range(repeats)]
    return statistics.median(each), min(each)


def seconds_of(work, calls=1):
    """Seconds of so many calls, to the end of what they left running on the device."""
    started = time.perf_counter()
    for _ in range(calls):
        work()
    ti.sync()
    return time.perf_counter() - started


def machine(running):
    """What the figures were measured on, in a line."""
    name = processor()
    if running.arch != "cpu":
        name = gpu() or "no name"
    return f"{name}; taigs {__version__}, {running.arch}, {running.threads} threads, {date.today()}"


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def gpu():
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip() or None


class Table:
    """Rows that are printed as they come, and written as CSV at the end."""

    def __init__(self, title, columns):
        self.columns, self.rows = columns, []
        print(f"\n{title}\n\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)

    def add(self, *cells):
        self.rows.append(cells)
        print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *self.rows])
