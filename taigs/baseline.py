"""Aligned images of a tilt series, their linear map, and weighted back-projection, a yardstick beside every result.

It and SIRT work on images resampled so that the tilt axis is y and the shifts are gone. A tilt about x is not
modelled here (the fit does): it is neglected with a warning.
"""

import warnings

import numpy as np
from scipy import fft, ndimage

from taigs.device import float_type
from taigs.errors import InputError, InputWarning
from taigs.kernels.backproject import TiltFields, back_project, load_along_y, project_voxels, store_along_y
from taigs.kernels.fields import lend, roomy
from taigs.kernels.layout import LAYOUT
from taigs.views import Grid, Views

X_TILT_LIMIT_DEG = 0.5


class TiltGeometry:
    """The linear map A (volume -> aligned images) of a tilt series, and its transpose.

    Parameters
    ----------
    tilt_angles : (V,) array
        Degrees.
    image_shape : (H, W)
        Of the aligned images; their centre (n - 1) / 2 is the projection of the volume's.
    shape : (nz, ny, nx)
        Volume, in voxels of the pixel size; ny = H.
    """

    def __init__(self, tilt_angles, image_shape, shape):
        if shape[1] != image_shape[0]:
            raise InputError(f"volume with {shape[1]} rows in y for images of {image_shape[0]} rows")
        self.n_views, self.n_columns = len(tilt_angles), image_shape[1]
        self.nz, self.ny, self.nx = shape
        self.blocks = -(-self.ny // LAYOUT.wide)
        sizes = (roomy(self.blocks * self.nz * self.nx), roomy(self.blocks * self.n_views * self.n_columns))
        self.fields = lend(self, TiltFields, self.n_views, *sizes)
        c, s = np.cos(np.radians(tilt_angles)), np.sin(np.radians(tilt_angles))
        offset = (self.n_columns - 1) / 2 - c * (self.nx - 1) / 2 - s * (self.nz - 1) / 2
        self.fields.rays.from_numpy(np.stack([c, s, offset], 1).astype(float_type()))

    def project(self, volume):
        """A volume: (nz, ny, nx) -> (V, H, W) line integrals in pixels."""
        self.load(self.fields.volume, volume)
        self.project_loaded()
        return self.store(self.fields.images, self.n_views, self.n_columns)

    def back_project(self, images):
        """A^T images: (V, H, W) -> (nz, ny, nx)."""
        self.load(self.fields.images, images)
        self.back_project_loaded()
        return self.store(self.fields.volume, self.nz, self.nx)

    def project_loaded(self):
        """From fields.volume to fields.images."""
        project_voxels(self.fields, self.blocks * self.n_views, self.n_views, self.n_columns, self.nz, self.nx)

    def back_project_loaded(self):
        """From fields.images to fields.volume."""
        back_project(self.fields, self.blocks * self.nz, self.n_views, self.n_columns, self.nz, self.nx)

    def load(self, vectors, array):
        """Copy (nz, ny, nx) or (V, H, W) into a field of vectors along y."""
        n, ny, n_last = array.shape
        load_along_y(np.ascontiguousarray(array, float_type()), vectors, self.blocks * n, n, ny, n_last)

    def store(self, vectors, n, n_last):
        """(n, ny, n_last) array from a field of vectors along y."""
        array = np.empty((n, self.ny, n_last), float_type())
        store_along_y(vectors, array, self.blocks * n, n, self.ny, n_last)
        return array


def align_images(views: Views):
    """(V, H, W) images resampled by cubic splines to a vertical tilt axis without shifts, centre (n - 1) / 2.

    Source: with P = L [[cos t, 0, sin t], [0, 1, 0]] a point appears at L (x', y) + shift, so the aligned
    image at (x', y) is the raw one there.
    """
    h, w = views.image_shape
    out = np.empty((len(views), h, w), np.float32)
    worst = 0.0
    for i, image in enumerate(views.images):
        L, start, left = _from_aligned(views, i)
        worst = max(worst, left)
        if _is_aligned(L, start):
            out[i] = image
        else:  # ndimage works in (row, column) order
            out[i] = ndimage.affine_transform(
                np.asarray(image, np.float32), L[::-1, ::-1], start[::-1], order=3, mode="nearest"
            )
        if not np.isfinite(out[i]).all():
            raise InputError(f"view {i + 1} has pixels that are not finite; expected numbers; try --mask-nonfinite")
    if worst > np.sin(np.radians(X_TILT_LIMIT_DEG)):
        warnings.warn(
            f"WBP and SIRT neglect the tilt about x of up to {np.degrees(np.arcsin(min(worst, 1))):.1f} "
            "degrees; the fit of Gaussians does not",
            InputWarning,
            stacklevel=2,
        )
    return out


def unalign_images(views: Views, images, picked):
    """Images (V, H, W) on aligned axes as the views show them: the way back from `align_images`, for some of them.

    Returns
    -------
    (len(picked), H, W) float32 array
        NaN where a view shows what the aligned image does not.
    """
    out = np.empty((len(picked), *views.image_shape), np.float32)
    for slot, i in enumerate(picked):
        L, start, _ = _from_aligned(views, i)
        if _is_aligned(L, start):
            out[slot] = images[i]
        else:
            back = np.linalg.inv(L)
            out[slot] = ndimage.affine_transform(
                images[i], back[::-1, ::-1], -(back @ start)[::-1], order=3, cval=np.nan
            )
    return out


def _from_aligned(views, i):
    """(L, start, what is left of a tilt about x): pixel (x, y) of the aligned image is L (x, y) + start of view i."""
    t = np.radians(views.tilt_angles[i])
    Q = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0]])
    L = views.projections[i] @ Q.T
    h, w = views.image_shape
    start = views.shifts[i] + views.centre - L @ (np.array([w - 1, h - 1]) / 2)
    return L, start, np.abs(views.projections[i] - L @ Q).max()


def _is_aligned(L, start):
    return np.allclose(L, np.eye(2), atol=1e-6) and np.allclose(start, 0, atol=1e-4)


def weighted_back_projection(views, grid, images=None):
    """R-weighted back-projection with a Hann-windowed ramp; image units per A.

    Source: Radermacher, Electron Tomography (2006): each view's rows are filtered by |k| and smeared
    back, weighted by the angle the view stands for.

    Parameters
    ----------
    views : Views
        With tilt_angles.
    grid : Grid
        Voxel size = pixel size, ny = H.
    images : (V, H, W) array, optional
        `align_images(views)` if known already.

    Returns
    -------
    (nz, ny, nx) float32 array
    """
    images = align_images(views) if images is None else images
    n = fft.next_fast_len(2 * images.shape[2], real=True)
    k = fft.rfftfreq(n)
    ramp = k * (0.5 + 0.5 * np.cos(2 * np.pi * k))
    ramp[0] = 0.25 / n  # the ramp averaged over the first bin: keeps the mean of a padded row
    share = np.gradient(np.unwrap(np.sort(np.radians(views.tilt_angles)))) if len(views) > 1 else np.ones(1)
    weights = np.empty(len(views))
    weights[np.argsort(views.tilt_angles)] = share
    spectrum = fft.rfft(images, n, axis=2, workers=-1) * ramp
    filtered = fft.irfft(spectrum, n, axis=2, workers=-1)[:, :, : images.shape[2]] * weights[:, None, None]
    geometry = TiltGeometry(views.tilt_angles, images.shape[1:], in_pixels(grid, views))
    return geometry.back_project(filtered) / np.float32(grid.voxel_size)


def in_pixels(grid: Grid, views: Views):
    """Shape of a grid whose voxels are as large as the pixels."""
    if abs(grid.voxel_size / views.pixel_size - 1) > 1e-6:
        raise InputError(f"voxels of {grid.voxel_size} A for pixels of {views.pixel_size} A; expected the same")
    return grid.shape
