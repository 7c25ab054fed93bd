"""What a long computation says while it runs; on stderr, because stdout is for results."""

import sys
import time
from typing import Protocol

PLAIN_INTERVAL = 5.0  # seconds between lines where there is no terminal


class Progress(Protocol):
    """Anything a fit can report to."""

    def stage(self, name: str) -> None:
        """A new part of the work begins."""

    def update(self, step, total, loss=None, held_out=None, gaussians=None) -> None:
        """`step` of `total` steps are done; figures that are not known are None."""

    def close(self) -> None:
        """The work is over, well or badly."""


class NoProgress:
    """Says nothing."""

    def stage(self, name):
        pass

    def update(self, step, total, loss=None, held_out=None, gaussians=None):
        pass

    def close(self):
        pass


class PlainProgress:
    """A line for every stage and one every few seconds, for log files and batch queues."""

    def __init__(self, stream=None, interval=PLAIN_INTERVAL):
        self._stream = stream or sys.stderr
        self._interval = interval
        self.stage("starting")

    def stage(self, name):
        self._started = self._last = time.monotonic()
        self._name = name
        if name != "starting":
            print(name, file=self._stream, flush=True)

    def update(self, step, total, loss=None, held_out=None, gaussians=None):
        now = time.monotonic()
        if now - self._last < self._interval and step < total:
            return
        self._last = now
        rate = step / max(now - self._started, 1e-9)
        parts = [f"{self._name}: step {step}/{total}", *_figures(loss, held_out, gaussians)]
        parts += [f"{rate:.1f} steps/s", f"{(total - step) / max(rate, 1e-9):.0f} s left"]
        print(", ".join(parts), file=self._stream, flush=True)

    def close(self):
        pass


class RichProgress:
    """A live bar for a terminal."""

    def __init__(self, stream=None):
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=8),  # all of it fits into 80 columns
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(file=stream or sys.stderr),
        )
        self._task = None
        self._bars.start()

    def stage(self, name):
        self._finish()
        self._started = time.monotonic()
        self._task = self._bars.add_task(name, total=None, figures="")

    def update(self, step, total, loss=None, held_out=None, gaussians=None):
        if self._task is None:
            self.stage("working")
        rate = step / max(time.monotonic() - self._started, 1e-9)
        figures = ", ".join([*_figures(loss, held_out, gaussians), f"{rate:.1f}/s"])
        self._bars.update(self._task, completed=step, total=total, figures=figures)

    def close(self):
        self._finish()
        self._bars.stop()

    def _finish(self):
        """Stop the clock of the running stage; one that never counted steps shows a full bar."""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            if task.total is None:
                self._bars.update(self._task, total=1, completed=1)
            self._bars.stop_task(self._task)
            self._task = None


def make_progress(quiet=False):
    """The progress that suits stderr: nothing if quiet, a bar on a terminal, lines elsewhere."""
    if quiet:
        return NoProgress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


def _figures(loss, held_out, gaussians):
    parts = [] if loss is None else [f"loss {loss:.4g}"]
    parts += [] if held_out is None else [f"held-out {held_out:.4g}"]
    return parts + ([] if gaussians is None else [f"{gaussians:,} Gaussians"])
