"""What was run, for a report: the command, its files and options, the device, and the memory it took."""

import json
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RunRecord:
    """What a report tells of a command; `command` is empty where it was no command.

    Parameters
    ----------
    command : str
        As typed.
    options : dict
        Every option with its value, defaults included.
    backend : dict
        Fields of `taigs.runtime.Runtime`.
    """

    command: str = ""
    options: dict = field(default_factory=dict)
    backend: dict = field(default_factory=dict)

    @classmethod
    def of_folder(cls, directory):
        """From what `RunDirectory.begin` wrote; what is missing or cannot be read is left out."""
        command = ""
        with suppress(OSError, UnicodeDecodeError):
            command = Path(directory / "command.txt").read_text("utf-8").strip()
        backend = _read(directory / "environment.json").get("backend")
        return cls(command, _read(directory / "config.json"), backend if isinstance(backend, dict) else {})

    @classmethod
    def of_command(cls, command, options, runtime):
        """Of a command that leaves no folder: list of str, dict of its options, Runtime."""
        return cls(shlex.join(map(str, command)), json.loads(json.dumps(options, default=str)), vars(runtime))

    def files(self):
        """(option, path and size in words) of each option that names an existing file."""
        return [(in_words(name), f"{path} ({size_in_words(path.stat().st_size)})") for name, path in self._paths()]

    def _paths(self):
        for name, value in self.options.items():
            with suppress(OSError, ValueError):  # a value that can be no path
                if isinstance(value, str) and value and Path(value).is_file():
                    yield name, Path(value)

    def device(self):
        """The backend, in words; empty if it is not known."""
        if not self.backend:
            return ""
        threads = self.backend.get("threads")
        return f"{str(self.backend.get('arch')).upper()}, {threads} thread{'s' if threads != 1 else ''}"

    def settings(self):
        """Name in words -> value, of every option but files and those that are off or not given."""
        files = dict(self._paths())
        shown = {
            name: "yes" if value is True else f"{value:g}" if isinstance(value, float) else value
            for name, value in self.options.items()
            if value is not None and value is not False and value != "" and name not in files
        }
        return {in_words(name): value for name, value in shown.items()}


def _read(path):
    """The dict of a JSON file; empty if there is none."""
    with suppress(OSError, ValueError):
        content = json.loads(Path(path).read_text("utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def in_words(name):
    """An option's name without underscores."""
    return name.replace("_", " ")


def size_in_words(n_bytes):
    """Bytes as 512 B, 1.3 kB, 25 MB: two digits or more, decimal prefixes."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.1f} {unit}" if unit != "B" and n_bytes < 10 else f"{n_bytes:,.0f} {unit}"


def peak_memory():
    """Largest resident memory of this process so far, bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kB elsewhere
