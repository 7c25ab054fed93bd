"""held_out.npz: the views that a tilt series' fit did not see, and what each method made of them from the others."""

import json
from dataclasses import dataclass

import numpy as np

from taigs.errors import InputError
from taigs.io.mrc import atomic_file
from taigs.io.npy import read_npz

FORMAT = "taigs-held-out"
VERSION = 1
APART = 3  # pixels between which noise is no longer alike; closer ones are where a stack was interpolated
ARRAYS = ("numbers", "tilt_angles", "measured", "predicted")


@dataclass(frozen=True)
class HeldOut:
    """M views that were left out, and K methods' predictions of them.

    Parameters
    ----------
    methods : tuple of str
        taigs first.
    numbers : (M,) array of int
        In the stack, from 1.
    tilt_angles : (M,) array
        Degrees.
    measured : (M, H, W) array
        The images as they were fitted: density bright, in units of the noise.
    predicted : (K, M, H, W) array
        By methods that saw the other views only; NaN where one predicts nothing.
    """

    methods: tuple
    numbers: np.ndarray
    tilt_angles: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray

    def correlations(self):
        """Method -> (M,) correlation of prediction and measurement; see `correlations`."""
        return dict(zip(self.methods, correlations(self.predicted, self.measured), strict=True))

    def noise(self):
        """(M,) share of an image's variance that is noise: what even the true density would leave unexplained.

        Estimated from what taigs leaves, by differences of pixels 3 apart: too high by fine detail that was not
        predicted, too low by noise that is alike over 3 pixels.
        """
        return np.array([_noise(*view) for view in zip(self.predicted[0], self.measured, self._shared(), strict=True)])

    def _shared(self):
        return np.isfinite(self.predicted).all(axis=0)


def correlations(predicted, measured):
    """Correlation about their means of predictions and images, over the pixels that all methods predict.

    Parameters
    ----------
    predicted : (K, M, H, W) array
        By K methods; not finite where one predicts nothing.
    measured : (M, H, W) array

    Returns
    -------
    (K, M) array
    """
    found = np.zeros(predicted.shape[:2])
    for view, shared in enumerate(np.isfinite(predicted).all(axis=0)):
        m = measured[view][shared].astype(float)
        m -= m.mean() if m.size else 0
        for method, image in enumerate(predicted[:, view]):
            p = image[shared].astype(float)
            p -= p.mean() if p.size else 0
            norm = np.sqrt((p @ p) * (m @ m))
            found[method, view] = p @ m / norm if norm > 0 else 0
    return found


def unexplained(correlations):
    """Share of the images' variance that predictions leave after the best gain, which is not negative, and offset."""
    return 1 - np.maximum(correlations, 0) ** 2


def _noise(predicted, measured, shared):
    p, m = (v.astype(float) - v.mean(dtype=float) for v in (predicted, measured))
    residual = m - max((p * m).sum(), 0) / max((p**2).sum(), np.finfo(float).tiny) * p
    difference = residual[:, APART:] - residual[:, :-APART] if m.shape[1] > APART else np.sqrt(2) * residual
    return min(difference.var() / 2 / max(m[shared].var(), np.finfo(float).tiny), 1.0)


def write_held_out(path, result, views, overwrite=False):
    """Write the held-out views of a TiltResult, atomically.

    Parameters
    ----------
    path : path-like
    result : TiltResult
    views : Views
        That it was made from.
    """
    picked, methods = result.held_out, list(result.predictions)
    names = [views.names[i] for i in picked] if views.names else [f"{i + 1}" for i in picked]
    header = {"format": FORMAT, "version": VERSION, "methods": methods}
    arrays = {
        "numbers": np.array([int(name.split("@")[0]) for name in names]),
        "tilt_angles": np.asarray(views.tilt_angles, float)[picked],
        "measured": result.predictions[methods[0]][1],
        "predicted": np.stack([result.predictions[name][0] for name in methods]).astype(np.float32),
    }
    with atomic_file(path, overwrite) as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_held_out(path):
    """HeldOut from a file of `write_held_out`.

    Raises
    ------
    InputError
        Not such a file, damaged, or written by a newer version.
    """
    arrays = read_npz(path)
    try:
        header = json.loads(bytes(arrays["header"]))
        if header["format"] != FORMAT:
            raise ValueError(f'format "{header["format"]}"')
        if header["version"] > VERSION:
            raise InputError(f"{path}: version {header['version']}; expected {VERSION}; try a newer taigs")
        found = HeldOut(tuple(header["methods"]), *(arrays[name].copy() for name in ARRAYS))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({error}); expected held_out.npz of taigs tilt") from None
    n, images = len(found.numbers), found.measured.shape
    shapes = [getattr(found, name).shape for name in ARRAYS]
    if n == 0 or len(images) != 3 or shapes != [(n,), (n,), images, (len(found.methods), *images)]:
        raise InputError(f"{path}: arrays of shapes {shapes}; expected those of {n} views; the file is damaged")
    return found
