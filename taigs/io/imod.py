"""IMOD's text files: tilt angles (.tlt, .rawtlt, .xtilt) and alignments (.xf); defocus (.defocus), only written."""

import numpy as np

from taigs.errors import InputError, raise_problems
from taigs.io.files import read_short
from taigs.io.mrc import atomic_file

LONGEST_FILE = 1 << 22  # bytes: of 10,000 images and more
LARGEST = 1e9  # number: no angle, shift or dose comes near it


def read_numbers(path, columns=1):
    """Read a text file of `columns` numbers a line; blank lines and what follows a # are skipped.

    Returns
    -------
    values : (rows, columns) array
    lines : list of int
        The line (from 1) that each row stands on, for messages.

    Raises
    ------
    InputError
        With file and line, if a line does not hold `columns` finite numbers; or if none does.
    ResourceError
        If the file may not be read.
    """
    content = read_short(path, LONGEST_FILE, f"a line with {columns} for each image")
    rows, lines, problems = [], [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        # Latin-1 decodes every byte: a comment may hold any, and no foreign byte makes a number.
        words = line.decode("latin-1").split("#")[0].split()
        if not words:
            continue
        rows.append([_number(word) for word in words])
        lines.append(number)
        bad = [word for word, value in zip(words, rows[-1], strict=True) if value is None]
        if len(words) != columns:
            problems.append(f"{path}:{number}: {len(words)} values; expected {columns}")
        elif bad:
            problems.append(f"{path}:{number}: {bad[0][:40]!r} is not a finite number; expected one such as -59.9")
    raise_problems(path, problems)
    if not rows:
        raise InputError(f"{path}: holds no numbers; expected {columns} on each line")
    return np.array(rows), lines


def _number(word):
    """Of a word; None if it is none that can be meant."""
    try:  # float() would take "1_000" and "nan", which are nobody's tilt angle
        value = float(word) if "_" not in word else np.nan
    except ValueError:
        return None
    return value if abs(value) < LARGEST else None


def read_per_image(source, name, n_views=None, stack=None):
    """One number per image, (V,), from a file with one on each line or from an array.

    Parameters
    ----------
    source : path-like or (V,) array
    name : str
        What the numbers are ("tilt angles"), for messages.
    n_views : int, optional
        Number of images they must match, ...
    stack : path-like, optional
        ... and the file that holds those.

    Raises
    ------
    InputError
        As `read_numbers`; also if there are not `n_views` numbers.
    ResourceError
        If the file may not be read.
    """
    values = read_numbers(source)[0][:, 0] if _is_path(source) else np.asarray(source, float)
    where = source if _is_path(source) else name
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(f"{where}: shape {values.shape}; expected a list of finite {name}, one per image")
    _check_count(len(values), name, where, n_views, stack)
    return values


def read_angles(source, n_views=None, stack=None):
    """Tilt angles in degrees, (V,), in any order, from a .tlt or .rawtlt file or from an array.

    Parameters as in `read_per_image`. Repeated angles are fine.

    Raises
    ------
    InputError
        As `read_per_image`; also if all angles are equal, or they look like radians.
    ResourceError
        If the file may not be read.
    """
    angles = read_per_image(source, "tilt angles", n_views, stack)
    where = source if _is_path(source) else "tilt angles"
    if len(angles) > 1 and np.all(angles == angles[0]):
        raise InputError(f"{where}: all {len(angles)} tilt angles are {angles[0]:g}; expected a tilt series")
    largest = np.abs(angles).max(initial=0)
    if len(angles) > 3 and largest < 1.6 and np.any(angles != np.round(angles)):
        raise InputError(
            f"{where}: no tilt angle exceeds {largest:.3g}: they look like radians; "
            "expected degrees; try multiplying by 57.29578"
        )
    return angles


def read_xf(source, n_views=None, stack=None):
    """Alignment of a raw stack, (V, 2, 3) matrices [A | d] with d in pixels.

    Parameters
    ----------
    source : path-like or (V, 2, 3) array
        .xf file, lines ``A11 A12 A21 A22 DX DY``.
    n_views, stack
        As in `read_per_image`.

    Raises
    ------
    InputError
        As `read_numbers`; also if the number of transforms is not `n_views`, or a matrix is singular
        or mirrors the image.
    ResourceError
        If the file may not be read.
    """
    if _is_path(source):
        values, lines = read_numbers(source, columns=6)
        xf = np.concatenate([values[:, :4].reshape(-1, 2, 2), values[:, 4:, None]], axis=2)
        where = [f"{source}:{line}" for line in lines]
    else:
        xf = np.asarray(source, float)
        if xf.shape != (len(xf), 2, 3) or not np.isfinite(xf).all():
            raise InputError(f"xf: shape {xf.shape}; expected finite transforms of shape (V, 2, 3)")
        where = [f"xf of image {v + 1}" for v in range(len(xf))]
    _check_count(len(xf), "transforms", source if _is_path(source) else "xf", n_views, stack)
    for name, determinant in zip(where, np.linalg.det(xf[:, :, :2]), strict=True):
        if not determinant > 1e-6:
            raise InputError(
                f"{name}: determinant {determinant:.3g}; expected a rotation with a magnification near 1, "
                "neither singular nor mirrored"
            )
    return xf


def _is_path(source):
    return isinstance(source, str) or hasattr(source, "__fspath__")


def _check_count(found, name, where, n_views, stack):
    if n_views is not None and found != n_views:
        raise InputError(
            f"{where}: {found} {name}, but {stack or 'the stack'} has {n_views} images; "
            "expected one per image, excluded ones too"
        )


def write_angles(path, angles, overwrite=False):
    """Write tilt angles (degrees), one a line with 4 decimals, atomically.

    Raises
    ------
    RefusedError, ResourceError
        As `taigs.io.mrc.atomic_file`.
    """
    text = "".join(f"{angle:9.4f}\n" for angle in np.asarray(angles, float))
    with atomic_file(path, overwrite) as file:
        file.write(text.encode("ascii"))


def write_xf(path, transforms, overwrite=False):
    """Write an alignment, (V, 2, 3) matrices [A | d], as `read_xf` reads it; raises as `write_angles`."""
    rows = np.asarray(transforms, float)
    text = "".join(("%12.7f" * 4 + "%12.3f" * 2 + "\n") % (*a[:, :2].ravel(), *a[:, 2]) for a in rows)
    with atomic_file(path, overwrite) as file:
        file.write(text.encode("ascii"))


def write_defocus(path, tilt_angles, ctf, overwrite=False):
    """Write the defocus of each image as IMOD's .defocus, version 3 with astigmatism; raises as `write_angles`.

    A line holds the first and last image it stands for, their tilt angles, both defoci in nm and the angle from
    x to the first of them.
    """
    lines = ["1 0 0. 0. 0. 3"]
    values = zip(tilt_angles, ctf.defocus_u, ctf.defocus_v, ctf.defocus_angle, strict=True)
    for i, (tilt, u, v, angle) in enumerate(values, start=1):
        lines.append(f"{i} {i} {tilt:.2f} {tilt:.2f} {u / 10:.2f} {v / 10:.2f} {angle:.2f}")
    with atomic_file(path, overwrite) as file:
        file.write(("\n".join(lines) + "\n").encode("ascii"))
