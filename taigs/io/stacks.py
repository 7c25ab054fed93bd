"""Particle images in stack files: checked first, and read only when they are asked for."""

import operator
import os
import stat
import warnings
from pathlib import Path

import numpy as np

from taigs.errors import InputError, InputWarning, raise_problems
from taigs.io import mrc
from taigs.io.files import existing_file, file_mode, reading
from taigs.io.sections import Sections, stamp

# --- finding --------------------------------------------------------------------------------------


def find_stack(name, source, datadir=None):
    """(path of a stack or None, places looked at).

    Names are relative to the folder that a project was run in. With `datadir` that is it, or the folder
    that holds the stacks themselves; else the working directory or a folder above `source`.
    """
    if datadir is not None:
        tried = [Path(datadir) / name, Path(datadir) / Path(name).name, Path(name)]
    else:
        tried = [Path(name), *(folder / name for folder in Path(source).absolute().parents)]
    return next((path for path in tried if _is_there(path)), None), list(dict.fromkeys(map(str, tried)))


def _is_there(path):
    """Whether there is anything but a folder; pipes and devices are refused by name when they are opened."""
    try:
        mode = file_mode(path)
    except OSError:  # a folder that may not be searched, where the stack need not be
        return False
    return mode is not None and not stat.S_ISDIR(mode)


def find_stacks(names, source, datadir=None):
    """Paths of stacks, all of which must exist; see `find_stack`.

    Raises
    ------
    InputError
        With the number of missing ones, the first of them and where it was looked for.
    """
    if datadir is not None and not Path(datadir).is_dir():
        raise InputError(f"{datadir}: no such folder; expected the one that stack names are relative to")
    found = [find_stack(name, source, datadir) for name in names]
    missing = [i for i, (path, _) in enumerate(found) if path is None]
    if missing:
        first = missing[0]
        raise InputError(
            f"{source}: {len(missing)} of {len(names)} stacks missing, first: {names[first]} "
            f"(tried {', '.join(found[first][1])}); try --datadir DIR to rebase"
        )
    return [path for path, _ in found]


def stacks_outside(names, paths, source, datadir=None):
    """Those of the names that led out of the folders the user named, by being absolute or by "..".

    These are `datadir`, or else the working directory and the folder of `source`. Links count as the folder that
    holds them: whoever made them meant them.
    """
    folders = [Path(datadir)] if datadir is not None else [Path(), Path(source).parent]
    folders = [os.path.normpath(folder.absolute()) for folder in folders]

    def leads_out(name, path):
        place = os.path.normpath(Path(path).absolute())
        is_plain = not os.path.isabs(name) and ".." not in Path(name).parts
        return not is_plain and not any(os.path.commonpath([folder, place]) == folder for folder in folders)

    return [name for name, path in zip(names, paths, strict=True) if leads_out(name, path)]


# --- reading -----------------------------------------------------------------------------------


class StackImages:
    """Images of many stack files, read when indexed: ``images[i]``, or ``images[slice, list or array]``.

    Headers are checked here, once per file; then see `taigs.io.sections.Sections`.

    Parameters
    ----------
    paths : list of path-like
    files, slices : (V,) int arrays
        Index into `paths`, and section from 0, of each image.
    sign : float or (V,) array
        Factor of the images.
    where : callable, optional
        Index of an image -> its place in the metadata, for messages.
    sections : list of int, optional
        How many sections each file must have.
    mode0 : {"signed", "unsigned"}, optional
        As in `taigs.io.mrc.read_header`.

    Raises
    ------
    InputError
        Of all headers together: files missing, damaged, compressed or of different boxes, images not
        square, sections beyond the end. On reading: NaN or infinite pixels, a file that changed.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, paths, files, slices, sign=1, where=None, sections=None, mode0=None):
        self.paths = [Path(path) for path in paths]
        self._files, self._slices = np.asarray(files, int), np.asarray(slices, int)
        self._sign = np.broadcast_to(np.asarray(sign, np.float32), self._files.shape)
        if not len(self._files):
            raise InputError("no images")
        problems, warned, self.headers, self._stacks = [], {}, {}, {}
        for file in np.unique(self._files).tolist():
            path = self.paths[file]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    self.headers[file], found = stack_header(path, mode0)
                    self._stacks[file] = Sections(path, self.headers[file], found)
                except InputError as error:
                    problems.append(str(error))
            for warning in caught:
                warned.setdefault(str(warning.message).replace(str(path), "", 1), []).append(path)
        problems += self._bad_boxes()
        problems += self._bad_sections(where or (lambda i: f"image {i + 1}"), sections)
        raise_problems(f"{len(self.paths)} stacks", problems)
        for message, paths in warned.items():  # once, not for each of many files
            more = f" (and in {len(paths) - 1} more stacks)" if len(paths) > 1 else ""
            warnings.warn(f"{paths[0]}{message}{more}", InputWarning, stacklevel=2)
        header = next(iter(self.headers.values()))
        self.shape = (len(self._files), *header.shape[1:])
        self._warn_of_sign()

    def _warn_of_sign(self):
        """Bytes meant to be 0..255 are negative where they exceed 127: one image of each stack in question tells."""
        for file in [file for file, header in self.headers.items() if header.is_sign_guessed]:
            if (self._stacks[file][self._slices[self._files == file][0]] < 0).any():
                mrc.warn_of_sign(self.paths[file])
                return

    def _bad_boxes(self):
        boxes = {}
        for file, header in self.headers.items():
            boxes.setdefault(header.shape[1:], []).append(self.paths[file])
        problems = [
            f"{paths[0]}: images of {w} x {h} pixels; expected square ones" for (h, w), paths in boxes.items() if h != w
        ]
        if len(boxes) > 1:
            table = ", ".join(f"{w} x {h} in {len(paths)} (first {paths[0]})" for (h, w), paths in boxes.items())
            problems.append(f"stacks of different boxes: {table}; expected one; try choosing particles of one box")
        return problems

    def _bad_sections(self, where, sections):
        nz = np.full(len(self.paths), np.iinfo(int).max)  # of a file without a header, all are believed
        for file, header in self.headers.items():
            nz[file] = header.shape[0]
        beyond = np.flatnonzero((self._slices < 0) | (self._slices >= nz[self._files]))
        problems = []
        for i in beyond.tolist():
            path = self.paths[self._files[i]]
            problems.append(f"{where(i)}: image {self._slices[i] + 1} of {path}; expected 1 to {nz[self._files[i]]}")
        for file, header in self.headers.items():
            if sections is not None and header.shape[0] != sections[file]:
                problems.append(f"{self.paths[file]}: {header.shape[0]} images; expected {sections[file]}")
        return problems

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index):
        """Image (H, W) of one index, or images (n, H, W) of many, float32."""
        if not isinstance(index, slice) and np.ndim(index) == 0:
            return self._read(np.array([range(len(self))[operator.index(index)]]))[0]
        return self._read(np.arange(len(self))[index])

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, picked):
        images = np.empty((len(picked), *self.shape[1:]), self.dtype)
        files, slices = self._files[picked], self._slices[picked]
        order = np.lexsort((slices, files))
        for places in np.split(order, np.flatnonzero(np.diff(files[order])) + 1) if len(picked) else ():
            stack = self._stacks[int(files[places[0]])]
            for part, data in stack.runs(slices[places]):
                _refuse_nonfinite(stack.path, slices[places[part[0]]], data)
                images[places[part]] = data
        sign = self._sign[picked]
        if np.any(sign != 1):
            images *= sign[:, None, None]
        return images


def _refuse_nonfinite(path, first, data):
    bad = ~np.isfinite(data)
    if bad.any():
        at, y, x = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{path}: section {first + at + 1} (from 1) holds {int(bad[at].sum())} NaN or infinite pixels, "
            f"first at y {y}, x {x} (from 0); expected finite ones"
        )


def stack_header(path, mode0=None):
    """(MrcHeader, size and time) of a stack. As `mrc.read_header`, but never reads more than the header.

    cryoDRGN and tomoDRGN write headers without "MAP " and machine stamp: let pass if they account for every byte.
    """
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        head, found = file.read(mrc.HEADER_BYTES), stamp(file)
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh":
        raise InputError(f"{path}: compressed, so that single images cannot be read; try decompressing it")
    unmarked = head[208:216] == bytes(8)
    header = mrc._parse(path, head[:208] + b"MAP " + head[212:] if unmarked else head, found[0], mode0)
    if unmarked and header.offset + int(np.prod(header.shape)) * header.dtype.itemsize != found[0]:
        raise InputError(f'{path}: not an MRC file (no "MAP " at byte 208)')
    if header.axes != (1, 2, 3):
        raise InputError(f"{path}: axis order {header.axes} in an image stack; expected (1, 2, 3)")
    return header, found
