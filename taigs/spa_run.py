"""`taigs spa`: a reconstruction with everything it leaves in its folder."""

import logging
import time
import warnings
from dataclasses import dataclass

import numpy as np

from taigs import fsc_run, runtime
from taigs.errors import InputError
from taigs.half_maps import HalfMaps
from taigs.io.clouds import write_cloud
from taigs.io.fsc_files import write_fsc_csv, write_fsc_xml, write_postprocess_star
from taigs.io.mrc import write_volume
from taigs.masks import mask_from_map
from taigs.particle_data import deal_half_sets
from taigs.pose_control import PoseControl, control_poses
from taigs.resolution import in_words
from taigs.sharpening import sharpen
from taigs.spa import ParticleResult, reconstruct_particles
from taigs.spa_report import write_particle_report
from taigs.symmetry import symmetry_matrices

log = logging.getLogger("taigs")
LABEL = "taigs: image units per voxel, protein bright"
DIRECT_LABEL = "taigs: direct Fourier map, image units per voxel, protein bright"


@dataclass(frozen=True)
class Validation:
    """What tells how good a reconstruction is; the direct Fourier maps beside the taigs maps.

    Parameters
    ----------
    taigs, direct : fsc_run.Outcome
        FSC of the half maps, by direction too, under one mask.
    control : PoseControl
    agreement : dict
        As `ParticleResult.agreement`.
    mask : (n, n, n) array or None
    mask_words : str
    doubts : list of str
        What speaks against quoting the figures.
    """

    taigs: fsc_run.Outcome
    direct: fsc_run.Outcome
    control: PoseControl
    agreement: dict
    mask: np.ndarray | None
    mask_words: str
    doubts: list

    @property
    def mean_agreement(self):
        """Name -> mean ring correlation over shells 1 to Nyquist."""
        return {name: float(rings[1:].mean()) for name, rings in self.agreement.items()}


@dataclass(frozen=True)
class Verdict:
    """How a reconstruction came out: in a sentence or two, whether it failed, and the doubts."""

    text: str
    failed: bool
    doubts: list


def check(views, symmetry):
    """Refuse, before any work, what `reconstruct_particles` would refuse.

    Raises
    ------
    InputError
        Unknown point group, or fewer than two views in a half-set.
    """
    symmetry_matrices(symmetry)
    deal_half_sets(views, np.random.default_rng(0))


def run_spa(
    views,
    directory,
    *,
    symmetry,
    objective,
    init,
    contrast,
    mask,
    mask_name,
    bfactor,
    seed,
    notes,
    title,
    progress,
    ranks,
):
    """Reconstruct particles; write maps, half maps, direct Fourier maps, model, FSC curves and report.

    Parameters
    ----------
    views : Views
        Checked by `check`.
    directory : RunDirectory
        Begun.
    symmetry, objective, init, contrast, seed
        As `reconstruct_particles`.
    mask : (n, n, n) array or None
        For the masked FSC; default: made from the map.
    mask_name : str or None
    bfactor : float, "auto" or None
        Write map_sharpened.mrc.
    notes : list of str
        What was decided while reading, for the report.
    title : str
    progress : Progress
    ranks : taigs.parallel.Alone or Ranks
        The others are in `assist`.

    Returns
    -------
    Verdict
    """
    task = ranks.broadcast((views, symmetry, objective, init, contrast, seed))
    result = reconstruct_particles(*task, progress, directory.journal, ranks)
    pixel_size = views.pixel_size
    for name, volume in result.volumes.items():
        label = DIRECT_LABEL if name.startswith("direct") else LABEL
        write_volume(directory / f"{name}.mrc", volume, pixel_size, overwrite=True, label=label)
    shape, centre = result.volumes["map"].shape, (views.image_shape[0] // 2,) * 3
    write_cloud(
        directory / "model.npz", result.cloud, pixel_size, shape, overwrite=True, centre=centre, unit="per voxel"
    )
    for row in result.histories:
        directory.log_metrics(row)
    started = time.perf_counter()
    validation = validate(views, result, mask, mask_name, seed, progress)
    sharpened, doubts = _sharpened(result.volumes["map"], validation.taigs.fsc, bfactor)
    _write_curves(directory, validation, sharpened)
    verdict = Verdict(describe(validation), validation.control.failed, validation.doubts + doubts)
    log.info("%s", verdict.text)
    for name, value in result.settings.items():
        log.info("%s: %s", name, value)
    progress.stage("report")
    timings = result.seconds | {"resolution and control of the poses": time.perf_counter() - started}
    write_particle_report(directory, views, result, validation, sharpened, verdict, timings, notes, title)
    return verdict


def assist(ranks, arch, threads):
    """What all ranks but the first do: their share of `reconstruct_particles`, if rank 0 has work for them."""
    task = ranks.broadcast(None)
    if task is not None:
        runtime.init(arch, threads=threads or ranks.threads)
        reconstruct_particles(*task, ranks=ranks)


def validate(views, result: ParticleResult, mask, mask_name, seed, progress):
    """Every figure of a ParticleResult. Returns a Validation."""
    volumes, doubts = result.volumes, []
    if mask is not None:
        words = f"{mask_name}, {mask.mean(dtype=np.float64):.1%} of the box"
    else:
        progress.stage("mask")
        try:
            made = mask_from_map(volumes["map"], views.pixel_size)
            mask, words = made.mask, f"made from the map: low-pass {made.lowpass:.0f} Å, {made.fraction:.1%} of the box"
        except InputError as error:
            words = "none"
            doubts.append(f"no mask was made: {error}")
    outcomes = []
    for prefix, kind in (("", "half"), ("direct_", "direct")):
        progress.stage(f"FSC of the {kind} maps")
        names = (f"{prefix}half1.mrc", f"{prefix}half2.mrc")
        pair = (volumes[f"{prefix}half1"], volumes[f"{prefix}half2"])
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            halves = HalfMaps(names, pair, views.pixel_size, mask, mask_name, words)
            outcomes.append(fsc_run.score(halves, seed=seed))
        doubts += [str(warning.message) for warning in heard if not prefix]
    progress.stage("control of the poses")
    control = control_poses(views, result.half_sets, (volumes["half1"], volumes["half2"]), seed)
    return Validation(*outcomes, control, result.agreement, mask, words, doubts)


def _sharpened(volume, fsc, bfactor):
    """(Sharpened or None, what was warned of)."""
    if bfactor is None:
        return None, []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        sharpened = sharpen(volume, fsc.voxel_size, None if bfactor == "auto" else bfactor, fsc.best)
    return sharpened, [str(warning.message) for warning in heard]


def describe(validation):
    """The verdict in a sentence or two; no resolution where the poses do not matter."""
    control, means = validation.control, validation.mean_agreement
    ours, direct = means["taigs"], means["direct Fourier"]
    rings = f"Mean ring correlation with the images of the other half: taigs {ours:.4f}, direct Fourier {direct:.4f}"
    if control.failed:
        return (
            "The halves do not agree: images fit the other half's map no better in their own poses than in those of "
            f"other particles (the pose explains {max(control.share, 0):.0%} of the correlation, t = {control.t:.1f}). "
            "The poses are probably wrong, or else CTF, contrast or the frame of one half; there is no resolution to "
            f"quote. {rings}."
        )
    kind = "unmasked" if validation.taigs.fsc.masked is None else "corrected for the mask"
    return (
        f"taigs predicts the images of the other half {'better' if ours > direct else 'no better'} than the direct "
        f"Fourier map does: mean ring correlation {ours:.4f}, against {direct:.4f}. "
        f"Half maps: {_in_words(validation.taigs.fsc)}, {kind}; direct Fourier maps of the same images: "
        f"{_in_words(validation.direct.fsc)}."
    )


def _in_words(fsc):
    """ "FSC 0.143 not crossed: at or beyond Nyquist" must never read as a resolution."""
    found = fsc.crossing()
    if found is None:
        return f"FSC 0.143 {in_words(None)} ({2 * fsc.voxel_size:.2f} Å)"
    return f"{in_words(found)} at FSC 0.143"


def _write_curves(directory, validation, sharpened):
    """fsc.csv, fsc.xml, postprocess.star, mask.mrc, map_sharpened.mrc."""
    fsc, direct = validation.taigs.fsc, validation.direct
    more = {f"direct_{name.replace('-', '_')}": curve for name, curve in direct.fsc.curves.items()}
    more |= {
        f"direct_cone_{name}": curve
        for name, curve in zip(("mean", "sd", "min", "max"), direct.cones.spread, strict=True)
    }
    more["ring_correlation"] = validation.agreement["taigs"]
    more["direct_ring_correlation"] = validation.agreement["direct Fourier"]
    more["ring_correlation_poses_interchanged"] = validation.control.interchanged
    write_fsc_csv(directory / "fsc.csv", fsc, validation.taigs.cones, overwrite=True, more=more)
    write_fsc_xml(directory / "fsc.xml", fsc, overwrite=True)
    mask_name = None
    if validation.mask is not None:
        mask_name = directory / "mask.mrc"
        write_volume(mask_name, validation.mask.astype(np.float32), fsc.voxel_size, overwrite=True)
    if sharpened is not None:
        label = f"taigs: map, FSC-weighted, B {sharpened.bfactor:.1f} A^2"
        write_volume(directory / "map_sharpened.mrc", sharpened.volume, fsc.voxel_size, overwrite=True, label=label)
    halves = (directory / "half1.mrc", directory / "half2.mrc")
    write_postprocess_star(directory / "postprocess.star", fsc, halves, mask_name, sharpened, overwrite=True)
