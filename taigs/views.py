"""Views: images with the geometry that made them, the one input type of every fit."""

from dataclasses import dataclass, field, replace

import numpy as np

from taigs.checkpoint import storable
from taigs.errors import InputError
from taigs.imaging.ctf import Ctf


@dataclass(frozen=True)
class Views:
    """A set of images of one object, density bright.

    A point mu (x, y, z; Angstrom, relative to the volume centre) appears in view v at pixel
    ``projections[v] @ mu / pixel_size + shifts[v] + centre`` (x, y).

    Parameters
    ----------
    images : (V, H, W) array_like
        Anything that an array of view indices turns into images, such as a memory map or
        `taigs.io.stacks.StackImages`; larger = denser.
    projections : (V, 2, 3) array
        First two rows of the rotation volume -> image, times the magnification if it is not 1.
    shifts : (V, 2) array
        In-plane shift (x, y) in pixels.
    pixel_size : float
        Angstrom.
    centre : (2,) array
        Pixel index (x, y) onto which the volume centre projects without shift:
        (n - 1) / 2 in IMOD's convention, n // 2 in RELION's.
    weights : (V,) array
        Statistical weight of a view (1 / noise variance, dose, cos(tilt)).
    tilt_angles : (V,) array, optional
        Degrees; for tilt series only.
    names : tuple of str
        Where each view came from, for messages.
    ctf : Ctf, optional
        One entry per view; without it the images are projections of the density.
    premultiplied : bool
        The images were multiplied by their CTF, so that signal = CTF^2 x projection.
    half_sets : (V,) array of int, optional
        1 or 2: the half-set of each view (RELION's random subset).
    particles : (V,) array of int, optional
        Which particle a view shows, from 0; default one view each. All views of one share a half-set.
    """

    images: np.ndarray
    projections: np.ndarray
    shifts: np.ndarray
    pixel_size: float
    centre: np.ndarray
    weights: np.ndarray
    tilt_angles: np.ndarray | None = None
    names: tuple = field(default=(), repr=False)
    ctf: Ctf | None = field(default=None, repr=False)
    premultiplied: bool = False
    half_sets: np.ndarray | None = None
    particles: np.ndarray | None = None

    def __post_init__(self):
        n = len(self.images)
        expected = {"projections": (n, 2, 3), "shifts": (n, 2), "centre": (2,), "weights": (n,)}
        for name, shape in expected.items():
            got = np.shape(getattr(self, name))
            if got != shape:
                raise InputError(f"views.{name} has shape {got}; expected {shape}")
            bad = np.argwhere(~np.isfinite(getattr(self, name)))
            if len(bad):
                where = "" if name == "centre" else f" of view {bad[0][0] + 1}"
                raise InputError(f"views.{name}{where} is not finite; expected numbers")
        if not 0 < self.pixel_size < np.inf:
            raise InputError(f"views.pixel_size is {self.pixel_size}; expected a positive number of Angstrom")

    def __len__(self):
        return len(self.images)

    @property
    def image_shape(self):
        """(H, W) in pixels."""
        return tuple(self.images.shape[1:])

    def subset(self, indices):
        """The views with the given indices, in that order."""
        indices = np.asarray(indices, int)
        optional = {
            name: None if getattr(self, name) is None else getattr(self, name)[indices]
            for name in ("tilt_angles", "ctf", "half_sets", "particles")
        }
        return replace(
            self,
            images=self.images[indices],
            projections=self.projections[indices],
            shifts=self.shifts[indices],
            weights=self.weights[indices],
            names=tuple(self.names[i] for i in indices) if self.names else (),
            **optional,
        )

    def binned(self, factor):
        """Views averaged over `factor` x `factor` pixels; the remainder at the far edges is dropped.

        The centre of the first binned pixel is at (factor - 1) / 2 of the old ones.
        """
        if factor == 1:
            return self
        h, w = (n // factor for n in self.image_shape)
        images = np.asarray(self.images)[:, : h * factor, : w * factor]
        images = images.reshape(len(self), h, factor, w, factor).mean(axis=(2, 4), dtype=np.float32)
        return replace(
            self,
            images=images,
            shifts=self.shifts / factor,
            pixel_size=self.pixel_size * factor,
            centre=(np.asarray(self.centre) - (factor - 1) / 2) / factor,
        )


@storable
@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume are.

    Parameters
    ----------
    shape : (nz, ny, nx)
    voxel_size : float
        Angstrom.
    centre : (x, y, z) or None
        Voxel index of the model's origin; default (n - 1) / 2 on every axis (IMOD's convention).
    """

    shape: tuple
    voxel_size: float
    centre: tuple = None

    def __post_init__(self):
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"volume shape {self.shape}; expected three sizes (z, y, x) of at least 1")
        if not self.voxel_size > 0:
            raise InputError(f"voxel size {self.voxel_size}; expected a positive number of Angstrom")
        if self.centre is None:
            object.__setattr__(self, "centre", tuple((n - 1) / 2 for n in self.shape[::-1]))

    @property
    def lower(self):
        """Centre of the first voxel (x, y, z) in Angstrom."""
        return -np.asarray(self.centre) * self.voxel_size
