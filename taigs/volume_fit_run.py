"""`taigs fit`: a map file made into model.npz, with the table of size against fidelity."""

from pathlib import Path

import numpy as np

from taigs.errors import InputError, RefusedError, ResourceError
from taigs.io.clouds import write_cloud
from taigs.io.mrc import read_volume
from taigs.metrics import describe_crossing, ncc
from taigs.report import Figure, fsc_figure, slices_figure, write_report
from taigs.volume_fit import fit_volume

EXTENSIONS = (".mrc", ".map", ".rec", ".ccp4")
COMPRESSED = (".gz", ".bz2")
ANISOTROPY = 0.01  # largest spread of the voxel's edges
BACKGROUND = 0.5  # standard deviations of the map: a median further from 0 is worth a word
HEAD = ("Gaussians", "kB", "voxels / model", "CC", "FSC 0.5", "seconds")
NEGATIVE = 0.995  # CC of the map with its positive part, below which that limits a cloud worth mentioning


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
    best = ncc(np.maximum(volume, 0), volume)
    if not signed and volume.max() > 0 and best < NEGATIVE:
        notes.append(f"without --signed, negative density limits the CC to about {best:.3f}")
    return notes


def run_fit(path, output, *, pixel_size, settings, report, overwrite, say, progress):
    """Fit a map file and write model.npz, and a report of the same name if wanted.

    Parameters
    ----------
    settings : dict
        Of `fit_volume`, by name.
    report : bool
    say : function of a str
        Told what was decided while reading.
    progress : Progress

    Returns
    -------
    VolumeFit
    """
    volume, header, voxel_size, origin = read_map(path, pixel_size)
    notes = remarks(volume, settings["contour"], settings["signed"])
    for note in notes:
        say(f"note: {note}")
    try:
        result = fit_volume(volume, voxel_size, **settings, bytes_per_voxel=header.dtype.itemsize, progress=progress)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    write_cloud(output, result.cloud, voxel_size, volume.shape, overwrite, origin=origin)
    if report:
        _write_report(Path(output).with_suffix(".html"), path, volume, result, notes, settings)
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


def _write_report(path, source, volume, result, notes, settings):
    last, size = result.rows[-1], result.grid.voxel_size
    nz, ny, nx = volume.shape
    frequency = np.arange(len(result.curve)) / (max(volume.shape) * size)
    write_report(
        path,
        title=f"taigs fit: {Path(source).name}",
        verdict=f"{last.gaussians:,} Gaussians reach a correlation of {last.cc:.4f} with the map at 1/{last.ratio:.1f} "
        f"of its bytes; FSC 0.5: {describe_crossing(last.resolution)}. Why no more: {result.reason}.",
        summary=[
            ("Volume (x, y, z)", f"{nx} x {ny} x {nz}"),
            ("Voxel size", f"{size:.3g} Å"),
            ("Gaussians", f"{last.gaussians:,}"),
            ("Time", f"{last.seconds:.0f} s"),
        ],
        tables=[("Size against fidelity, after each densification", HEAD, [_cells(row) for row in result.rows])],
        figures=[
            Figure(
                "Central slices, XY and XZ: the map, the model, and their difference. Grey values from the 0.5 to "
                "the 99.7 percentile of each one's slices.",
                slices_figure({"map": volume, "model": result.volume, "map - model": volume - result.volume}, size),
            ),
            Figure("FSC of the model with the map.", fsc_figure({"model": (frequency, result.curve)}, levels=(0.5,))),
        ],
        notes=[*notes, "The FSC is with the very map that was fitted, noise included: it says how much of the map "
               "the model keeps, not how good the map is."],
        settings=settings,
    )  # fmt: skip
