"""What a file says of its particle images, whatever its format, and the Views made of it."""

import operator
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from taigs.errors import InputError, InputWarning, Problems
from taigs.geometry import check_rotations
from taigs.imaging.ctf import Ctf
from taigs.imaging.fourier import CroppedImages
from taigs.io.stacks import StackImages, find_stacks, stacks_outside
from taigs.views import Views


@dataclass(frozen=True)
class Listing:
    """The images that a file lists, before any stack is looked at; (V,) arrays have one entry per image.

    Parameters
    ----------
    source : Path
    stacks : list of str
        Stack files as the source names them.
    files, slices : (V,) int arrays
        Index into `stacks`, and section from 0.
    where : callable
        Index of an image -> its place in the source, for messages.
    pixel_sizes : (V,) array, optional
        Angstrom; default: that of the stacks' headers.
    rotations : (V, 3, 3) array, optional
        Volume -> image.
    shifts : (V, 2) array, optional
        (x, y) in pixels, away from the image's centre.
    ctf : Ctf, optional
    premultiplied : (V,) bool array, optional
    groups, boxes : (V,) int arrays, optional
        Optics group, and the box that it claims.
    half_sets, classes, particles : (V,) int arrays, optional
    signs : (V,) array, optional
        -1 where density is dark in the file.
    sections : (number of stacks,) int array, optional
        How many sections each stack must have.
    notes : list of str
    """

    source: Path
    stacks: list
    files: np.ndarray
    slices: np.ndarray
    where: object
    pixel_sizes: np.ndarray | None = None
    rotations: np.ndarray | None = None
    shifts: np.ndarray | None = None
    ctf: Ctf | None = None
    premultiplied: np.ndarray | None = None
    groups: np.ndarray | None = None
    boxes: np.ndarray | None = None
    half_sets: np.ndarray | None = None
    classes: np.ndarray | None = None
    particles: np.ndarray | None = None
    signs: np.ndarray | None = None
    sections: np.ndarray | None = None
    notes: list = field(default_factory=list)

    def __len__(self):
        return len(self.files)

    def subset(self, indices):
        """Listing of these images; stacks that none of them is in are left out."""
        whole = {"source", "stacks", "where", "sections", "notes"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in whole}
        values = {name: None if value is None else value[indices] for name, value in values.items()}
        used, values["files"] = np.unique(values["files"], return_inverse=True)
        if values["particles"] is not None:
            values["particles"] = np.unique(values["particles"], return_inverse=True)[1]
        return replace(
            self,
            stacks=[self.stacks[i] for i in used],
            sections=None if self.sections is None else self.sections[used],
            where=lambda i: self.where(indices[i]),
            **values,
        )


# --- choosing ------------------------------------------------------------------------------------


def choose(listing, class_number=None, subset=None):
    """Listing of the images of one class and of one half-set, where asked for.

    Raises
    ------
    InputError
        If there is none, or the half-sets are not 1 and 2.
    """
    kept = np.ones(len(listing), bool)
    for name, wanted, values in (("class", class_number, listing.classes), ("half-set", subset, listing.half_sets)):
        if wanted is None:
            continue
        if values is None:
            raise InputError(f"{listing.source}: {name} {wanted} asked for, but no column says which image is of which")
        kept &= values == operator.index(wanted)
        if not kept.any():
            raise InputError(f"{listing.source}: no image of {name} {wanted}; found: {_counts(values)}")
    listing = listing if kept.all() else listing.subset(np.flatnonzero(kept))
    _check_half_sets(listing, subset)
    if class_number is None and listing.classes is not None and len(np.unique(listing.classes)) > 1:
        listing.notes.append(f"classes {_counts(listing.classes)}, all used together; --class chooses one")
    return listing


def _check_half_sets(listing, subset):
    halves = listing.half_sets
    if halves is None:
        return
    found, first = np.unique(halves, return_index=True)
    odd = first[~np.isin(found, (1, 2))]
    if len(odd):
        raise InputError(f"{listing.where(odd[0])}: half-set {halves[odd[0]]}; expected 1 or 2")
    if subset is None and len(found) < 2:
        raise InputError(
            f"{listing.source}: all images are in half-set {found[0]}; expected 1 and 2, or no column of half-sets; "
            f"try --subset {found[0]} if it is to stand alone"
        )
    order = np.lexsort((halves, listing.slices, listing.files))
    same = (np.diff(listing.files[order]) == 0) & (np.diff(listing.slices[order]) == 0)
    both = np.flatnonzero(same & (np.diff(halves[order]) != 0))
    if len(both):
        one, other = (listing.where(order[both[0] + i]) for i in (0, 1))
        raise InputError(f"{one}: the same image is in the other half-set, too ({other}); expected it in one")
    counts = ", ".join(f"{n} images in {half}" for half, n in zip(*np.unique(halves, return_counts=True), strict=True))
    listing.notes.append(f"half-sets as in the file: {counts}")


def _counts(values):
    return ", ".join(f"{value} ({n} images)" for value, n in zip(*np.unique(values, return_counts=True), strict=True))


def check_alike(listing):
    """Refuse images of more than one pixel size or box, or of which only some are premultiplied, with a table."""
    texts = {
        "pixel_sizes": "{:g} A per pixel".format,
        "boxes": "{:g} pixels".format,
        "premultiplied": lambda yes: "CTF-premultiplied" if yes else "not CTF-premultiplied",
    }
    values = {name: getattr(listing, name) for name in texts if getattr(listing, name) is not None}
    groups = np.zeros(len(listing)) if listing.groups is None else listing.groups
    table, counts = np.unique(np.stack([groups, *values.values()], axis=1), axis=0, return_counts=True)
    differ = np.ptp(table[:, 1:], axis=0) > 1e-4 * np.abs(table[:, 1:]).max(axis=0)
    if differ.any():
        what = " and ".join(np.array([name.replace("_", " ") for name in values])[differ])
        lines = [
            f"\n  group {row[0]:g}: {n} images, "
            + ", ".join(texts[name](value) for name, value in zip(values, row[1:], strict=True))
            for row, n in zip(table, counts, strict=True)
        ]
        raise InputError(
            f"{listing.source}: optics groups differ in {what}; expected one for all; "
            f"try --class or --subset if that leaves one:{''.join(lines)}"
        )


# --- Views ---------------------------------------------------------------------------------------


def listed_views(listing, datadir=None, box_crop=None, pixel_size=None, mode0=None):
    """Views of a listing; images are read when they are asked for.

    Parameters
    ----------
    listing : Listing
        With rotations.
    datadir : path-like, optional
        Folder that the names of stacks are relative to.
    box_crop, pixel_size, mode0
        As in `taigs.io.particles.read_particles`.

    Raises
    ------
    InputError
        If stacks are missing or do not fit, or a rotation is none.
    """
    problems = Problems()
    problems.attempt(check_alike, listing)
    problems.attempt(_check_rotations, listing)
    paths = problems.attempt(find_stacks, listing.stacks, listing.source, datadir)
    signs = 1 if listing.signs is None else listing.signs
    images = paths and problems.attempt(
        StackImages, paths, listing.files, listing.slices, signs, listing.where, listing.sections, mode0
    )
    problems.report(listing.source)
    outside = stacks_outside(listing.stacks, paths, listing.source, datadir)
    if outside:
        listing.notes.append(
            f"{len(outside)} of {len(paths)} stacks lie outside of {datadir or 'this folder and that of the file'}, "
            f'by absolute names or ".."; first: {outside[0]}'
        )
    apix, n = _pixel_size(listing, images), images.shape[1]
    if listing.boxes is not None and listing.boxes[0] != n:
        raise InputError(
            f"{listing.source}: images of {listing.boxes[0]:g} pixels, but the stacks hold {n}; expected the box and "
            "pixel size of these stacks (images binned later need a file of their own)"
        )
    views = Views(
        images=images,
        projections=np.ascontiguousarray(listing.rotations[:, :2]),
        shifts=np.zeros((len(listing), 2)) if listing.shifts is None else listing.shifts,
        pixel_size=apix,
        centre=np.array([n // 2, n // 2]),
        weights=np.ones(len(listing)),
        names=tuple(
            f"{section + 1:06d}@{listing.stacks[file]}"
            for file, section in zip(listing.files.tolist(), listing.slices.tolist(), strict=True)
        ),
        ctf=listing.ctf,
        premultiplied=listing.premultiplied is not None and bool(listing.premultiplied[0]),
        half_sets=listing.half_sets,
        particles=listing.particles,
    )
    return _cropped(views, box_crop, pixel_size, listing)


def _check_rotations(listing):
    try:
        check_rotations(listing.rotations)
    except InputError as error:
        first = next(i for i in range(len(listing)) if not _is_rotation(listing.rotations[i]))
        raise InputError(f"{listing.where(first)}: {error}") from error


def _is_rotation(matrix):
    try:
        check_rotations(matrix)
    except InputError:
        return False
    return True


def _pixel_size(listing, images):
    """Angstrom: the source's, with a warning if a header says another; else that of all headers."""
    found = {f: h.voxel_size[0] for f, h in images.headers.items() if h.voxel_size}
    if listing.pixel_sizes is None:
        if not found or max(found.values()) > 1.01 * min(found.values()):
            raise InputError(
                f"{listing.source}: no pixel size here or in the stacks' headers; try --ctf FILE (ctf.pkl)"
            )
        listing.notes.append(f"pixel size {next(iter(found.values())):g} A from the stacks' headers")
        return next(iter(found.values()))
    apix = float(listing.pixel_sizes[0])
    other = [f for f, h in images.headers.items() if h.voxel_size and _differs(h.voxel_size[:2], apix)]
    if other:
        warnings.warn(
            f"{images.paths[other[0]]}: {_text(images.headers[other[0]])} A per pixel in the header, {apix:g} in "
            f"{listing.source}; {apix:g} used ({len(other)} of {len(images.headers)} stacks differ by more than 1 %)",
            InputWarning,
            stacklevel=4,
        )
    return apix


def _differs(sizes, apix):
    return max(abs(size / apix - 1) for size in sizes) > 0.01


def _text(header):
    """Size of a pixel in words: one number if it is square."""
    x, y = header.voxel_size[:2]
    return f"{x:g}" if not _differs((x,), y) else f"{x:g} x {y:g}"


def _cropped(views, box_crop, pixel_size, listing):
    n = views.image_shape[0]
    if box_crop is not None and pixel_size is not None:
        raise InputError("both a box and a pixel size to crop to; expected one of them")
    if pixel_size is not None:
        if not (np.isfinite(pixel_size) and pixel_size >= views.pixel_size * (1 - 1e-6)):
            raise InputError(f"pixel size {pixel_size}; expected at least the images', {views.pixel_size:g} A")
        box_crop = max(2, 2 * int(views.pixel_size * n / pixel_size / 2 + 1e-6))
    if box_crop is None or box_crop == n:
        return views
    if not 2 <= box_crop < n or box_crop != int(box_crop):
        raise InputError(f"box of {box_crop} pixels to crop to; expected a whole number from 2 to {n}")
    crop = int(box_crop)
    apix = views.pixel_size * n / crop
    listing.notes.append(f"images cropped in Fourier space from {n} to {crop} pixels, of {apix:g} A")
    return replace(
        views,
        images=CroppedImages(views.images, crop),
        shifts=views.shifts * crop / n,
        pixel_size=apix,
        centre=np.array([crop // 2, crop // 2]),
    )
