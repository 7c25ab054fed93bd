"""A lock that says whose it is: two runs must not write into one place."""

import contextlib
import os
import socket
from pathlib import Path

from taigs.errors import RefusedError, ResourceError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Lock:
    """Held from its making to `release`; gone with its process, however that ends.

    Parameters
    ----------
    path : path
        The lock file; it holds process and host for whoever finds it taken.

    Raises
    ------
    RefusedError
        Another process holds it.
    ResourceError
        The file cannot be written.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            while not self._taken():
                pass
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written ({error.strerror}); try another folder") from error

    def _taken(self):
        """False if the file was removed by its last holder just now."""
        self._file = open(self.path, "a+", encoding="utf-8")
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(self.path, self._file) from None
        try:
            return os.fstat(self._file.fileno()).st_ino == os.stat(self.path).st_ino
        except FileNotFoundError:
            self._file.close()
            return False

    def release(self):
        self.path.unlink(missing_ok=True)
        self._file.close()


def check_free(path):
    """Refuse as `Lock` would, but make nothing and hold nothing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(Path(path), file) from None


def _in_use(path, file):
    with file:
        file.seek(0)
        holder = file.read().strip() or "another process"
    return RefusedError(f"{path.parent}: in use by {holder} (as {path.name} says); try another folder, or wait")
