"""What a finished run predicts of images that it did not see, beside the standard methods: `taigs evaluate`."""

import csv
from pathlib import Path

import numpy as np

from taigs.errors import InputError, TaigsError
from taigs.held_out import read_held_out, unexplained
from taigs.io.mrc import read_volume
from taigs.run_input import has_tilt_series, read_config, read_run_particles, read_run_tilt_series

SAME_IMAGE = 0.999  # correlation of an image of the run with the same one read again
SAME_CURVE = 1e-3  # of ring correlations, whichever backend computed them
CHOSEN = "the same views decided when the fit and SIRT stopped, so both are slightly flattered; WBP is not"


def evaluate_run(run, progress=None):
    """Score a finished run by images that it did not see.

    Of a tilt series: the views that were held out, as they were predicted from the others. Of particles: each
    half map against the images of the other half, which are read again. Taichi must have been started for these.

    Parameters
    ----------
    run : path-like
        Folder of `taigs tilt`, `taigs demo` or `taigs spa`.
    progress : Progress, optional

    Returns
    -------
    dict
        ``run``, ``kind`` ("tilt" or "spa"), ``verdict``, ``notes`` and ``warnings`` in words.
        "tilt": ``views`` (number in the stack, from 1), ``tilt_angles_deg``, ``noise`` (estimated share of each
        image's variance that is noise) and in ``methods``, by name, ``correlation`` and ``unexplained`` of each
        view: the share of its variance that the best gain and offset leave.
        "spa": ``resolution_A`` of each shell (None: infinite); in ``ring_correlation``, by name, the correlation
        in each shell of a half map with the images of the other half, mean of both; ``pose_t`` and ``pose_share``
        as `taigs.pose_control.PoseControl`.

    Raises
    ------
    InputError
        The folder holds no such run, the run is not finished, or its particles are gone.
    """
    run = Path(run)
    if not run.is_dir():
        what = "is a file" if run.exists() else "no such folder"
        raise InputError(f"{run}: {what}; expected the folder of a run of taigs tilt or taigs spa")
    if (run / "held_out.npz").exists():
        return _evaluate_tilt_series(run)
    if "particles" in read_config(run):
        return _evaluate_particles(run, progress)
    if has_tilt_series(run):
        raise InputError(f"{run}: no held_out.npz, which a finished run leaves; try taigs tilt again")
    raise InputError(f"{run}: holds no run of taigs tilt or taigs spa; expected one's folder")


# --- tilt series ---------------------------------------------------------------------------------


def _evaluate_tilt_series(run):
    held_out = read_held_out(run / "held_out.npz")
    correlations = held_out.correlations()
    note, warnings = _compared_with_the_stack(run, held_out)
    return {
        "run": str(run),
        "kind": "tilt",
        "views": held_out.numbers.tolist(),
        "tilt_angles_deg": held_out.tilt_angles.tolist(),
        "noise": held_out.noise().tolist(),
        "methods": {
            name: {"correlation": found.tolist(), "unexplained": unexplained(found).tolist()}
            for name, found in correlations.items()
        },
        "verdict": _tilt_verdict(correlations, held_out.noise()),
        "notes": [note, CHOSEN],
        "warnings": warnings,
    }


def _tilt_verdict(correlations, noise):
    from taigs.tilt_run import describe_held_out

    own, *others = (f"{name} {unexplained(found).mean():.1%}" for name, found in correlations.items())
    return (
        f"{describe_held_out(correlations)} Unexplained of their variance: {own}; {', '.join(others)}; noise alone is "
        f"about {noise.mean():.1%}."
    )


def _compared_with_the_stack(run, held_out):
    """(where the images come from, warnings): those that the run kept should still be those of the stack."""
    kept = "images as the run kept them"
    try:
        views = read_run_tilt_series(run)
    except TaigsError as error:
        return f"{kept} ({error})", []
    order = {int(name.split("@")[0]): i for i, name in enumerate(views.names)}
    for number, image in zip(held_out.numbers.tolist(), held_out.measured, strict=True):
        again = views.images[order[number]] if number in order else None
        same = again is not None and again.shape == image.shape
        if not same or np.corrcoef(again.ravel(), image.ravel())[0, 1] < SAME_IMAGE:
            stack = views.names[0].split("@", 1)[1]
            return kept, [f"{stack}: image {number} is not the one that {run} was made from"]
    return f"{kept}, which are those of the stack", []


# --- particles -----------------------------------------------------------------------------------


def _evaluate_particles(run, progress):
    from taigs.journal import Journal
    from taigs.parallel import Alone
    from taigs.particle_data import deal_half_sets, gather
    from taigs.pose_control import control_poses
    from taigs.progress import NoProgress
    from taigs.spa import DEALT
    from taigs.symmetry import symmetry_matrices
    from taigs.volume_objective import ring_correlation

    seed, symmetry, contrast = _settings(run)
    views = read_run_particles(run)
    maps = {
        name: _half_maps(run, prefix, views.image_shape[0])
        for name, prefix in (("taigs", ""), ("direct Fourier", "direct_"))
    }
    half_sets, own = deal_half_sets(views, np.random.default_rng([seed, 3]))  # as `reconstruct_particles`
    operators = symmetry_matrices(symmetry)
    sets, _ = gather(views, half_sets, operators, contrast, progress or NoProgress(), Journal(), Alone())
    rings = {
        name: np.mean([ring_correlation(sets[1 - half].data, pair[half]) for half in (0, 1)], axis=0)
        for name, pair in maps.items()
    }
    control = control_poses(views, half_sets, maps["taigs"], seed)
    rings["poses interchanged"] = control.interchanged
    n, shells = views.image_shape[0], np.arange(1, len(rings["taigs"]))
    note, warnings = _compared_with_the_run(run, rings["taigs"])
    return {
        "run": str(run),
        "kind": "spa",
        "resolution_A": [None, *(n * views.pixel_size / shells).tolist()],
        "ring_correlation": {name: found.tolist() for name, found in rings.items()},
        "pose_t": control.t,
        "pose_share": control.share,
        "verdict": _particle_verdict(rings, control),
        "notes": [note, *([] if own else [DEALT])],
        "warnings": warnings,
    }


def _settings(run):
    """(seed, point group, contrast) of a run of `taigs spa`."""
    config = read_config(run)
    try:
        return int(config["seed"]), str(config["sym"]), str(config["contrast"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{run}/config.json: lacks seed, sym or contrast; expected the settings of a run") from None


def _half_maps(run, prefix, n):
    pair = []
    for path in (run / f"{prefix}half{half}.mrc" for half in (1, 2)):
        volume, _ = read_volume(path)
        if volume.shape != (n, n, n):
            raise InputError(f"{path}: shape {volume.shape}; expected {n} voxels on every axis, as the images have")
        pair.append(volume)
    return pair


def _particle_verdict(rings, control):
    own, direct, interchanged = (found[1:].mean() for found in rings.values())
    text = (
        f"The half models {'' if own > direct else 'do not '}agree better with the images of the other half than the "
        f"direct Fourier maps: mean ring correlation {own:.4f}, against {direct:.4f}; with poses interchanged among "
        f"the particles {interchanged:.4f}."
    )
    if control.failed:
        text += (
            f" But images fit no better in their own poses than in those of other particles (t = {control.t:.1f}): "
            "the poses are probably wrong, and the figures say nothing about the structure."
        )
    return text


def _compared_with_the_run(run, rings):
    """(where the figures come from, warnings): the run should have found the same."""
    try:
        with open(run / "fsc.csv", newline="", encoding="utf-8") as file:
            found = np.array([float(row["ring_correlation"]) for row in csv.DictReader(file)])
    except (OSError, KeyError, ValueError):
        return "images read again; the run's own figures (fsc.csv) are gone", []
    if found.shape != rings.shape or np.abs(found - rings).max() > SAME_CURVE:
        return "images read again", [f"{run}: its fsc.csv has other figures; are these its images and its half maps?"]
    return "images read again; the figures are those of the run's fsc.csv", []


# --- words ---------------------------------------------------------------------------------------


def describe(scores):
    """The lines that the command prints."""
    rows = _tilt_rows(scores) if scores["kind"] == "tilt" else _particle_rows(scores)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [*lines, "", scores["verdict"]]


def _tilt_rows(scores):
    methods = scores["methods"]
    columns = [np.array(method[key]) for key in ("correlation", "unexplained") for method in methods.values()]
    columns.append(np.array(scores["noise"]))
    head = [f"{kind} {name}" for kind in ("CC", "residual") for name in methods]
    rows = [("view", "tilt", *head, "noise alone")]
    rows += [
        (str(number), f"{angle:.1f}°", *(f"{column[i]:.4f}" for column in columns))
        for i, (number, angle) in enumerate(zip(scores["views"], scores["tilt_angles_deg"], strict=True))
    ]
    return [*rows, ("mean", "", *(f"{column.mean():.4f}" for column in columns))]


def _particle_rows(scores):
    columns = [np.array(column) for column in scores["ring_correlation"].values()]
    rows = [("shell", "resolution", *scores["ring_correlation"])]
    rows += [
        (str(shell), f"{scores['resolution_A'][shell]:.2f} Å", *(f"{column[shell]:.4f}" for column in columns))
        for shell in range(1, len(columns[0]))
    ]
    return [*rows, ("mean", "", *(f"{column[1:].mean():.4f}" for column in columns))]
