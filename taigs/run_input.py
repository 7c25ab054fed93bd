"""The images of a finished run, read again as its config.json says."""

import contextlib
import json
import re
import warnings
from pathlib import Path

from taigs.errors import InputError

# What the reading of images depends on, by its option's name in config.json.
TILT_SERIES = (
    "xf", "xtilt", "tilt_axis", "pixel_size", "contrast", "bin", "dose", "invert_angles", "mask_nonfinite",
    "mode0", "allow_truncated",
)  # fmt: skip
PARTICLES = (
    "datadir", "class_number", "subset", "box_crop", "pixel_size", "no_ctf", "poses", "ctf", "tomograms", "mode0",
)  # fmt: skip
FILES = ("stack", "angles", "xf", "xtilt", "dose", "particles", "datadir", "poses", "ctf", "tomograms")


def read_config(run):
    """The settings of a run by name; none if the folder has no readable config.json."""
    try:
        config = json.loads((Path(run) / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def has_tilt_series(run):
    """Whether a folder is one of `taigs tilt` or `taigs demo`."""
    return _of_demo(Path(run)) is not None or {"stack", "angles"} <= read_config(run).keys()


def read_run_tilt_series(run):
    """Views of the tilt series that a folder of `taigs tilt` or `taigs demo` was made from.

    Raises
    ------
    InputError
        The folder is of something else, or as `taigs.read_tilt_series`: the images may be gone.
    """
    from taigs.io.tilt_series import read_tilt_series

    run = Path(run)
    if not has_tilt_series(run):
        raise InputError(f"{run}: names no tilt series in config.json; expected the folder of taigs tilt")
    with _as_the_run_did(run):
        arguments = _of_demo(run)
        if arguments is None:
            config = read_config(run)
            arguments = _arguments(run, config, ("stack", "angles", *TILT_SERIES))
            arguments["exclude"] = number_list(config.get("exclude") or "")
        return read_tilt_series(**arguments)


def read_run_particles(run):
    """Views of the particles that a folder of `taigs spa` was made from.

    Raises
    ------
    InputError
        The folder is of something else, or as `taigs.read_particles`.
    """
    from taigs.io.particles import read_particles

    config = read_config(run)
    if "particles" not in config:
        raise InputError(f"{run}: names no particles in config.json; expected the folder of taigs spa")
    with _as_the_run_did(run):
        arguments = _arguments(Path(run), config, ("particles", *PARTICLES))
        return read_particles(arguments.pop("particles"), **arguments)


def _of_demo(run):
    """Arguments of the tilt series that `taigs demo` leaves in its folder; None for others."""
    own = {"stack": run / "tilt_series.mrc", "angles": run / "tilt_series.tlt"}
    return own if all(path.exists() for path in own.values()) else None


@contextlib.contextmanager
def _as_the_run_did(run):
    """Read without the warnings that the run has given already; its config.json may hold anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (TypeError, AttributeError) as error:
        raise InputError(f"{run}/config.json: {error}; expected the settings of a run") from None


def _arguments(run, config, names):
    """Settings that were given, files as paths that can be found from here."""
    given = {name: config[name] for name in names if config.get(name) is not None}
    return given | {name: _found(run, given[name]) for name in FILES if name in given}


def _found(run, name):
    """A file of the command line, whose folder is often the one that the run's folder is in."""
    path, beside = Path(name), run.resolve().parent / name
    return beside if beside.exists() and not path.exists() else path


def number_list(text):
    """The integers of a list with ranges: 1,5-7 means 1, 5, 6 and 7.

    Raises
    ------
    InputError
        A part is neither a number nor a range.
    """
    found = []
    for part in filter(None, text.replace(" ", "").split(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            raise InputError(f'"{part}" is not a number or range; expected 1,5-7 or similar')
        first, last = match.groups()
        found += range(int(first), int(last or first) + 1)
    return found
