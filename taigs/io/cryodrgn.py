"""cryoDRGN's poses and CTFs (.pkl) beside a stack (.mrcs) or a list of stacks (.txt)."""

import numpy as np

from taigs.errors import InputError
from taigs.imaging.ctf import Ctf
from taigs.io.files import read_short
from taigs.io.listing import Listing
from taigs.io.pickles import read_pickle
from taigs.io.stacks import find_stacks, stack_header

LONGEST_LIST = 1 << 26  # bytes


def read_poses(path, box):
    """((V, 3, 3) rotations volume -> image, (V, 2) origins in pixels) of cryoDRGN's pose.pkl for images of `box`."""
    content = read_pickle(path)
    rotations, fractions = content if isinstance(content, tuple) and len(content) == 2 else (content, None)
    rotations = _numbers(path, rotations, "rotations", (3, 3))
    if fractions is None:
        return rotations, np.zeros((len(rotations), 2))
    fractions = _numbers(path, fractions, "translations", (2,))
    if len(fractions) != len(rotations):
        raise InputError(f"{path}: {len(rotations)} rotations, but {len(fractions)} translations")
    if np.abs(fractions).max(initial=0) > 1:
        raise InputError(f"{path}: translations up to {np.abs(fractions).max():g}; expected fractions of the box")
    return rotations, fractions * box


def read_ctf(path, box):
    """(Ctf, (V,) pixel sizes of images of `box`) of cryoDRGN's ctf.pkl.

    The file holds the box that the CTF was estimated for and its pixel size; images of another box are
    taken for the same field with coarser or finer pixels, as cryoDRGN does.
    """
    table = _numbers(path, read_pickle(path), "CTF parameters", (9,))
    size, apix, u, v, angle, voltage, cs, contrast, phase = table.T
    return Ctf(voltage, cs, contrast, u, v, angle, phase), apix * size / box


def _numbers(path, values, what, shape):
    """float64 array (n, *shape), every number of which is finite."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.shape[1:] != shape:
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"{path}: {what} are {found}; expected an array (N, {', '.join(map(str, shape))})")
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: row {bad[0] + 1}: {what} {values[bad[0]].ravel()}; expected finite numbers")
    return values.astype(float)


def list_cryodrgn(path, datadir=None, poses=None, ctf=None, no_ctf=False):
    """Listing of a stack, or of the stacks that a text file names, with cryoDRGN's poses and CTFs in their order.

    Raises
    ------
    InputError
        If poses or CTFs are missing or are not as many as the images.
    """
    if poses is None or (ctf is None and not no_ctf):
        lacks = "poses; try --poses FILE" if poses is None else "CTFs; try --ctf FILE, or --no-ctf for projections"
        raise InputError(f"{path}: a stack holds no {lacks} (cryoDRGN's pose.pkl and ctf.pkl)")
    names = [str(path.absolute())]
    if path.suffix.lower() == ".txt":
        text = read_short(path, LONGEST_LIST, "names of stacks, one on each line").decode(errors="replace")
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise InputError(f"{path}: no lines; expected the name of a stack on each")
    paths = find_stacks(names, path, datadir)
    counts = [stack_header(stack)[0].shape for stack in paths]
    box = counts[0][1]
    files = np.repeat(np.arange(len(names)), [shape[0] for shape in counts])
    slices = np.concatenate([np.arange(shape[0]) for shape in counts])
    rotations, origins = read_poses(poses, box)
    values, notes = {}, [f"cryoDRGN: {len(files)} images of {len(names)} stacks"]
    if not no_ctf:
        values["ctf"], values["pixel_sizes"] = read_ctf(ctf, box)
        notes.append(f"{values['pixel_sizes'][0]:g} A per pixel from {ctf}")
    for file, n in ((poses, len(rotations)), (ctf, len(values.get("ctf", files)))):
        if n != len(files):
            raise InputError(f"{file}: {n} rows, but {path} lists {len(files)} images; expected one for each, in order")
    return Listing(
        source=path,
        stacks=names,
        files=files,
        slices=slices,
        where=lambda i: f"{path}: image {i + 1}",
        rotations=rotations,
        shifts=-origins,
        notes=notes,
        **values,
    )
