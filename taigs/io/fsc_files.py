"""FSC curves as files: CSV for plotting, RELION's postprocess.star, and the XML that EMDB takes."""

import csv
import io
import xml.etree.ElementTree as ElementTree

import numpy as np

from taigs.io.mrc import atomic_file
from taigs.io.star import Table, write_star
from taigs.resolution import solvent_corrected

RELION_INFINITY = 999.0  # Angstrom: RELION's resolution of shell 0


def write_fsc_csv(path, result, directional=None, overwrite=False, more=None):
    """Write every curve as a column, a row for each shell; atomically.

    Parameters
    ----------
    path : path-like
    result : HalfMapFsc
    directional : DirectionalFsc, optional
        Adds mean, standard deviation, smallest and largest FSC of the cones.
    overwrite : bool
    more : dict of str to (S,) array, optional
        Further columns.

    Raises
    ------
    RefusedError, ResourceError
        As `taigs.io.mrc.atomic_file`.
    """
    columns = {"shell": result.shells, "frequency_per_A": result.frequency, "resolution_A": _angstrom(result, np.inf)}
    columns |= {name.replace("-", "_"): curve for name, curve in result.curves.items()}
    if result.draws is not None:
        columns["phase_randomised_sd"] = result.draws.std(axis=0)
    if directional is not None:
        columns |= dict(zip(("cone_mean", "cone_sd", "cone_min", "cone_max"), directional.spread, strict=True))
    columns |= more or {}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.6g}" for value in row] for row in zip(*columns.values(), strict=True))
    with atomic_file(path, overwrite) as file:
        file.write(text.getvalue().encode())


def write_fsc_xml(path, result, overwrite=False):
    """Write the curve to quote as EMDB's FSC XML; atomically. Raises as `write_fsc_csv`."""
    title = "Unmasked FSC of half maps" if result.masked is None else "Masked, corrected FSC of half maps"
    root = ElementTree.Element("fsc", {"title": title, "xaxis": "Resolution (A-1)", "yaxis": "Correlation Coefficient"})
    for frequency, value in zip(result.frequency, result.best, strict=True):
        coordinate = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(coordinate, "x").text = f"{frequency:.6g}"
        ElementTree.SubElement(coordinate, "y").text = f"{value:.6g}"
    ElementTree.indent(root)
    with atomic_file(path, overwrite) as file:
        file.write(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def write_postprocess_star(path, result, half_names, mask_name=None, sharpened=None, overwrite=False):
    """Write a postprocess.star as relion_postprocess 3.1 does: tables general, fsc and, if sharpened, guinier.

    Parameters
    ----------
    path : path-like
    result : HalfMapFsc
    half_names : (str, str)
        Files of the half maps.
    mask_name : str, optional
        File of the mask.
    sharpened : taigs.sharpening.Sharpened, optional
    overwrite : bool

    Raises
    ------
    RefusedError, ResourceError
        As `taigs.io.mrc.atomic_file`.

    Notes
    -----
    As in RELION, the resolution of a curve that never falls below 0.143 is that of the last shell.
    """
    tables = [
        Table("general", _general(result, half_names, mask_name, sharpened), is_loop=False),
        Table("fsc", _curves(result)),
    ]
    if sharpened is not None:
        tables.append(Table("guinier", _guinier(sharpened)))
    write_star(path, tables, overwrite)


def _general(result, half_names, mask_name, sharpened):
    last = result.n * result.voxel_size / result.shells[-1]
    general = {
        "rlnFinalResolution": result.relion_crossing() or last,
        "rlnBfactorUsedForSharpening": 0.0 if sharpened is None else sharpened.bfactor,
        "rlnUnfilteredMapHalf1": str(half_names[0]),
        "rlnUnfilteredMapHalf2": str(half_names[1]),
    }
    if result.masked is not None:
        general["rlnParticleBoxFractionSolventMask"] = result.solvent_ratio
        if mask_name is not None:
            general["rlnMaskName"] = str(mask_name)
        if result.randomise_from is not None:
            general["rlnRandomiseFrom"] = result.n * result.voxel_size / result.randomise_from
    if sharpened is not None and sharpened.guinier.slope is not None:
        general["rlnFittedSlopeGuinierPlot"] = sharpened.guinier.slope
        general["rlnFittedInterceptGuinierPlot"] = sharpened.guinier.intercept
        general["rlnCorrelationFitGuinierPlot"] = sharpened.guinier.correlation
    return {label: np.array([value]) for label, value in general.items()}


def _curves(result):
    resolution = _angstrom(result, RELION_INFINITY)
    columns = {
        "rlnSpectralIndex": result.shells,
        "rlnResolution": 1 / resolution,
        "rlnAngstromResolution": resolution,
    }
    if result.masked is None:
        return columns | {"rlnFourierShellCorrelationUnmaskedMaps": result.unmasked}
    columns |= {
        "rlnFourierShellCorrelationCorrected": result.corrected,
        "rlnFourierShellCorrelationParticleMaskFraction": solvent_corrected(result.unmasked, result.solvent_ratio),
        "rlnFourierShellCorrelationUnmaskedMaps": result.unmasked,
        "rlnFourierShellCorrelationMaskedMaps": result.masked,
    }
    if result.randomised is not None:
        columns["rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"] = result.randomised
    return columns


def _guinier(sharpened):
    guinier = sharpened.guinier
    columns = {
        "rlnResolutionSquared": guinier.resolution_squared,
        "rlnLogAmplitudesOriginal": guinier.original,
        "rlnLogAmplitudesWeighted": guinier.weighted,
        "rlnLogAmplitudesSharpened": guinier.sharpened,
    }
    if guinier.intercept is not None:
        columns["rlnLogAmplitudesIntercept"] = np.full(len(guinier.original), guinier.intercept)
    return columns


def _angstrom(result, first):
    """Resolution of each shell, Angstrom; `first` for shell 0."""
    return np.append(first, result.n * result.voxel_size / result.shells[1:])
