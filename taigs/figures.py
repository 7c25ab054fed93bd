"""Pictures of a report, as PNG bytes.

Matplotlib's object interface on the Agg canvas: no window, no global state. It is imported on first use,
because importing it takes longer than most commands run.
"""

import io

import numpy as np

PERCENTILES = (0.5, 99.7)
WIDTH = 9.0  # inches; the report shows a figure about as wide as a page
DPI = 132
COLOURS = ("#1f5fa8", "#d1662b", "#4a8f3c", "#8a4fa3", "#7a7a7a")


def power_spectrum_figure(volumes, voxel_size):
    """Power in the XZ plane of Fourier space, averaged over y: an unmeasured wedge shows dark.

    Parameters
    ----------
    volumes : dict of str to (nz, ny, nx) array
    voxel_size : float
        Angstrom.

    Returns
    -------
    bytes
        PNG, log10 of the power, each volume between its own 1 and 99.9 percentile.
    """
    figure = _figure((WIDTH - 0.8) / len(volumes) + 0.7)
    axes = figure.subplots(1, len(volumes), squeeze=False, sharey=True)[0]
    for ax, (name, volume) in zip(axes, volumes.items(), strict=True):
        power = _xz_power(volume)
        low, high = np.percentile(power, (1, 99.9))
        edge = 0.5 / voxel_size
        extent = (-edge, edge, -edge, edge)
        ax.imshow(power, cmap="magma", vmin=low, vmax=high, origin="lower", extent=extent, aspect="equal")
        ax.set_title(name, fontweight="bold")
        ax.set_xlabel("kx (1/Å)")
        ax.locator_params(nbins=4)
    axes[0].set_ylabel("kz (1/Å)")
    return _png(figure)


def _xz_power(volume):
    """log10 power (kz, kx), centred, averaged over ky; tapered in x and z against edge streaks."""
    from scipy import fft

    nz, ny, nx = volume.shape
    taper = np.outer(np.hanning(nz), np.hanning(nx))
    mean = np.mean(volume, dtype=float)
    power = np.zeros((nz, nx))
    for y in range(ny):  # by Parseval the sum over ky is the sum over y: no transform along y is needed
        power += np.abs(fft.fft2((volume[:, y] - mean) * taper)) ** 2
    return np.log10(np.fft.fftshift(power) + 1e-12 * power.max() + np.finfo(float).tiny)


def residual_figure(measured, predicted):
    """One view: measured, as the model predicts it, and the difference.

    Parameters
    ----------
    measured, predicted : (H, W) array
        In the same units.

    Returns
    -------
    bytes
        PNG. The residual has the grey scale width of the measured view, about zero.
    """
    residual = measured - predicted
    low, high = np.percentile(measured, PERCENTILES)
    spread = (high - low) / 2
    share = residual.var() / max(float(np.var(measured)), np.finfo(float).tiny)
    panels = (
        ("measured", measured, low, high),
        ("model", predicted, *np.percentile(predicted, PERCENTILES)),
        (f"difference: {share:.0%} of the variance", residual, -spread, spread),
    )
    figure = _figure((WIDTH - 0.8) / 3 * measured.shape[0] / measured.shape[1] + 0.7)
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (title, image, bottom, top) in zip(axes, panels, strict=True):
        ax.imshow(image, cmap="gray", vmin=bottom, vmax=top, origin="lower")
        ax.set_title(title)
        ax.set_xlabel("x (pixels)")
    axes[0].set_ylabel("y (pixels)")
    return _png(figure)


def curves_figure(history):
    """Loss, held-out score and number of Gaussians along the run.

    Parameters
    ----------
    history : list of dict
        Keys ``step``, ``loss``, ``held_out``, ``gaussians``; missing or None where not evaluated.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure(3.4)
    axes = figure.subplots(1, 3)
    names = {"loss": "loss (fitted views)", "held_out": "held-out score", "gaussians": "Gaussians"}
    for ax, (key, label), colour in zip(axes, names.items(), COLOURS, strict=False):
        points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
        ax.set_title(label)
        ax.set_xlabel("step")
        ax.grid(alpha=0.3)
        if not points:
            ax.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=ax.transAxes)
            continue
        steps, values = np.array(points, float).T
        ax.plot(steps, values, color=colour, marker="." if len(steps) < 30 else "")
        if key == "held_out":
            best = np.nanargmin(values)
            ax.plot(steps[best], values[best], "o", color="#b00020")
            ax.set_title(f"{label}, lowest at step {steps[best]:.0f}")
    axes[2].set_ylim(bottom=0)
    return _png(figure)


def fsc_figure(curves, dashed=None, levels=(0.5, 0.143), label="FSC", top=1.02):
    """Fourier shell correlation curves with the 0.5 and 0.143 lines.

    Parameters
    ----------
    curves : dict of str to (frequency, curve)
        Frequencies in 1/Angstrom.
    dashed : dict of str to (frequency, curve), optional
        Drawn dashed, in the same colours from the first on.
    levels : sequence of float
        Where the lines are.
    label : str
        Of the vertical axis.
    top : float
        Where that ends.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure(4.2)
    ax = figure.subplots()
    for style, group in (("-", curves), ("--", dashed or {})):
        for (name, (frequency, curve)), colour in zip(group.items(), COLOURS * len(group), strict=False):
            ax.plot(frequency, curve, style, label=name, color=colour)
    for level in levels:
        ax.axhline(level, color="grey", linestyle=":", linewidth=1)
    ax.set(ylabel=label, ylim=(-0.1 * top, top))
    frequency_axis(ax, max(frequency[-1] for frequency, _ in curves.values()))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return _png(figure)


def frequency_axis(ax, end):
    """Spatial frequency to the right, from 0 to `end` (1/Angstrom), and the resolution that it stands for."""
    ax.set_xlim(0, end)
    ax.set_xlabel("spatial frequency (1/Å), and resolution")
    ax.xaxis.set_major_formatter(lambda frequency, _: f"{frequency:.3g}\n{1 / frequency:.3g} Å" if frequency else "0")


def round_length(width):
    """The longest of 1, 2 or 5 times a power of ten nm that fits into two fifths of `width` Angstrom."""
    power = 10.0 ** np.floor(np.log10(width / 25))
    return max(nice for nice in (power, 2 * power, 5 * power) if nice <= width / 25)


def _figure(height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
