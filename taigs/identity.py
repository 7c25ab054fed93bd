"""What a result depends on: so that no run goes on with another's checkpoints."""

import hashlib
import os
from pathlib import Path

from taigs import __version__
from taigs.io.files import existing_file, reading

HASHED = 1 << 26  # bytes that a fingerprint covers, shared out among its files, from their beginnings
UNRELATED = ("output", "overwrite", "resume", "quiet", "debug", "threads", "checkpoint_minutes", "report")


def identify(settings, inputs, backend):
    """What a result depends on, for `Journal`.

    Parameters
    ----------
    settings : dict
        Options of the command by name. Those without influence on the result are left out; of paths only the
        name counts, since `inputs` says what they hold.
    inputs : dict of str to (list of) path
        Name -> input files.
    backend : taigs.runtime.Runtime
    """
    plain = {
        name: value.name if isinstance(value, Path) else value if _is_plain(value) else str(value)
        for name, value in settings.items()
        if name not in UNRELATED
    }
    data = {name: fingerprint(paths) for name, paths in inputs.items() if paths}
    return {"taigs": __version__, "backend": f"{backend.arch} {backend.precision}"} | plain | data


def fingerprint(paths):
    """Names, sizes and beginnings of files, as a line of text."""
    paths = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    digest, size = hashlib.sha256(), 0
    for path in paths:
        with reading(existing_file(path)), open(path, "rb") as file:
            digest.update(path.name.encode() + b"\0" + file.read(max(1024, HASHED // len(paths))))
        size += path.stat().st_size
        digest.update(str(size).encode())
    name = paths[0].name if len(paths) == 1 else f"{len(paths)} files"
    return f"{name}, {size} bytes, SHA-256 of beginnings {digest.hexdigest()[:16]}"


def _is_plain(value):
    return value is None or isinstance(value, (bool, int, float, str))
