"""ChimeraX: a model as .bild spheres, and a .cxc script that opens a run.

Syntax: https://www.cgl.ucsf.edu/chimerax/docs/user/formats/bild.html and .../user/commands/. A script runs in its own
folder, so it names files relative to itself.
"""

import os
from pathlib import Path

import numpy as np

from taigs import __version__
from taigs.errors import InputError
from taigs.io.clouds import map_position
from taigs.io.mrc import atomic_file, open_stack
from taigs.io.pdb import write_cif

MAPS = ("map.mrc", "tomogram.mrc")
HALVES = ("half1.mrc", "half2.mrc")
COLOURS = {"map.mrc": "#b8c4d6", "tomogram.mrc": "#b8c4d6", "half1.mrc": "#e08214", "half2.mrc": "#5e8fc9"}
LEVELS = 16  # of colour
LIGHT, STRONG, NEGATIVE = np.array([(0.85, 0.85, 0.85), (0.80, 0.25, 0.10), (0.15, 0.35, 0.75)])
ENCLOSED = 0.02  # of a box lies within the contour: a particle fills some percent of its box, and so do proteins in ice
SAMPLES = 2_000_000  # voxels the level is taken from


def write_bild(path, cloud, header, overwrite=False):
    """Write a cloud as spheres: radius the mean sigma, grey to red by mass, blue if negative.

    BILD has no ellipsoids. Coordinates are those of the model's map, voxel 0 at its MRC origin.
    """
    positions = cloud.positions + map_position(header)
    radii = np.exp(cloud.log_sigmas).mean(axis=1)
    largest = np.abs(cloud.masses).max(initial=0) or 1.0
    steps = np.rint(cloud.masses / largest * LEVELS).astype(int)
    lines = [f".comment taigs {__version__}: Gaussians, Angstrom, frame of the map; radius: mean sigma; colour: mass"]
    for step in np.unique(steps):
        share = abs(step) / LEVELS
        lines.append(".color " + _numbers((1 - share) * LIGHT + share * (NEGATIVE if step < 0 else STRONG)))
        picked = steps == step
        lines += [f".sphere {_numbers([*xyz, r])}" for xyz, r in zip(positions[picked], radii[picked], strict=True)]
    with atomic_file(path, overwrite) as file:
        file.write(("\n".join(lines) + "\n").encode("ascii"))


def _numbers(values):
    return " ".join(f"{value:.3f}" for value in values)


def write_cxc(path, cloud, header, run, overwrite=False):
    """Write a script that opens a run's map, half maps and model; the model as .cif, written beside the script.

    Parameters
    ----------
    path : path
        .cxc
    cloud : GaussianCloud
    header : dict
        The model's.
    run : path
        Folder of map.mrc or tomogram.mrc, and perhaps of half1.mrc and half2.mrc.

    Returns
    -------
    Path
        The .cif.

    Raises
    ------
    InputError
        No map in that folder, or a script whose name does not end in .cxc.
    """
    path, run = Path(path), Path(run)
    if path.suffix.lower() != ".cxc":
        raise InputError(f"{path}: expected a name ending in .cxc, by which ChimeraX knows a script")
    maps = [run / name for name in (*MAPS, *HALVES) if (run / name).is_file()]
    if not maps or maps[0].name not in MAPS:
        raise InputError(f"{run}: no {' or '.join(MAPS)}; expected the folder of a run; try taigs voxelize, --to bild")
    lines = [f"# taigs {__version__}; for a ChimeraX without open models: open {path.name}"]
    for number, file in enumerate(maps, start=1):
        lines.append(f'open "{_relative(file, path)}"')
        lines.append(f"volume #{number} style surface level {contour_level(file):.6g} color {COLOURS[file.name]}")
    halves = [number for number, file in enumerate(maps, start=1) if file.name in HALVES]
    if halves:
        lines.append(f"hide #{','.join(map(str, halves))} models")
    model = len(maps) + 1
    radius = np.exp(np.median(cloud.log_sigmas)) if len(cloud) else 1.0
    cif = path.with_suffix(".cif")
    lines += [
        f'open "{cif.name}"',
        f"show #{model} atoms",
        f"style #{model} sphere",
        f"size #{model} atomRadius {radius:.3f}",
        f"color byattribute occupancy #{model} palette 0,#d8d8d8:1,#cc401a",
        f"# hidden, for it covers the map: show #{model} models; aniso #{model} draws the ellipsoids, slowly if many",
        f"hide #{model} models",
        "view",
    ]
    with atomic_file(path, overwrite) as file:
        write_cif(cif, cloud, header, overwrite)
        file.write(("\n".join(lines) + "\n").encode())
    return cif


def contour_level(path):
    """Density above which `ENCLOSED` of a map's voxels lie, from a sample of them."""
    sections = open_stack(path)[1]
    step = max(1, int(np.ceil((sections.size / SAMPLES) ** (1 / 3))))
    return float(np.quantile(sections[::step][:, ::step, ::step].astype(np.float64), 1 - ENCLOSED))


def _relative(file, script):
    """Path of a file as seen from the script's folder."""
    return Path(os.path.relpath(file.resolve(), script.resolve().parent)).as_posix()
