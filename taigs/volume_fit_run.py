"""`taigs fit`: a map file made into model.npz, with the table of size against fidelity."""

from pathlib import Path

import numpy as np

from taigs.errors import InputError, RefusedError, ResourceError
from taigs.fit_verdict import fidelity_in_words, fsc_limit, negative_limit
from taigs.io.clouds import write_cloud
from taigs.io.mrc import read_volume
from taigs.report import Figure, fsc_figure, write_report
from taigs.slices import AXES, own_range, slices_of
from taigs.views import Grid
from taigs.volume_fit import checked, fit_volume, prepared

EXTENSIONS = (".mrc", ".map", ".rec", ".ccp4")
COMPRESSED = (".gz", ".bz2")
ANISOTROPY = 0.01  # largest spread of the voxel's edges
BACKGROUND = 0.5  # standard deviations of the map: a median further from 0 is worth a word
SELF_FSC = (
    "The FSC is with the very map that was fitted, noise included: it says how much of the map the model keeps, not "
    "how good the map is."
)
HEAD = ("Gaussians", "kB", "voxels / model", "CC", "FSC 0.5", "seconds")


def check_names(path, output, report, overwrite):
    """Refuse names that cannot be read or written, before anything is computed."""
    name = Path(path).name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    if not name.endswith(EXTENSIONS):
        raise InputError(f"{path}: unknown kind of map; expected {', '.join(EXTENSIONS)}, also as .gz or .bz2")
    if output.suffix.lower() != ".npz":
        raise InputError(f'{output}: unknown kind of model "{output.suffix}"; expected .npz')
    if not output.parent.is_dir():
        raise ResourceError(f"{output.parent}: no such folder; try mkdir first")
    for file in (output, output.with_suffix(".html")) if report else (output,):
        if file.is_dir() or (file.exists() and not overwrite):
            raise RefusedError(f"{file}: exists already; try another name, or --overwrite for a file")


def read_map(path, pixel_size=None):
    """(volume [z, y, x], header, voxel size, origin (x, y, z)) of a map; sizes in Angstrom.

    Raises
    ------
    InputError
        The file is no map, or its voxels are not cubes of known size.
    """
    volume, header = read_volume(path)
    size = header.voxel_size
    if pixel_size is None and size is None:
        raise InputError(f"{path}: no voxel size in the header; try --pixel-size")
    if pixel_size is None and max(size) > (1 + ANISOTROPY) * min(size):
        edges = " x ".join(f"{edge:g}" for edge in size)
        raise InputError(f"{path}: voxels of {edges} Å; expected cubes to 1 %; resample the map first")
    voxel_size = float(np.mean(size)) if pixel_size is None else pixel_size
    return volume, header, voxel_size, header.first_voxel(voxel_size)


def remarks(volume, contour, signed):
    """What about a map decides how well it can be fitted: a list of sentences."""
    if not np.isfinite(volume).all():
        return []  # refused in a moment
    notes = []
    if contour is not None:
        what = "nearer to 0 than" if signed else "below"
        share = np.mean((np.abs(volume) if signed else volume) < contour)
        return [f"{share:.1%} of the voxels, {what} {contour:g}, are set to 0; fidelity is judged against that"]
    if abs(np.median(volume)) > BACKGROUND * volume.std(dtype=np.float64) > 0:
        notes.append(f"the median of the map is {np.median(volume):.3g}: a background costs Gaussians; try --contour")
    if limit := negative_limit(volume, signed):
        notes.append(limit)
    return notes


def planned_levels(path, pixel_size, settings, say):
    """Gaussians of each level that `run_fit` would fit at most; the map is read and checked as it does."""
    volume, header, voxel_size, _ = read_map(path, pixel_size)
    for note in remarks(volume, settings["contour"], settings["signed"]):
        say(f"note: {note}")
    of_map = {name: value for name, value in settings.items() if name != "seed"}
    try:
        grid = Grid(volume.shape, voxel_size)
        return checked(volume, grid, **of_map, bytes_per_voxel=header.dtype.itemsize)[2]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def run_fit(path, output, *, pixel_size, settings, report, overwrite, say, progress, journal, record=None):
    """Fit a map file and write model.npz, and a report of the same name if wanted.

    Parameters
    ----------
    settings : dict
        Of `fit_volume`, by name.
    report : bool
    record : RunRecord, optional
        For the report.
    say : function of a str
        Told what was decided while reading.
    progress : Progress
    journal : Journal
        Removed by the caller once the model is written.

    Returns
    -------
    VolumeFit
    """
    volume, header, voxel_size, origin = read_map(path, pixel_size)
    notes = remarks(volume, settings["contour"], settings["signed"])
    for note in notes:
        say(f"note: {note}")
    try:
        result = fit_volume(
            volume,
            voxel_size,
            **settings,
            bytes_per_voxel=header.dtype.itemsize,
            progress=journal.watch(progress),
            journal=journal,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    write_cloud(output, result.cloud, voxel_size, volume.shape, overwrite, origin=origin)
    progress.stage("what limits the FSC")
    target = prepared(volume, settings["contour"], settings["signed"])
    limit = fsc_limit(result, target)
    if limit:
        say(f"note: {limit}")
    if report:
        _write_report(Path(output).with_suffix(".html"), path, target, result, limit, notes, record)
    return result


def table(rows):
    """Lines of the table of size against fidelity."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]


def _cells(row):
    reach = "Nyquist" if row.resolution is None else f"{row.resolution:.2f} Å"
    size = f"{row.n_bytes / 1e3:,.0f}"
    return (f"{row.gaussians:,}", size, f"{row.ratio:.1f}", f"{row.cc:.4f}", reach, f"{row.seconds:.1f}")


def _write_report(path, source, target, result, limit, notes, record):
    last, size = result.rows[-1], result.grid.voxel_size
    nz, ny, nx = target.shape
    frequency = np.arange(len(result.curve)) / (max(target.shape) * size)
    negative = negative_limit(target, result.cloud.signed)
    stopped = f"Why no more: {result.reason}{negative and '; ' + negative}."
    write_report(
        path,
        title=f"taigs fit: {Path(source).name}",
        verdict="\n".join(filter(None, (fidelity_in_words(result, target), stopped, limit))),
        summary=[
            ("Volume (x, y, z)", f"{nx} x {ny} x {nz}"),
            ("Voxel size", f"{size:.3g} Å"),
            ("Gaussians", f"{last.gaussians:,}"),
            ("Voxels / model, bytes", f"{last.ratio:.1f}"),
            ("Correlation", f"{last.cc:.4f}"),
            ("Time", f"{last.seconds:.0f} s"),
        ],
        slices=_slices(target, result.volume, size),
        tables=[("Size against fidelity, after each densification.", HEAD, [_cells(row) for row in result.rows])],
        figures=[
            Figure(
                "Fourier shell correlation of the model with the map, and the threshold 0.5.",
                fsc_figure({"model with map": (frequency[1:], result.curve[1:])}, levels=(0.5,)),
            )
        ],
        notes=[*(note for note in notes if note != negative), SELF_FSC],
        record=record,
        timings={"fit": last.seconds},
    )


def _slices(target, fitted, voxel_size):
    """Map and model on one grey scale, and their difference about mid-grey."""
    difference = "map \N{MINUS SIGN} model"
    low, high = own_range(target)
    half = (high - low) / 2
    return slices_of(
        {"map": target, "model": fitted, difference: target - fitted},
        {"map": (low, high), "model": (low, high), difference: (-half, half)},
        voxel_size,
        f"{AXES} Map and model have one grey scale; their difference has the same contrast, about 0.",
    )
