"""The run directory, which says what was run and how it went, and the HTML report for people.

The report is one file without network access, whose one script moves slices; whatever it shows is escaped.
"""

import base64
import contextlib
import csv
import hashlib
import json
import logging
import os
import platform
import shlex
import time
from dataclasses import asdict, dataclass, is_dataclass
from importlib import metadata, resources
from pathlib import Path

from taigs import __version__
from taigs.errors import RefusedError, ResourceError
from taigs.figures import curves_figure, fsc_figure, power_spectrum_figure, residual_figure
from taigs.identity import identify
from taigs.io.files import check_makeable
from taigs.io.mrc import atomic_file
from taigs.journal import Journal, check_journal
from taigs.run_record import RunRecord, peak_memory, size_in_words

__all__ = [
    "Figure",
    "RunDirectory",
    "curves_figure",
    "environment",
    "fsc_figure",
    "power_spectrum_figure",
    "residual_figure",
    "write_report",
]

PACKAGES = ("taichi", "numpy", "scipy", "mrcfile", "matplotlib")
log = logging.getLogger("taigs")


class RunDirectory:
    """The folder of one run; a context manager that closes the log.

    Parameters
    ----------
    path : path-like
        Created if it is not there.
    overwrite : bool
        Write into a folder that holds files; those of the same names are replaced, others stay.
    resume : bool
        Go on with the run that was stopped in this folder.
    inputs : dict of str to (list of) path
        Input files by name. None may lie in a folder that is overwritten.
    planned : bool
        Refuse what would be refused, but make nothing.

    Raises
    ------
    RefusedError
        The folder holds files and `overwrite` is False, or it holds an input, or `path` is a file.
    ResourceError
        The folder cannot be created or written to.
    """

    def __init__(self, path, overwrite=False, resume=False, inputs=None, planned=False):
        self.path, self.resume, self.inputs = Path(path), resume, inputs or {}
        self.journal = Journal()
        self._handler = self._columns = None
        if self.path.exists() and not self.path.is_dir():
            raise RefusedError(f"{path}: is a file; expected a folder; try another name")
        try:
            self._created = not planned and not self.path.exists()
            if planned:
                there = check_makeable(self.path)
            else:
                self.path.mkdir(parents=True, exist_ok=True)
                there = self.path
            occupied = self.path.exists() and any(self.path.iterdir())
        except OSError as error:
            raise ResourceError(f"{path}: cannot be created ({error.strerror}); try another folder") from error
        if occupied and not (overwrite or resume):
            raise RefusedError(f"{path}: holds files already; expected a new or empty folder; try --overwrite")
        for file in filter(None, self.inputs.values()):
            if Path(file).absolute().parent.resolve() == self.path.resolve():
                raise RefusedError(f"{path}: holds the input {file}; expected another folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ResourceError(f"{path}: no permission to write; try another folder")

    def __truediv__(self, name):
        return self.path / name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and self._handler is not None:
            log.error("%s: %s", kind.__name__, error)
        if error is None and self.journal.folder is not None:
            self.write_text("DONE", "")
        self.close()
        if error is not None and self._created:
            with contextlib.suppress(OSError):  # a folder that holds something stays
                self.path.rmdir()

    @property
    def is_done(self):
        """Whether there is nothing to resume, because the run came to its end."""
        return self.resume and (self / "DONE").exists()

    def begin(self, command, config, runtime=None, checkpoint_minutes=None):
        """Record what is about to run, and start ``run.log`` and ``metrics.csv`` anew, or go on with the log.

        Parameters
        ----------
        command : list of str
            As typed.
        config : dict or dataclass
            Every setting, defaults included.
        runtime : taigs.runtime.Runtime, optional
            What Taichi started with.
        checkpoint_minutes : float, optional
            Keep checkpoints, this often, by `journal`; to be entered where the work begins.

        Raises
        ------
        InputError, RefusedError
            There is nothing to resume; or the run had other settings or data, or is at work.
        """
        if checkpoint_minutes is not None:
            identity = identify(config, self.inputs, runtime)
            self.journal = Journal(self / "checkpoints", identity, checkpoint_minutes, self.resume)
        if not self.resume:
            for name in ("metrics.csv", "DONE"):
                (self / name).unlink(missing_ok=True)
        self.write_text("command.txt", shlex.join(map(str, command)) + "\n")
        self.write_json("config.json", asdict(config) if is_dataclass(config) else config)
        self.write_json("environment.json", environment(runtime))
        self._handler = logging.FileHandler(self / "run.log", mode="a" if self.resume else "w", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        log.info("%s", shlex.join(map(str, command)))

    def check(self, config, runtime):
        """Refuse what `begin` would refuse, and touch nothing."""
        check_journal(self / "checkpoints", identify(config, self.inputs, runtime), self.resume)

    def log_metrics(self, row):
        """Append a row to ``metrics.csv``; the first row's keys are the columns, None leaves a cell empty."""
        new = self._columns is None
        self._columns = list(row) if new else self._columns
        with open(self / "metrics.csv", "w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def write_text(self, name, text):
        """Write a file of the run atomically."""
        with atomic_file(self / name, overwrite=True) as file:
            file.write(text.encode())

    def write_json(self, name, value):
        """Write a JSON file of the run atomically; paths and NumPy numbers become plain ones."""
        self.write_text(name, json.dumps(value, indent=2, default=_plain) + "\n")

    def close(self):
        """End the log."""
        if self._handler is not None:
            log.removeHandler(self._handler)
            self._handler.close()
            self._handler = None


@dataclass(frozen=True)
class Figure:
    """A picture of the report: what it shows, and the PNG."""

    caption: str
    png: bytes

    @property
    def uri(self):
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def environment(runtime=None):
    """Versions, platform and backend, as a dict for environment.json and bug reports."""
    versions = {"taigs": __version__}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    found = {"python": platform.python_version(), "platform": platform.platform(), "versions": versions}
    return found | ({"backend": asdict(runtime)} if runtime is not None else {})


def write_report(
    path, *, title, summary, verdict, slices=None, tables=(), figures=(), notes=(), data=(), record=None,
    settings=None, timings=None,
):  # fmt: skip
    """Write the report: one HTML file, readable offline, in light and dark, and on paper.

    Parameters
    ----------
    path : path-like
        Replaced, atomically, if it exists.
    title, verdict : str
        What was done; how it came out, in a sentence or two. Paragraphs are parted by newlines.
    summary : list of (label, value)
        The few figures a reader wants first.
    slices : taigs.slices.Slices, optional
    tables : list of (caption, header, rows)
        Cells are str or numbers; floats are shown with three digits.
    figures : list of Figure
    notes : list of str
        What was assumed, and what the figures cannot show.
    data : list of (label, value)
        What was read, in words; the files follow from `record`.
    record : RunRecord, optional
    settings : dict, optional
        What was decided on the way.
    timings : dict of str to float, optional
        Seconds of each stage.

    Raises
    ------
    ResourceError
        The file cannot be written.
    """
    import jinja2
    from markupsafe import Markup

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("taigs"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    templates.filters["cell"] = _cell
    folder = resources.files("taigs") / "templates"
    script = (folder / "report.js").read_text("utf-8")
    record, memory = record or RunRecord(), peak_memory()
    text = templates.get_template("report.html.j2").render(
        title=title,
        summary=summary,
        verdict=verdict,
        slices=slices,
        tables=tables,
        figures=figures,
        notes=notes,
        data=[*data, *record.files()],
        record=record,
        settings=settings or {},
        timings=timings or {},
        memory=None if memory is None else size_in_words(memory),
        written=time.strftime("%Y-%m-%d %H:%M"),
        environment=environment(),
        style=Markup((folder / "report.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with atomic_file(path, overwrite=True) as file:
        file.write(text.encode())


def _cell(value):
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain(value):
    """NumPy scalars and arrays, and paths, as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
