"""Slices through volumes for a report, of which a slider shows one after the other.

Of each plane and volume there is one sheet, a JPEG with the slices one below the other; the page shows one through
a window. Volumes are drawn in their own grey ranges, so that equal density is equally grey whatever their units.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np

from taigs.figures import PERCENTILES, round_length

SLICES = 32  # at most, of each plane
SIDE = 320  # pixels at most, of a slice
PIXELS = 8e6  # at most, of all slices together: noise takes half a byte for each
QUALITY = 80  # of the JPEG
SAMPLES = 1e6  # voxels that decide about grey values
BELOW = 0.2  # of the grey range lies below the reference's low end: room for the noise of the others
CORRELATED = 0.1  # a volume that correlates less with the reference has no line to it
SAME_CONTRAST = (
    "Equal density is equally grey in all of them: each is scaled to fit {} best, by least squares, and what does not "
    "fit, such as noise, keeps its size beside that."
)
TILT_PLANES = "XY is seen along the beam, XZ along the tilt axis, YZ across both."
AXES = "The first letter of a plane is its axis to the right, the second the one upwards; slices are one voxel thick."
PLANES = {"XY": (0, "z"), "XZ": (1, "y"), "YZ": (2, "x")}  # name: axis of [z, y, x] across it, and that axis's name


@dataclass(frozen=True)
class Plane:
    """The slices of one orientation."""

    name: str  # the axis to the right, then the one upwards
    labels: list  # where each slice is, in words
    middle: int  # the slice seen first
    width: int  # of a slice, pixels
    height: int
    bar: tuple  # scale bar: its label, and its length as a share of the width
    sheets: dict  # name of a volume -> JPEG, the slices one below the other

    def uri(self, name):
        return "data:image/jpeg;base64," + base64.b64encode(self.sheets[name]).decode()


@dataclass(frozen=True)
class Slices:
    """Three planes of some volumes, and what there is to say about them."""

    caption: str
    planes: list


def slices_of(volumes, ranges, voxel_size, caption, centre=None):
    """Slices through volumes, few and small enough for one page.

    Every step-th section is kept, among them the middle one, n // 2; sections are one voxel thick, and scaled down
    by averaging where they are larger than the page needs.

    Parameters
    ----------
    volumes : dict of str to (nz, ny, nx) array
        All of one shape.
    ranges : dict of str to (low, high)
        Density drawn black and white, as from `matched_ranges`.
    voxel_size : float
        Angstrom.
    caption : str
    centre : (x, y, z), optional
        Voxel index from which positions are counted; default (n - 1) / 2 on every axis.

    Returns
    -------
    Slices
    """
    shape = next(iter(volumes.values())).shape
    centre = [(n - 1) / 2 for n in shape[::-1]] if centre is None else centre
    area = sum(np.prod(shape) / n for n in shape)
    scale = min(1.0, SIDE / max(shape), (PIXELS / (SLICES * len(volumes) * area)) ** 0.5)
    planes = []
    for name, (axis, across) in PLANES.items():
        n = shape[axis]
        indices = kept_sections(n)
        height, width = (max(1, round(scale * m)) for i, m in enumerate(shape) if i != axis)
        extent = (shape[1] if name == "YZ" else shape[2]) * voxel_size
        length = round_length(extent)
        planes.append(
            Plane(
                name=name,
                labels=[_label(across, i, n, (i - centre[2 - axis]) * voxel_size / 10) for i in indices],
                middle=int(np.flatnonzero(indices == n // 2)[0]),
                width=width,
                height=height,
                bar=(f"{length:g} nm", 10 * length / extent),
                sheets={
                    key: _sheet(np.moveaxis(volume, axis, 0)[indices], ranges[key], (width, height))
                    for key, volume in volumes.items()
                },
            )
        )
    return Slices(caption, planes)


def kept_sections(n):
    """Indices of the sections shown of `n`: at most 32, evenly apart, with n // 2 among them."""
    step = -(-n // SLICES)
    return np.arange(n // 2 % step, n, step)


def matched_ranges(volumes, reference):
    """Grey ranges that make equal signal equally grey in volumes of different units.

    Least squares write each volume as gain x reference + offset: what both show has then one scale, and the noise of
    either keeps its size beside it. The range is that of the reference, with room below for noise. A volume that
    does not correlate with the reference is scaled by its standard deviation instead.

    Parameters
    ----------
    volumes : dict of str to (nz, ny, nx) array
        All of one shape.
    reference : str
        Name of one of them.

    Returns
    -------
    dict of str to (low, high)
    """
    samples = {name: sample(volume) for name, volume in volumes.items()}
    against = samples[reference]
    low, high = np.percentile(against, PERCENTILES)
    low -= BELOW * (high - low)
    ranges = {}
    for name, values in samples.items():
        gain = _gain(values, against)
        offset = values.mean() - gain * against.mean()
        ranges[name] = (gain * low + offset, gain * high + offset)
    return ranges


def own_range(volume):
    """(low, high): the 0.5 and 99.7 percentiles of a volume."""
    return tuple(np.percentile(sample(volume), PERCENTILES))


def sample(volume):
    """About a million voxels of a volume, evenly spread, as float64."""
    step = max(1, round((np.size(volume) / SAMPLES) ** (1 / 3)))
    return np.asarray(volume[::step, ::step, ::step], np.float64)


def _gain(values, reference):
    """Slope of the line of values on reference; the ratio of their spreads where they do not correlate."""
    if not reference.std() > 0:
        return 1.0
    ratio = values.std() / reference.std()
    slope = np.mean((values - values.mean()) * (reference - reference.mean())) / reference.var()
    return slope if slope > CORRELATED * ratio else ratio


def _label(axis, index, n, position):
    position = round(position, 1) + 0.0  # no -0.0
    return f"{axis} = {position:.1f} nm, slice {index + 1} of {n}".replace("-", "\N{MINUS SIGN}")


def _sheet(sections, grey_range, size):
    """JPEG of (k, H, W) sections one below the other, the last axis to the right and the one before it upwards."""
    from PIL import Image

    low, high = grey_range
    contrast = 255 / (high - low) if high > low else 0.0
    tiles = []
    for section in sections:
        grey = contrast * (np.asarray(section[::-1], np.float64) - low)
        image = Image.fromarray(np.ascontiguousarray(grey, np.float32))
        tile = np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BOX))
        tiles.append(np.clip(np.rint(tile), 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
