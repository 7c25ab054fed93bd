"""Tilt series: a stack, its angles and its alignment, read into Views ready to be fitted."""

import operator
import warnings
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from taigs.errors import InputError, InputWarning, NumericalError, Problems
from taigs.geometry import imod_views_geometry, tilt_rotation
from taigs.imaging.dose import dose_weight
from taigs.io.imod import read_angles, read_per_image, read_xf
from taigs.io.mrc import open_stack, warn_of_sign
from taigs.views import Views

DOSE_FREQUENCY = 1 / 20  # 1/A: where the signal that a tomogram lives on fades; see _weights


def read_tilt_series(
    stack, angles, xf=None, xtilt=None, tilt_axis=0.0, pixel_size=None, exclude=(), contrast="auto", bin=1,
    dose=None, invert_angles=False, mask_nonfinite=False, cos_weights=False, mode0=None, allow_truncated=False,
):  # fmt: skip
    """Read a tilt series as Views: density bright, background 0, noise about 1, in one scale for all.

    Every file and value is checked before the images are read, and all problems are reported together.

    Parameters
    ----------
    stack : path-like
        MRC stack (V, H, W): raw images with `xf` or `tilt_axis`, or aligned ones (.ali) with neither.
    angles : path-like or (V,) array
        Tilt angles in degrees (.tlt, .rawtlt), one per image of the stack.
    xf : path-like or (V, 2, 3) array, optional
        IMOD's alignment of the raw stack.
    xtilt : path-like or (V,) array, optional
        Tilt about x in degrees (.xtilt minus XAXISTILT).
    tilt_axis : float
        In-plane rotation of the tilt axis of a stack without `xf`, degrees; 0 is vertical (y).
    pixel_size : float, optional
        Angstrom; default: the header's.
    exclude : iterable of int
        Images to leave out, counted from 1 as in IMOD.
    contrast : {"auto", "dark", "bright"}
        What dense matter looks like in the stack; "dark" images are negated.
    bin : int
        Average over bin x bin pixels.
    dose : path-like or (V,) array, optional
        Dose accumulated before each image, e/A^2.
    invert_angles : bool
        Negate the tilt angles (the other hand).
    mask_nonfinite : bool
        Replace NaN and infinite pixels by the median of their image instead of refusing them.
    cos_weights : bool
        Weight each view by cos(tilt), for the longer way through the ice. The fit's gain per view
        accounts for a weaker signal already.
    mode0 : {"signed", "unsigned"}, optional
        What bytes are (MRC mode 0); default: as IMOD's flag says, else signed.
    allow_truncated : bool
        Leave out the images that a stack lacks which is shorter than its header says.

    Returns
    -------
    Views
        ``weights`` = the amplitude left after `dose`, times cos(tilt) if asked for, of mean 1.

    Raises
    ------
    InputError
        If a file or value cannot be used, counts differ, the pixel size is unknown, pixels are not
        finite or no image has content.
    ResourceError
        If a file may not be read.

    Warns
    -----
    InputWarning
        If constant images are dropped, pixel sizes disagree by more than 1 %, or the contrast is unclear.
    """
    return read_tilt_series_with_notes(
        stack, angles, xf, xtilt, tilt_axis, pixel_size, exclude, contrast, bin, dose, invert_angles,
        mask_nonfinite, cos_weights, mode0, allow_truncated,
    )[0]  # fmt: skip


def read_tilt_series_with_notes(
    stack, angles, xf=None, xtilt=None, tilt_axis=0.0, pixel_size=None, exclude=(), contrast="auto", bin=1,
    dose=None, invert_angles=False, mask_nonfinite=False, cos_weights=False, mode0=None, allow_truncated=False,
):  # fmt: skip
    """As `read_tilt_series`, but return (views, notes): what was decided, one sentence each."""
    problems = Problems()
    header, frames = problems.attempt(open_stack, stack, mode0, allow_truncated) or (None, None)
    n = header.shape[0] if header else None
    per_image = (
        problems.attempt(read_angles, angles, n, stack),
        None if xf is None else problems.attempt(read_xf, xf, n, stack),
        0.0 if xtilt is None else problems.attempt(read_per_image, xtilt, "x-axis tilts", n, stack),
        0.0 if dose is None else problems.attempt(_dose, dose, n, stack),
    )
    kept = problems.attempt(_kept, exclude, n)
    apix, notes = problems.attempt(_pixel_size, pixel_size, header, stack) or (None, [])
    problems.attempt(_check_options, tilt_axis, xf, contrast, bin, header)
    problems.report(stack)

    bin, n = int(bin), len(frames)  # a truncated stack has fewer than its header says
    kept = [v for v in kept if v < n]
    tilt, alignment, xtilt_deg, dose_e = (v if v is None or np.ndim(v) == 0 else v[:n] for v in per_image)
    tilt = -tilt if invert_angles else tilt
    projections, shifts = imod_views_geometry(tilt, xtilt_deg, alignment)
    if xf is None:
        projections = tilt_rotation(tilt, tilt_axis, xtilt_deg)[:, :2]
    _, height, width = header.shape
    views = Views(
        images=frames,
        projections=projections,
        shifts=shifts,
        pixel_size=apix,
        centre=np.array([(width - 1) / 2, (height - 1) / 2]),
        weights=_weights(tilt, dose_e, apix * bin, cos_weights),
        tilt_angles=tilt,
        names=tuple(f"{v + 1}@{stack}" for v in range(n)),
    )
    if n < header.shape[0]:
        notes.append(f"images {n + 1} to {header.shape[0]} are left out: the stack is truncated")
    if header.is_sign_guessed and any((frames[v] < 0).any() for v in kept):
        warn_of_sign(stack)
    views = _load(views, kept, bin, mask_nonfinite, stack, notes)
    sign, scale = _contrast_sign(views, contrast, stack, notes), _noise_scale(views.images)
    notes.append(f"all images were divided by {scale:.4g}, the noise's standard deviation")
    np.multiply(views.images, sign / scale, out=views.images)
    return replace(views, weights=views.weights / views.weights.mean()), notes


# --- checks: everything before the images --------------------------------------------------------


def _dose(dose, n, stack):
    values = read_per_image(dose, "doses", n, stack)
    if np.any(values < 0):
        raise InputError(f"dose {values.min():g} e/A^2 at image {values.argmin() + 1}; expected 0 or more")
    return values


def _kept(exclude, n):
    """Indices (from 0) of the images that stay."""
    exclude = {operator.index(e) for e in exclude}
    wrong = sorted(e for e in exclude if e < 1 or (n is not None and e > n))
    if wrong:
        raise InputError(f"exclude: no image {wrong[0]}; expected 1 to {n or 'the number of images'}")
    kept = [v for v in range(n or 0) if v + 1 not in exclude]
    if n and not kept:
        raise InputError(f"exclude: all {n} images are excluded")
    return kept


def _pixel_size(given, header, stack):
    """(pixel size in Angstrom, notes)."""
    found = header.voxel_size if header else None
    if given is not None:
        if not (np.isfinite(given) and given > 0):
            raise InputError(f"pixel size {given}; expected a positive number of Angstrom")
        if found and abs(found[0] / given - 1) > 0.01:
            both = f"{found[0]:g} A per pixel in the header, {given:g} given"
            warnings.warn(f"{stack}: {both}; {given:g} used", InputWarning, stacklevel=5)
        return float(given), [f"pixel size {given:g} A as given"]
    if header and not found:
        raise InputError(f"{stack}: the header holds no pixel size; try --pixel-size (in Angstrom)")
    if found and abs(found[0] / found[1] - 1) > 0.01:
        raise InputError(f"{stack}: pixels of {found[0]:g} x {found[1]:g} A; expected square ones; try --pixel-size")
    return (found[0] if found else None), [f"pixel size {found[0]:g} A from the header"] if found else []


def _check_options(tilt_axis, xf, contrast, bin, header):
    if not np.isfinite(tilt_axis):
        raise InputError(f"tilt axis {tilt_axis}; expected degrees")
    if xf is not None and tilt_axis != 0:
        raise InputError(f"tilt axis {tilt_axis:g} besides an .xf, which holds it already; try one of them")
    if contrast not in ("auto", "dark", "bright"):
        raise InputError(f"contrast {contrast!r}; expected auto, dark or bright")
    largest = min(header.shape[1:]) if header else np.inf
    if not 1 <= bin <= largest or bin != int(bin):
        raise InputError(f"binning {bin}; expected a whole number from 1 to {largest}")


# --- images --------------------------------------------------------------------------------------


def _weights(tilt, dose, pixel_size, cos_weights):
    """(V,) what the dose left at one reference frequency, times cos(tilt) if asked for.

    A weight per image cannot follow the whole curve: 1/20 A is where a tomogram has most of what can
    be recognised in it, or Nyquist where pixels are coarser.
    """
    left = dose_weight(dose, min(DOSE_FREQUENCY, 0.5 / pixel_size))
    # Kept off zero: at 90 degrees an image still holds something, and weights are divided by.
    return left * np.maximum(np.abs(np.cos(np.deg2rad(tilt))), 0.01 if cos_weights else 1.0)


def _load(views, kept, bin, mask_nonfinite, stack, notes):
    """The kept views in memory: float32, binned, each with its median subtracted, constant ones dropped.

    One view at a time, so that the unbinned stack need not fit.
    """
    height, width = (size // bin for size in views.image_shape)
    images = np.empty((len(kept), height, width), np.float32)
    parts, constant, nonfinite, first = [], [], 0, None
    for v in kept:
        view = views.subset([v])
        image = np.array(view.images, np.float32)
        bad = ~np.isfinite(image)
        if bad.any():
            nonfinite += int(bad.sum())
            first = first or (v + 1, *(int(i) for i in np.argwhere(bad[0])[0]))
            image[bad] = np.median(image[~bad]) if not bad.all() else 0
        if image.min() == image.max():
            constant.append(v + 1)
            continue
        view = replace(view, images=image).binned(bin)
        slot = images[len(parts) : len(parts) + 1]
        np.subtract(view.images, np.median(view.images), out=slot)
        parts.append(replace(view, images=slot))
    if nonfinite and not mask_nonfinite:
        raise InputError(
            f"{stack}: {nonfinite} pixels are NaN or infinite, first in image {first[0]} (from 1) at "
            f"y {first[1]}, x {first[2]} (from 0); expected finite ones; try --mask-nonfinite"
        )
    if not parts:
        raise InputError(f"{stack}: every image is constant; expected images with content")
    if nonfinite:
        notes.append(f"{nonfinite} NaN or infinite pixels were replaced by their image's median")
    if constant:
        dropped = f"constant images dropped: {', '.join(map(str, constant))} (from 1)"
        warnings.warn(f"{stack}: {dropped}", InputWarning, stacklevel=4)
        notes.append(dropped)
    return _joined(parts, images[: len(parts)])


def _joined(parts, images):
    """One Views of many of one view each, whose images are those of `images`."""
    return replace(
        parts[0],
        images=images,
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("projections", "shifts", "weights", "tilt_angles")
        },
        names=tuple(part.names[0] for part in parts),
    )


def _noise_scale(images):
    """One number for all images: the median over views of the noise's standard deviation.

    Taken from differences of pixels 3 apart, in which background cancels; closer ones are alike
    where an aligned stack was interpolated. Outliers (edges of gold) are clipped. Images all but
    free of noise are scaled to at most 50 standard deviations instead.
    """
    scales = []
    for image in images:
        rows = image[:: max(1, image.size // 10**6)]
        difference = (rows[:, 3:] - rows[:, :-3]).ravel() if rows.shape[1] > 3 else rows.ravel()
        for _ in range(4):
            inner = np.abs(difference) <= 4 * difference.std(dtype=float)
            difference = difference[inner] if inner.any() else difference  # none is, on a ramp free of noise
        scales.append(max(difference.std(dtype=float) / np.sqrt(2), 0.02 * image.std(dtype=float)))
    scale = float(np.median(scales))
    if not (np.isfinite(scale) and scale > 0):
        raise NumericalError(f"the noise level of the images is {scale}; are their values extreme?")
    return scale


def _contrast_sign(views, contrast, stack, notes):
    """-1 if dense matter is dark in the images, else 1."""
    if contrast == "auto":
        skewness, error = _object_skewness(views)
        clear = abs(skewness) > max(0.05, 3 * error)
        contrast = "bright" if clear and skewness > 0 else "dark"
        found = f"skewness of the filtered images {skewness:.2f} +- {error:.2f}"
        if clear:
            notes.append(f"dense matter is {contrast} in the stack ({found})")
        else:
            message = f"contrast unclear ({found}); dark assumed, as in raw tilt series; try --contrast"
            warnings.warn(f"{stack}: {message}", InputWarning, stacklevel=4)
            notes.append(message)
    else:
        notes.append(f"dense matter is {contrast} in the stack, as given")
    return -1 if contrast == "dark" else 1


def _object_skewness(views, size=128, n_views=21):
    """(median over the views nearest to zero tilt, its standard error) of the images' skewness.

    Dense objects are rarer and stronger than the background, so density is on the side of the
    longer tail. Filtered to a band: noise (whose counting statistics are skew, too) averages out,
    and ramps go.
    """
    nearest = np.argsort(np.abs(views.tilt_angles), kind="stable")[:n_views]
    skewness = []
    for v in nearest:
        view = views.subset([v])
        image = view.binned(max(1, min(view.image_shape) // size)).images[0]
        spread = 1.4826 * np.median(np.abs(image - np.median(image)))
        if spread > 0:  # hot pixels and their like must not decide
            image = np.clip(image, np.median(image) - 8 * spread, np.median(image) + 8 * spread)
        image = gaussian_filter(image, 1.5) - gaussian_filter(image, min(image.shape) / 6)
        h, w = image.shape  # alignment leaves odd borders
        image = image[h // 20 : h - h // 20, w // 20 : w - w // 20]
        deviation = image - image.mean()
        power = np.mean(deviation**2)
        skewness.append(np.mean(deviation**3) / power**1.5 if power > 0 else 0.0)
    middle = np.median(skewness)
    error = 1.25 * 1.4826 * np.median(np.abs(skewness - middle)) / np.sqrt(len(skewness))
    return float(middle), float(error)
