"""`taigs demo`: a simulated tilt series, reconstructed and compared with what was put in."""

import time
from dataclasses import dataclass

import numpy as np

from taigs.baseline import weighted_back_projection
from taigs.geometry import imod_views_geometry
from taigs.held_out import write_held_out
from taigs.io.clouds import write_cloud
from taigs.io.imod import write_angles
from taigs.io.mrc import write_stack, write_volume
from taigs.metrics import fsc, wedge_scores
from taigs.phantom import phantom_scene, phantom_tilt_series, phantom_volume
from taigs.report import Figure, curves_figure, fsc_figure, power_spectrum_figure, write_report
from taigs.run_record import RunRecord
from taigs.sirt import sirt
from taigs.slices import AXES, SAME_CONTRAST, TILT_PLANES, matched_ranges, slices_of
from taigs.tilt import reconstruct_tilt_series
from taigs.views import Grid, Views

PIXEL_SIZE = 8.0  # Angstrom
MAX_TILT = 60.0  # degrees
SNR = 0.2
SIRT_ITERATIONS = 30
SCORES = {"ncc": "NCC", "fsc_measured": "FSC, measured region", "fsc_wedge": "FSC, missing wedge"}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: ``scores[method]`` is a dict with the keys of `SCORES` and ``seconds``."""

    scores: dict
    verdict: str


def run_demo(directory, seed, progress, size=128, thickness=48, n_views=41):
    """Simulate, reconstruct with every method, score against the truth, write maps and report.

    Parameters
    ----------
    directory : taigs.report.RunDirectory
    seed : int
        Of the scene, the noise and the fit.
    progress : taigs.progress.Progress
    size, thickness : int
        Width and height of the images, and thickness of the volume, in pixels of 8 Angstrom.
    n_views : int
        Images, evenly from -60 to 60 degrees.

    Returns
    -------
    DemoResult
    """
    progress.stage("simulating")
    grid = Grid((thickness, size, size), PIXEL_SIZE)
    views, truth = simulate_views(grid, n_views, np.random.default_rng(seed))
    write_stack(directory / "tilt_series.mrc", views.images, PIXEL_SIZE, overwrite=True)
    write_volume(directory / "truth.mrc", truth, PIXEL_SIZE, overwrite=True)
    write_angles(directory / "tilt_series.tlt", views.tilt_angles, overwrite=True)

    result = reconstruct_tilt_series(views, thickness=thickness, seed=seed, progress=progress)
    volumes, seconds = {"taigs": result.volume}, {"taigs": result.seconds}
    for name, reconstruct in {
        "WBP": lambda: weighted_back_projection(views, grid),
        "SIRT": lambda: sirt(views, grid, SIRT_ITERATIONS, positive=False),
        "SIRT+": lambda: sirt(views, grid, SIRT_ITERATIONS, positive=True),
    }.items():
        progress.stage(f"comparing: {name}")
        started = time.perf_counter()
        volumes[name] = reconstruct()
        seconds[name] = time.perf_counter() - started

    progress.stage("scoring")
    scores = {
        name: wedge_scores(volume, truth, MAX_TILT) | {"seconds": seconds[name]} for name, volume in volumes.items()
    }
    for name, volume in volumes.items():
        file_name = {"taigs": "tomogram", "SIRT+": "sirt_positive"}.get(name, name.lower())
        write_volume(directory / f"{file_name}.mrc", volume, PIXEL_SIZE, overwrite=True)
    write_cloud(directory / "model.npz", result.cloud, PIXEL_SIZE, truth.shape, overwrite=True)
    write_held_out(directory / "held_out.npz", result, views, overwrite=True)
    for row in result.history:
        directory.log_metrics(row)
    verdict = describe_scores(scores)
    _write_report(directory, result, scores, verdict, volumes, truth, views)
    return DemoResult(scores, verdict)


def simulate_views(grid, n_views, rng):
    """(views, truth): images of a random scene tilted from -60 to 60 degrees, and the scene on the grid."""
    nz, ny, nx = grid.shape
    scene = phantom_scene(rng, np.array([nx, ny, nz]) * grid.voxel_size)
    angles = np.linspace(-MAX_TILT, MAX_TILT, n_views)
    stack, _ = phantom_tilt_series(scene, angles, (ny, nx), grid.voxel_size, SNR, rng)
    projections, shifts = imod_views_geometry(angles)
    views = Views(
        images=stack,
        projections=projections,
        shifts=shifts,
        pixel_size=grid.voxel_size,
        centre=np.array([(nx - 1) / 2, (ny - 1) / 2]),
        weights=np.ones(n_views),
        tilt_angles=angles,
        names=tuple(f"{v + 1}@tilt_series.mrc" for v in range(n_views)),
    )
    return views, phantom_volume(scene, grid).astype(np.float32)


def describe_scores(scores):
    """The comparison in a sentence, whichever way it came out."""
    others = [name for name in scores if name != "taigs"]
    ahead = [label for key, label in SCORES.items() if scores["taigs"][key] > max(scores[n][key] for n in others)]
    behind = [label for label in SCORES.values() if label not in ahead]
    if not behind:
        text = "taigs is closest to the truth in all three scores"
    elif not ahead:
        text = "taigs is not the closest to the truth in any of the three scores"
    else:
        text = f"taigs is closest to the truth in {' and '.join(ahead)}, but not in {' and '.join(behind)}"
    rest = ", ".join(f"{scores[name]['ncc']:.2f} for {name}" for name in others)
    return f"{text}: NCC {scores['taigs']['ncc']:.2f}, against {rest}."


def results_table(result):
    """The scores as a Rich table."""
    from rich.table import Table

    table = Table(title="Agreement with the truth (1 is perfect)")
    table.add_column("method")
    for label in (*SCORES.values(), "seconds"):
        table.add_column(label, justify="right")
    for name, row in result.scores.items():
        table.add_row(name, *(f"{row[key]:.3f}" for key in SCORES), f"{row['seconds']:.1f}")
    return table


def _write_report(directory, result, scores, verdict, volumes, truth, views):
    shown = volumes | {"truth": truth}
    nz, ny, nx = truth.shape
    n = max(truth.shape)
    frequency = np.arange(n // 2 + 1) / (n * PIXEL_SIZE)
    curves = {name: (frequency, fsc(volume, truth)[0]) for name, volume in volumes.items()}
    write_report(
        directory / "report.html",
        title="taigs demo: a simulated tilt series",
        verdict=verdict,
        summary=[
            ("Volume (x, y, z)", f"{nx} x {ny} x {nz}"),
            ("Voxel size", f"{PIXEL_SIZE:.2f} Å"),
            ("Views", f"{len(views)}, ±{MAX_TILT:.0f}°"),
            ("Signal to noise", f"{SNR} (variance)"),
            ("Gaussians", f"{len(result.cloud):,}"),
            ("Fit", f"{result.seconds:.0f} s"),
        ],
        slices=slices_of(
            shown,
            matched_ranges(shown, "truth"),
            PIXEL_SIZE,
            f"{TILT_PLANES} {AXES} {SAME_CONTRAST.format('the truth')}",
        ),
        tables=[
            (
                "Agreement with the truth, without a mask: 1 is perfect, 0 is chance. FSC is the mean over "
                "all shells up to Nyquist.",
                ("method", *SCORES.values(), "time"),
                [(m, *(row[k] for k in SCORES), f"{row['seconds']:.1f} s") for m, row in scores.items()],
            )
        ],
        figures=[
            Figure(
                "Power in the XZ plane of Fourier space, averaged over y, logarithmic, each on its own "
                "scale. The dark wedge about the vertical axis was not measured.",
                power_spectrum_figure(shown, PIXEL_SIZE),
            ),
            Figure("Fourier shell correlation with the truth.", fsc_figure(curves)),
            Figure(
                "The fit, step by step. Loss and score are mean squared differences per pixel, in units of the noise's "
                "variance: noise alone is about 1.",
                curves_figure(result.history),
            ),
        ],
        notes=[
            f"SIRT and SIRT+ (with positivity, on images of mean zero) ran {SIRT_ITERATIONS} iterations.",
            "The scene is made of Gaussians, as the model is, but rendered by other code.",
            "Times include compiling the kernels, which happens once per machine.",
        ],
        record=RunRecord.of_folder(directory),
        timings={name: row["seconds"] for name, row in scores.items()},
    )
