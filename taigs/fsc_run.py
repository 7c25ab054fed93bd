"""`taigs fsc`: the figures of two half maps, and everything the command leaves in its folder."""

import logging
import os
import time
import warnings
from dataclasses import dataclass

import numpy as np

from taigs.anisotropy import HALF_ANGLE_DEG, LOW_CFAR, DirectionalFsc, directional_fsc
from taigs.errors import RefusedError
from taigs.half_maps import AUTO_MASK
from taigs.io.fsc_files import write_fsc_csv, write_fsc_xml, write_postprocess_star
from taigs.io.mrc import write_volume
from taigs.metrics import describe_crossing, mean_fsc
from taigs.report import Figure, fsc_figure, write_report
from taigs.resolution import HalfMapFsc, crossing_table, half_map_fsc, in_words
from taigs.run_record import RunRecord
from taigs.sharpening import Sharpened, sharpen
from taigs.slices import AXES, SAME_CONTRAST, matched_ranges, own_range, slices_of

log = logging.getLogger("taigs")
REPRODUCIBLE_NOT_TRUE = (
    "A half-map FSC says how well two independent reconstructions agree, not how true they are: what both share, "
    "such as a reference, a mask or the smoothness of a model, raises it too."
)


@dataclass(frozen=True)
class Outcome:
    """What `score` found."""

    fsc: HalfMapFsc
    cones: DirectionalFsc
    sharpened: Sharpened | None
    seconds: float

    @property
    def verdict(self):
        """The figures to quote, in a sentence."""
        kind = "unmasked" if self.fsc.masked is None else "corrected for the mask"
        found = self.fsc.crossing()
        # "FSC 0.143 not crossed: at or beyond Nyquist" must never read as a resolution.
        start = f"FSC 0.143 {in_words(found)}" if found is None else f"{in_words(found)} at FSC 0.143"
        return f"{start}, {kind}; cFAR {self.cones.cfar:.2f}."

    @property
    def directions(self):
        """How the cones differ, in words."""
        found = self.cones.resolutions
        crossed = found[~np.isnan(found)]
        cones = f"cFAR {self.cones.cfar:.2f} (SIMPLE definition), {len(found)} cones of {HALF_ANGLE_DEG:.0f}° at 0.143"
        if len(crossed) == 0:
            return f"{cones}: none crossed"
        ends = f"{crossed.min():.2f} to {crossed.max():.2f} Å, standard deviation {crossed.std():.2f} Å"
        if len(crossed) < len(found):
            ends += f", {len(found) - len(crossed)} not crossed"
        return f"{cones}: {ends}"


def score(halves, bfactor=None, seed=0, progress=None):
    """Every figure of two half maps.

    Parameters
    ----------
    halves : HalfMaps
    bfactor : float or "auto", optional
        Sharpen the average too.
    seed : int
        Of the random phases.
    progress : Progress, optional

    Returns
    -------
    Outcome

    Warns
    -----
    UserWarning
        What speaks against quoting the figures.
    """
    started = time.perf_counter()
    if progress:
        progress.stage("Fourier shell correlation")
    fsc = half_map_fsc(*halves.volumes, halves.voxel_size, halves.mask, seed)
    for text in fsc.warnings:
        warnings.warn(text, stacklevel=2)
    if progress:
        progress.stage("directions")
    cones = directional_fsc(*halves.volumes, halves.voxel_size, halves.mask)
    if cones.cfar < LOW_CFAR:
        x, y, z = cones.worst_axis
        warnings.warn(
            f"cFAR {cones.cfar:.2f}: the resolution depends on the direction, worst about x, y, z = "
            f"({x:.2f}, {y:.2f}, {z:.2f}), as after preferred orientation or a missing wedge",
            stacklevel=2,
        )
    sharpened = None
    if bfactor is not None:
        sharpened = sharpen(halves.average, halves.voxel_size, None if bfactor == "auto" else bfactor, fsc.best)
    return Outcome(fsc, cones, sharpened, time.perf_counter() - started)


def describe(halves, outcome):
    """The lines that the command prints."""
    header, rows = crossing_table(outcome.fsc)
    missing = describe_crossing(None)
    cells = [header] + [(name, f"{mean:.3f}", *(c.split(":")[0] for c in found)) for name, mean, *found in rows]
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    pairs = [
        ("half maps", " and ".join(halves.names)),
        ("box", f"{halves.box} voxels of {halves.voxel_size:g} Å (x, y, z)"),
        ("mask", halves.mask_words),
        ("directions", outcome.directions),
    ]
    if outcome.sharpened is not None:
        pairs.append(("B-factor", f"{outcome.sharpened.bfactor:.1f} Å²"))
    lines = [f"{label:<12}{value}" for label, value in pairs]
    lines += ["", *("".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)]
    if any(missing in row for row in rows):
        lines.append(f"({missing}, {2 * halves.voxel_size:.2f} Å)")
    return [*lines, "", outcome.verdict]


def refuse_inputs_as_outputs(directory, inputs):
    """RefusedError if a file that `write_results` may replace is one of the inputs."""
    for name in (AUTO_MASK, "sharpened.mrc", "postprocess.star", "fsc.csv", "fsc.xml", "report.html"):
        for path in inputs:
            if (directory / name).exists() and path.exists() and path.samefile(directory / name):
                raise RefusedError(f"{path}: would be overwritten; try another folder")


def write_results(directory, halves, outcome, notes):
    """Write fsc.csv, postprocess.star, fsc.xml, report.html, and the maps that were made.

    Parameters
    ----------
    directory : RunDirectory
        Begun.
    halves : HalfMaps
    outcome : Outcome
    notes : list of str
        For the report.
    """
    mask_name = halves.mask_name
    if mask_name == AUTO_MASK:
        mask_name = directory / AUTO_MASK
        write_volume(mask_name, halves.mask, halves.voxel_size, overwrite=True)
    if outcome.sharpened is not None:
        label = f"taigs: average, FSC-weighted, B {outcome.sharpened.bfactor:.1f} A^2"
        write_volume(
            directory / "sharpened.mrc", outcome.sharpened.volume, halves.voxel_size, overwrite=True, label=label
        )
    write_fsc_csv(directory / "fsc.csv", outcome.fsc, outcome.cones, overwrite=True)
    write_fsc_xml(directory / "fsc.xml", outcome.fsc, overwrite=True)
    write_postprocess_star(
        directory / "postprocess.star", outcome.fsc, halves.names, mask_name, outcome.sharpened, overwrite=True
    )
    log.info("%s", outcome.verdict)
    _write_report(directory, halves, outcome, notes)


def _write_report(directory, halves, outcome, notes):
    fsc, cones = outcome.fsc, outcome.cones
    header, rows = crossing_table(fsc)
    volumes = {"half 1": halves.volumes[0], "half 2": halves.volumes[1]}
    ranges = matched_ranges(volumes, "half 1")
    if halves.mask is not None:
        volumes["mask"], ranges["mask"] = halves.mask, (0, 1)
    if outcome.sharpened is not None:
        volumes["sharpened"], ranges["sharpened"] = outcome.sharpened.volume, own_range(outcome.sharpened.volume)
    mean, _, low, high = cones.spread
    curves = {
        "mean of the cones": mean,
        "lowest": low,
        "highest": high,
        "worst cone": cones.curves[cones.areas.argmin()],
    }
    summary = [
        ("Resolution at 0.143", in_words(fsc.crossing())),
        ("Resolution, RELION's way", in_words(fsc.relion_crossing())),
        ("Mean FSC", mean_fsc(fsc.best)),
        ("cFAR (SIMPLE definition)", cones.cfar),
        ("Box (x, y, z)", f"{halves.box}, {halves.voxel_size:g} Å"),
        ("Mask", "none" if halves.mask is None else f"{halves.mask.mean(dtype=np.float64):.1%} of the box"),
    ]
    if outcome.sharpened is not None:
        summary.append(("B-factor", f"{outcome.sharpened.bfactor:.0f} Å²"))
    write_report(
        directory / "report.html",
        title="taigs fsc: " + " and ".join(os.path.basename(name) for name in halves.names),
        verdict=outcome.verdict,
        summary=summary,
        slices=slices_of(
            volumes,
            ranges,
            halves.voxel_size,
            f"{AXES} {SAME_CONTRAST.format('half 1')} Mask and sharpened map, where shown, have their own scales.",
        ),
        tables=[("First crossings, linear between shells, and RELION's: the last shell before.", header, rows)],
        figures=[
            Figure(
                "Fourier shell correlation of the half maps, with the thresholds 0.5 and 0.143.",
                fsc_figure({name: (fsc.frequency, curve) for name, curve in fsc.curves.items()}),
            ),
            Figure(
                f"The same{'' if fsc.masked is None else ', masked,'} within {len(cones.axes)} double cones of "
                f"{HALF_ANGLE_DEG:.0f}°: mean and extremes in each shell, and the cone with the smallest area.",
                fsc_figure({name: (cones.frequency, curve) for name, curve in curves.items()}),
            ),
        ],
        notes=[*notes, REPRODUCIBLE_NOT_TRUE, outcome.directions + ". In a small box noise alone lowers the cFAR."],
        record=RunRecord.of_folder(directory),
        settings={"mask": halves.mask_words},
        timings={"scoring": outcome.seconds},
    )
