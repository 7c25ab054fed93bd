"""Input files: that they are there and regular, and that no more of them is read than they should hold."""

import contextlib
import difflib
import errno
import os
import stat
from pathlib import Path

from taigs.errors import InputError, ResourceError

COMPARED_NAMES = 10_000  # of a folder, in looking for the nearest name
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def existing_file(path):
    """`path` as a Path, once it is known to be a regular file: others may never end, or block when they are opened.

    Raises
    ------
    InputError
        If there is no such file (the nearest name in its folder is offered), or it is a folder, pipe or device.
    ResourceError
        If the folders above it may not be searched.
    """
    path = Path(path)
    with reading(path):
        mode = file_mode(path)
    if mode is None:
        raise InputError(f"{path}: no such file{_nearest(path)}")
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a directory; expected a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is {KINDS.get(stat.S_IFMT(mode), 'no regular file')}; expected a regular file")
    return path


def file_mode(path):
    """Type and permissions of a file (`os.stat`), None if there is none of that name."""
    try:
        return os.stat(path).st_mode
    except ValueError:  # a NUL in the name
        return None
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise


def _nearest(path):
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(path.name, os.listdir(path.parent)[:COMPARED_NAMES], n=1)
        return f"; did you mean {path.parent / near[0]}?" if near else ""
    return ""


@contextlib.contextmanager
def reading(path):
    """Turn the operating system's refusal to read `path` into a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_short(path, most, what):
    """The bytes of a file that holds `what`.

    Raises
    ------
    InputError
        If it is longer than `most` bytes, as `what` never is: an image, or the wrong file.
    ResourceError
        If it may not be read.
    """
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: more than {most:,} bytes; expected {what}; is this the right file?")
    return content


def existing_folder(path):
    """The path itself, or the nearest one above it that is there."""
    path = Path(path).absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def check_makeable(path):
    """The `existing_folder` in which a folder could be made; an OSError, as `mkdir` would raise, if it could not."""
    there = existing_folder(path)
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not path.exists() and not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return there
