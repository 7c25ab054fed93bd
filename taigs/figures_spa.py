"""Pictures of single particles, as PNG bytes: orientations, particles beside the model, maps, FSC by direction."""

import numpy as np

from taigs.figures import COLOURS, PERCENTILES, WIDTH, _figure, _png, frequency_axis, round_length

SQRT2 = 2**0.5
VIEWS_PER_BIN = 12
RINGS = (9, 45)  # of bins between the poles, fewest and most
FEW_VIEWS = 400  # are drawn as points as well
MAP_PIXELS = 900  # from pole to pole
COLUMNS = 6  # particles in a gallery
LOW_PASS = 25.0  # Angstrom, where half of the amplitude is left


def orientation_figure(projections):
    """Distribution of viewing directions on a Mollweide map, whose bins all have one area.

    Parameters
    ----------
    projections : (V, 2, 3) array
        Rows of the rotations volume -> image, times a magnification or not. An image is a projection along
        their cross product, which in the volume has the longitude rot and the distance tilt from +z (RELION).

    Returns
    -------
    bytes
        PNG. Uniform orientations have equal numbers in all bins, but for chance.
    """
    import matplotlib
    from matplotlib.colors import PowerNorm
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator

    x, y, z = _directions(projections).T
    rot = np.degrees(np.arctan2(y, x))
    rings = np.clip(round((np.pi * len(z) / VIEWS_PER_BIN) ** 0.5 / 2), *RINGS)
    bin_number, n_bins = _equal_area_bins(rings)
    counts = np.bincount(bin_number(rot, z), minlength=n_bins)

    figure = _figure(4.5)
    ax = figure.subplots()
    lines = SQRT2 * (np.arange(0.5, MAP_PIXELS) / MAP_PIXELS * 2 - 1)
    map_x, map_y = np.meshgrid(2 * np.repeat(lines, 2), lines)
    inside = map_x**2 / 4 + map_y**2 < 2
    heat = np.full(inside.shape, np.nan)
    heat[inside] = counts[bin_number(*_from_mollweide(map_x[inside], map_y[inside]))]
    image = ax.imshow(
        heat,
        cmap=matplotlib.colormaps["viridis"].with_extremes(under="0.92", bad="none"),
        # Below 1/2 are empty bins. The root keeps weak bins apart beside those of a preferred orientation.
        norm=PowerNorm(0.5, vmin=0.5, vmax=max(counts.max(), 2)),
        origin="lower",
        extent=(-2 * SQRT2, 2 * SQRT2, -SQRT2, SQRT2),
        interpolation="nearest",
    )
    if len(z) <= FEW_VIEWS:
        ax.plot(*_to_mollweide(rot, z), "o", color="white", markeredgecolor="black", markersize=4, clip_on=False)
    tilts, rots = np.arange(0, 181, 30), np.arange(-180, 181, 60)
    halo = [withStroke(linewidth=3, foreground="white")]
    around, down = np.linspace(-180, 180, 91), np.cos(np.radians(np.linspace(0, 180, 91)))
    for tilt in tilts:
        ax.plot(*_to_mollweide(around, np.cos(np.radians(tilt))), color="black", linewidth=0.5, alpha=0.5)
    for at in rots:
        ax.plot(*_to_mollweide(at, down), color="black", linewidth=0.5, alpha=0.5, clip_on=False)
        ax.text(at / 90 * SQRT2, 0, f"{at}°", ha="center", va="center", fontsize=9, path_effects=halo)
    ax.set_yticks(_to_mollweide(0, np.cos(np.radians(tilts)))[1], [f"{tilt}°" for tilt in tilts])
    ax.set(xticks=[], xlabel="rot, along the equator", ylabel="tilt", frame_on=False)
    ax.tick_params(length=0, pad=20)
    ax.set_title(
        f"Views: {len(z):,}. Bins of equal area: {n_bins:,}; empty: {np.mean(counts == 0):.0%} "
        f"(by chance, if uniform: {np.exp(-len(z) / n_bins):.0%})"
    )
    ticks = MaxNLocator(integer=True, min_n_ticks=1)
    figure.colorbar(image, shrink=0.8, pad=0.02, label="views per bin", ticks=ticks)
    return _png(figure)


def _directions(projections):
    """(V, 3) unit vectors in the volume's frame along which the images are projections."""
    directions = np.cross(projections[:, 0], projections[:, 1])
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _equal_area_bins(rings):
    """Bins between circles of latitude, about as wide as high: function (rot, cos tilt) -> bin, number of bins."""
    middle = np.pi * (np.arange(rings) + 0.5) / rings
    cells = np.maximum(3, np.rint(2 * rings * np.sin(middle))).astype(int)
    ends = np.cumsum(cells)
    # A zone's area is proportional to its height along z.
    lower = 1 - 2 * ends / ends[-1]

    def number(rot, cosine):
        ring = np.searchsorted(-lower[:-1], -np.asarray(cosine))
        cell = (np.asarray(rot) % 360 / 360 * cells[ring]).astype(int)
        return ends[ring] - cells[ring] + np.minimum(cell, cells[ring] - 1)

    return number, ends[-1]


def _to_mollweide(rot, cosine):
    """Map coordinates x, y, at most 2 sqrt 2 and sqrt 2, of longitude rot in degrees and cos tilt."""
    # sin(latitude) = (2 t + sin 2t) / pi has no closed inverse.
    t = np.linspace(-np.pi / 2, np.pi / 2, 2001)
    t = np.interp(cosine, (2 * t + np.sin(2 * t)) / np.pi, t)
    return np.broadcast_arrays(np.asarray(rot) / 90 * SQRT2 * np.cos(t), SQRT2 * np.sin(t))


def _from_mollweide(x, y):
    """Longitude in degrees and cos tilt at map coordinates inside the ellipse."""
    t = np.arcsin(y / SQRT2)
    return 90 * x / (SQRT2 * np.cos(t)), (2 * t + np.sin(2 * t)) / np.pi


def gallery_figure(measured, predicted, pixel_size):
    """The first six particles as measured, low-passed, as the model predicts them, and what that leaves.

    Parameters
    ----------
    measured : (n, H, W) array
        At least one particle, density bright.
    predicted : (n, H, W) array
        Projections of the model with the CTF, in the same poses.
    pixel_size : float
        Angstrom.

    Returns
    -------
    bytes
        PNG. Each image is drawn between its own 0.5 and 99.7 percentile, but the difference as the low-passed
        image; CC is the correlation of the measured image, not low-passed, with the predicted one.
    """
    from scipy.ndimage import gaussian_filter

    measured, predicted = (np.asarray(images[:COLUMNS], np.float64) for images in (measured, predicted))
    # exp(-2 pi^2 sigma^2 k^2) = 1/2 at k = 1 / LOW_PASS
    sigma = (np.log(2) / 2) ** 0.5 / np.pi * LOW_PASS / pixel_size
    smooth, residual = (gaussian_filter(images, (0, sigma, sigma)) for images in (measured, measured - predicted))
    rows = {
        "particle": (measured, measured),
        f"low-passed\nto {LOW_PASS:.0f} Å": (smooth, smooth),
        "model\nwith CTF": (predicted, predicted),
        "difference,\nlow-passed": (residual, smooth),
    }
    _, h, w = measured.shape
    figure = _figure(4 * (WIDTH - 0.5) / COLUMNS * h / w + 0.5)
    axes = figure.subplots(len(rows), COLUMNS)
    for ax in axes[:, len(measured) :].ravel():
        ax.set_axis_off()
    for row, (name, (images, scale)) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for ax, image, like in zip(row, images, scale, strict=False):
            low, high = np.percentile(like, PERCENTILES)
            ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower")
            ax.set(xticks=[], yticks=[])
    for ax, pair in zip(axes[0], zip(measured, predicted, strict=True), strict=False):
        ax.set_title(_correlation(*pair), fontsize=10)
    _scale_bar(axes[-1, 0], w * pixel_size, pixel_size)
    return _png(figure)


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return f"CC {np.vdot(a, b) / norm:.2f}" if norm > 0 else "CC not defined"


def _scale_bar(ax, width, pixel_size):
    """A bar of 1, 2 or 5 times a power of ten nanometres, a sixth to two fifths of an image `width` Angstrom wide."""
    from matplotlib.patheffects import withStroke

    length = round_length(width)
    halo = [withStroke(linewidth=3, foreground="black")]
    x, y = np.array([0.06, 0.06]) * width / pixel_size
    ax.plot([x, x + 10 * length / pixel_size], [y, y], color="white", linewidth=2, path_effects=halo)
    ax.text(x, 1.4 * y, f"{length:g} nm", color="white", va="bottom", fontsize=9, path_effects=halo)


def fsc_bands_figure(frequency, curves):
    """FSC in cones about many axes: mean, standard deviation and range over the axes.

    Parameters
    ----------
    frequency : (S,) array
        1/Angstrom.
    curves : dict of str to (A, S) array
        For each map the curves of its cones.

    Returns
    -------
    bytes
        PNG. The wider a band, the more the resolution depends on the direction.
    """
    figure = _figure(4.4)
    ax = figure.subplots()
    for (name, cones), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        low, mean, high, spread = cones.min(axis=0), cones.mean(axis=0), cones.max(axis=0), cones.std(axis=0)
        inner = np.maximum(mean - spread, low), np.minimum(mean + spread, high)
        ax.fill_between(frequency, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.fill_between(frequency, *inner, color=colour, alpha=0.35, linewidth=0)
        ax.plot(frequency, mean, label=name, color=colour)
    for level in (0.5, 0.143):
        ax.axhline(level, color="grey", linestyle=":", linewidth=1)
    ax.set(ylabel="FSC in cones", ylim=(-0.25, 1.02))
    frequency_axis(ax, frequency[-1])
    ax.grid(alpha=0.3)
    ax.set_title("Over the directions: mean, ± standard deviation, smallest to largest", fontsize=10)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return _png(figure)
