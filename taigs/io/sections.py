"""Sections of MRC files, read when they are asked for."""

import operator
import os

import numpy as np

from taigs.errors import InputError
from taigs.io.files import existing_file, reading

READ_BYTES = 1 << 26  # at most, in one go


def stamp(handle):
    """Size and time of an open file, by which a change is noticed."""
    status = os.fstat(handle.fileno())
    return status.st_size, status.st_mtime_ns


class Sections:
    """The sections of an MRC file as a read-only array (n, H, W) of the file's own type.

    Nothing is mapped into memory, where a file that is shortened meanwhile would end the process (SIGBUS). The file is
    opened for each reading anew and compared with what it was when its header was read.

    Parameters
    ----------
    path : path-like
    header : taigs.io.mrc.MrcHeader
    found : (size, time)
        `stamp` of the file when its header was read.
    content : bytes, optional
        All of the file, if it had to be decompressed.
    """

    def __init__(self, path, header, found, content=None):
        self.path, self.dtype = path, header.dtype
        self.shape = (header.whole, *header.shape[1:])
        self._offset, self._found, self._content = header.offset, found, content

    @property
    def size(self):
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        """Section (H, W) of one index, or sections (k, H, W) of a slice, list or array of them."""
        if not isinstance(index, slice) and np.ndim(index) == 0:
            return self[[operator.index(index)]][0]
        picked = np.arange(len(self))[index]
        sections = np.empty((len(picked), *self.shape[1:]), self.dtype)
        for places, data in self.runs(picked):
            sections[places] = data
        return sections

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or self.dtype, copy=False)

    def runs(self, picked):
        """Yield (places in `picked`, those sections), which adjoin in the file and are read in one go.

        Raises
        ------
        InputError
            If the file has changed since its header was read, or is gone.
        """
        picked = np.asarray(picked, int)
        section = int(np.prod(self.shape[1:]))
        most = max(1, READ_BYTES // (section * self.dtype.itemsize))
        order = np.argsort(picked, kind="stable")
        parts = []
        for run in np.split(order, np.flatnonzero(np.diff(picked[order]) != 1) + 1) if len(order) else ():
            parts += np.split(run, range(most, len(run), most))
        spans = [(int(picked[part[0]]) * section, len(part) * section) for part in parts]
        for part, values in zip(parts, self.values(spans), strict=True):
            yield part, values.reshape(-1, *self.shape[1:])

    def values(self, spans):
        """Yield the values first ... first + count - 1, as the file stores them, for each (first, count)."""
        if self._content is not None:
            for first, count in spans:
                at = self._offset + first * self.dtype.itemsize
                yield np.frombuffer(self._content, self.dtype, count, at)
            return
        path = existing_file(self.path)
        with reading(path), open(path, "rb", buffering=0) as handle:
            for first, count in spans:
                values = np.empty(count, self.dtype)
                at = self._offset + first * self.dtype.itemsize
                if stamp(handle) != self._found or not _fill(handle, at, values.view(np.uint8)):
                    raise InputError(f"{path}: changed after its header was read; try again when it is complete")
                yield values


def _fill(handle, at, target):
    """Fill an array of bytes from a place of a file; whether there are enough."""
    done = 0
    while done < len(target):
        part = os.pread(handle.fileno(), min(READ_BYTES, len(target) - done), at + done)
        if not part:
            return False
        target[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    return True
