"""`taigs tilt`: a reconstruction with everything it leaves in its folder."""

import logging
import time

import numpy as np

from taigs.baseline import weighted_back_projection
from taigs.held_out import write_held_out
from taigs.io.clouds import write_cloud
from taigs.io.mrc import write_volume
from taigs.report import (
    Figure,
    curves_figure,
    power_spectrum_figure,
    residual_figure,
    write_report,
)
from taigs.run_record import RunRecord
from taigs.sirt import sirt
from taigs.slices import AXES, SAME_CONTRAST, TILT_PLANES, matched_ranges, slices_of
from taigs.tilt import reconstruct_tilt_series

log = logging.getLogger("taigs")
LABEL = "taigs: density in image noise units per A, protein bright"


def run_tilt(views, directory, *, thickness, signed, wbp, sirt_iterations, seed, notes, title, progress):
    """Reconstruct a tilt series; write tomogram, model, baselines, held-out views, metrics.csv and report.html.

    Parameters
    ----------
    views : Views
    directory : RunDirectory
        Begun.
    thickness : int or None
        Pixels of the views.
    wbp : bool
        Write wbp.mrc.
    sirt_iterations : int
        Write sirt.mrc (with positivity) after that many iterations; 0 for none.
    notes : list of str
        What was decided while reading, for the report.
    title : str
    progress : Progress

    Returns
    -------
    str
        Who predicts the held-out views best, in a sentence.
    """
    result = reconstruct_tilt_series(views, thickness, signed, seed, progress, directory.journal)
    grid = result.grid
    write_volume(directory / "tomogram.mrc", result.volume, grid.voxel_size, overwrite=True, label=LABEL)
    write_cloud(directory / "model.npz", result.cloud, views.pixel_size, grid.shape, overwrite=True)
    write_held_out(directory / "held_out.npz", result, views, overwrite=True)
    timings = {"reconstruction": result.seconds}
    progress.stage("back-projecting for comparison")
    baselines = {"WBP": (weighted_back_projection, "wbp.mrc", wbp)}
    if sirt_iterations:
        baselines[f"SIRT{'' if signed else '+'} {sirt_iterations}"] = (
            lambda v, g: sirt(v, g, sirt_iterations, positive=not signed, progress=progress), "sirt.mrc", True
        )  # fmt: skip
    volumes = {"taigs": result.volume}
    for name, (reconstruct, file_name, wanted) in baselines.items():
        started = time.perf_counter()
        volumes[name] = reconstruct(views, grid)
        timings[name] = time.perf_counter() - started
        if wanted:
            write_volume(directory / file_name, volumes[name], grid.voxel_size, overwrite=True)
    for row in result.history:
        directory.log_metrics(row)
    verdict = describe_held_out(result.view_correlations())
    log.info("%s", verdict)
    for name, value in result.settings.items():
        log.info("%s: %s", name, value)
    _write_report(directory, result, volumes, views, verdict, timings, notes, title)
    return verdict


def describe_held_out(correlations):
    """Who predicts the held-out views best, and in how many of them, in a sentence.

    Parameters
    ----------
    correlations : dict of str to (n,) array
        As `TiltResult.view_correlations`.
    """
    means = {name: float(values.mean()) for name, values in correlations.items()}
    own, n = means.pop("taigs"), len(correlations["taigs"])
    rival = max(means, key=means.get)
    ahead = np.count_nonzero(correlations["taigs"] > correlations[rival])
    start = f"better than {' and '.join(means)}" if own > means[rival] else f"no better than {rival}"
    return (
        f"taigs predicts the held-out views {start}: mean correlation with the measured images {own:.4f}, against "
        + ", ".join(f"{value:.4f} for {name}" for name, value in means.items())
        + f"; ahead of {rival} in {ahead} of {n} views."
    )


def _write_report(directory, result, volumes, views, verdict, timings, notes, title):
    nz, ny, nx = result.grid.shape
    middle = len(result.held_out) // 2
    predicted, measured = result.predictions["taigs"]
    angle = views.tilt_angles[result.held_out[middle]]
    write_report(
        directory / "report.html",
        title=f"taigs tilt: {title}",
        verdict=verdict,
        summary=[
            ("Volume (x, y, z)", f"{nx} x {ny} x {nz}"),
            ("Voxel size", f"{result.grid.voxel_size:.2f} Å"),
            ("Views", f"{len(views)}, {views.tilt_angles.min():.0f}° to {views.tilt_angles.max():.0f}°"),
            ("Gaussians", f"{len(result.cloud):,}"),
            ("Reconstruction", f"{result.seconds:.0f} s"),
        ],
        slices=slices_of(
            volumes,
            matched_ranges(volumes, "taigs"),
            result.grid.voxel_size,
            f"{TILT_PLANES} {AXES} {SAME_CONTRAST.format('taigs')}",
        ),
        tables=[
            (
                "Held-out views, predicted without them: correlation with the measured images, noise included. "
                "The tomogram itself is then made from all views.",
                ("method", "mean", "lowest", "highest"),
                [
                    (name, *(f"{f(values):.4f}" for f in (np.mean, np.min, np.max)))
                    for name, values in result.view_correlations().items()
                ],
            )
        ],
        figures=[
            Figure(
                "Power in the XZ plane of Fourier space, averaged over y, logarithmic, each on its own scale. "
                "The wedge about the vertical axis was not measured: what stands there is inferred.",
                power_spectrum_figure(volumes, result.grid.voxel_size),
            ),
            Figure(
                "The fit, step by step, on the views it saw and on the held-out ones. Loss and score are mean squared "
                "differences per pixel, in units of the noise's variance: noise alone is about 1.",
                curves_figure(result.history),
            ),
            Figure(
                f"Held-out view at {angle:.1f}°: measured, predicted without it, and their difference.",
                residual_figure(measured[middle], predicted[middle] + np.mean(measured[middle] - predicted[middle])),
            ),
        ],
        notes=notes,
        data=[("images", f"{len(views)} of {views.image_shape[1]} x {views.image_shape[0]} pixels")],
        record=RunRecord.of_folder(directory),
        settings=result.settings,
        timings=timings,
    )
