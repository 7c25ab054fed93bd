"""The report of `taigs spa`: figures that tell how good a reconstruction is, and pictures to look at."""

import numpy as np
from scipy import fft

from taigs.anisotropy import HALF_ANGLE_DEG
from taigs.figures_spa import fsc_bands_figure, gallery_figure, orientation_figure
from taigs.fsc_run import REPRODUCIBLE_NOT_TRUE
from taigs.render import Renderer
from taigs.report import Figure, curves_figure, fsc_figure, write_report
from taigs.resolution import crossing_table, in_words
from taigs.run_record import RunRecord, size_in_words
from taigs.slices import AXES, SAME_CONTRAST, matched_ranges, slices_of

SHOWN = 6  # particles in the gallery
BRIEFLY = "not crossed"


def write_particle_report(directory, views, result, validation, sharpened, verdict, timings, notes, title):
    """Write report.html of a ParticleResult.

    Parameters
    ----------
    directory : RunDirectory
    views : Views
    result : ParticleResult
    validation : taigs.spa_run.Validation
    sharpened : Sharpened or None
    verdict : taigs.spa_run.Verdict
    timings : dict of str to float
        Seconds.
    notes : list of str
        What was decided while reading.
    title : str
    """
    n, control = views.image_shape[0], validation.control
    n_particles = len(views) if views.particles is None else len(np.unique(views.particles))
    summary = [
        ("Resolution at 0.143", "none" if verdict.failed else in_words(validation.taigs.fsc.crossing())),
        ("Particles", f"{n_particles:,}"),
        *([("Views", f"{len(views):,}")] if len(views) != n_particles else []),
        ("Box", f"{n} px of {views.pixel_size:.4g}\N{NO-BREAK SPACE}Å"),
        ("Symmetry", result.settings["symmetry"]),
        ("Gaussians", f"{len(result.cloud):,}"),
        ("Reconstruction", f"{sum(result.seconds.values()):.0f} s"),
    ]
    if sharpened is not None:
        summary.append(("B-factor", f"{sharpened.bfactor:.0f} Å²"))
    said = (
        f"Control of the poses: {control.n_views:,} images of {control.n_particles:,} particles were compared with "
        "the other half's map in their own poses and, for comparison, in one another's. The own pose explains "
        f"{control.share:.0%} of the correlation"
        + (f" (t = {control.t:.1f})." if control.t is not None else "; too few particles to say more.")
    )
    write_report(
        directory / "report.html",
        title=f"taigs spa: {title}",
        verdict=verdict.text,
        summary=summary,
        slices=_slices(views, result.volumes),
        tables=_tables(validation),
        figures=[*_curve_figures(validation), *_pictures(views, result, control.sign)],
        notes=[*notes, *result.notes, *verdict.doubts, said, REPRODUCIBLE_NOT_TRUE],
        data=[("images", f"{len(views):,} of {n} x {n} pixels"), *_stacks(getattr(views.images, "paths", []))],
        record=RunRecord.of_folder(directory),
        settings=result.settings | {"mask": validation.mask_words},
        timings=timings,
    )


def _slices(views, volumes):
    shown = {"taigs": volumes["map"], "direct Fourier": volumes["direct"]}
    caption = f"All particles, unfiltered and without a mask. {AXES} {SAME_CONTRAST.format('taigs')}"
    centre = (views.image_shape[0] // 2,) * 3
    return slices_of(shown, matched_ranges(shown, "taigs"), views.pixel_size, caption, centre)


def _stacks(paths):
    """Rows for the report: the stacks the images are in; of many the first, and how many there are."""
    if not paths:
        return []
    size = size_in_words(sum(path.stat().st_size for path in paths))
    names = str(paths[0]) if len(paths) == 1 else f"{len(paths):,}, the first {paths[0]}"
    return [("stacks", f"{names} ({size})")]


def _tables(validation):
    pairs = {"taigs": validation.taigs, "direct Fourier": validation.direct}
    crossings = []
    for name, outcome in pairs.items():
        header, rows = crossing_table(outcome.fsc)
        crossings += [(f"{name}, {curve}", mean, *map(_briefly, found)) for curve, mean, *found in rows]
    by_map = [
        ("mean ring correlation with the images of the other half", *validation.mean_agreement.values()),
        ("cFAR (SIMPLE definition)", *(outcome.cones.cfar for outcome in pairs.values())),
        ("standard deviation of the FSC over the cones, mean", *(_spread(outcome) for outcome in pairs.values())),
        ("resolution in the cones at 0.143", *(_cone_range(outcome.cones) for outcome in pairs.values())),
    ]
    caption = "Half maps: first crossings, linear between shells, and RELION's, the last shell before."
    if any(BRIEFLY in row for row in crossings):
        caption += f" Those {in_words(None)}, {2 * validation.taigs.fsc.voxel_size:.2f} Å."
    return [
        (caption, header, crossings),
        ("The halves against the images, and by direction (FSC masked).", ("", *pairs), by_map),
    ]


def _briefly(words):
    """A crossing `in_words` without the explanation of a missing one."""
    return BRIEFLY if words == in_words(None) else words


def _spread(outcome):
    return float(outcome.cones.spread[1][1:].mean())


def _cone_range(cones):
    """Best and worst first crossing over the directions, in words."""
    found = cones.resolutions
    crossed = found[~np.isnan(found)]
    if len(crossed) == 0:
        return BRIEFLY
    missing = len(found) - len(crossed)
    return f"{crossed.min():.2f} to {crossed.max():.2f} Å" + (f", {missing} {BRIEFLY}" if missing else "")


def _curve_figures(validation):
    taigs, direct, control = validation.taigs, validation.direct, validation.control
    frequency = taigs.fsc.frequency
    ours = {f"taigs, {name}": (frequency, curve) for name, curve in taigs.fsc.curves.items()}
    curves = direct.fsc.curves
    theirs = {f"direct, {name}": (frequency, curves[name]) for name in ("unmasked", "masked") if name in curves}
    rings = {name: (frequency[1:], curve[1:]) for name, curve in validation.agreement.items()}
    top = 1.1 * max(curve.max() for _, curve in rings.values())
    interchanged = {"taigs, poses interchanged": (frequency[1:], control.interchanged[1:])}
    return [
        Figure(
            "Fourier shell correlation of the half maps, with the thresholds 0.5 and 0.143; dashed, that of the direct "
            "Fourier maps of the same images.",
            fsc_figure(ours, theirs),
        ),
        Figure(
            "Correlation of each half's map with the images of the other half, their noise included, ring by ring. "
            f"Dashed: {control.n_views:,} of the images, the poses interchanged among the particles; where this is as "
            "high, the poses explain nothing.",
            fsc_figure(rings, interchanged, levels=(), label="ring correlation", top=min(max(top, 0.1), 1.02)),
        ),
        Figure(
            f"FSC of the half maps{'' if taigs.fsc.masked is None else ', masked,'} within {len(taigs.cones.axes)} "
            f"double cones of {HALF_ANGLE_DEG:.0f}°.",
            fsc_bands_figure(frequency, {"taigs": taigs.cones.curves, "direct Fourier": direct.cones.curves}),
        ),
    ]


def _pictures(views, result, sign):
    figures = [
        Figure(
            "Viewing directions of the images, without those that symmetry adds.",
            orientation_figure(views.projections),
        ),
        Figure(
            "Images from the lowest defocus to the highest, what the model of all particles predicts for them, and "
            "what is left when that is subtracted, on the grey scale of the second row; density is bright.",
            gallery_figure(*example_particles(views, result.cloud, sign), views.pixel_size),
        ),
    ]
    for half in (1, 2):
        rows = [row for row in result.histories if row["half"] == half]
        steps = [{**row, "step": i} for i, row in zip(_running_steps(rows), rows, strict=True)]
        caption = (
            f"The fit of half {half}, step by step. The loss is per Fourier coefficient of an image, in units of the "
            "noise's power, less a constant; the held-out score is 1 - the mean ring correlation with the images of "
            "the other half."
        )
        figures.append(Figure(caption, curves_figure(steps)))
    return figures


def _running_steps(rows):
    """Steps counted through all objectives of a schedule; each counts its own from the start."""
    offset, last = 0, 0
    for row in rows:
        offset += last if row["step"] < last else 0
        last = row["step"]
        yield offset + last


def example_particles(views, cloud, sign=1):
    """(measured, predicted) images of up to six particles with well-spread defocus, (m, n, n) each, density bright."""
    order = np.arange(len(views))
    if views.ctf is not None:
        order = np.argsort(views.ctf.defocus_u + views.ctf.defocus_v, kind="stable")
    picked = order[np.linspace(0, len(views) - 1, min(SHOWN, len(views))).round().astype(int)]
    part, n = views.subset(picked), views.image_shape[0]
    renderer = Renderer(len(cloud), len(picked), (n, n), cloud.signed)
    renderer.set_cloud(cloud)
    renderer.set_views(part.projections / views.pixel_size, part.shifts + views.centre, (n, n))
    renderer.forward()
    predicted = renderer.get_images() / views.pixel_size**2
    if part.ctf is not None:
        kx, ky = np.meshgrid(fft.rfftfreq(n, views.pixel_size), fft.fftfreq(n, views.pixel_size))
        ctf = part.ctf(kx, ky) ** (2 if views.premultiplied else 1)
        predicted = fft.irfft2(ctf * fft.rfft2(predicted), s=(n, n))
    return sign * np.asarray(part.images), predicted
