"""Particles: a fit of each half-set, stopped by the other, then a fit of all the data with the agreed schedule."""

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.journal import Journal
from taigs.parallel import Alone
from taigs.particle_data import NegatedImages, deal_half_sets, gather
from taigs.particle_fit import SCHEDULES, ParticleFit, agree, describe
from taigs.progress import NoProgress
from taigs.symmetry import symmetry_matrices
from taigs.views import Views
from taigs.volume_objective import ring_correlation

CONTRASTS = ("auto", "bright", "dark")
INITS = ("map", "random")
DEALT = (
    "Particles were dealt into half-sets at random, for want of two in the input (rlnRandomSubset). If their poses "
    "were refined together, the FSC between the halves is too good."
)


@dataclass
class ParticleResult:
    """What `reconstruct_particles` found.

    Parameters
    ----------
    cloud : GaussianCloud
        Fitted to all particles; masses in image units x A^2.
    volumes : dict of str to (n, n, n) float32 array
        ``map`` is the cloud's density, ``half1`` and ``half2`` those of the halves' own clouds; ``direct``,
        ``direct_half1`` and ``direct_half2`` the direct Fourier maps. Image units per voxel, centre n // 2, unfiltered.
    half_sets : (V,) array of int
        1 or 2 for each view.
    histories : list of dict
        half, step, loss, held_out, gaussians; one half after the other.
    agreement : dict
        "taigs" and "direct Fourier" -> (n // 2 + 1,) correlation in each shell of a half's map with the images of
        the *other* half, mean of both.
    seconds : dict
        Of each part.
    settings : dict
        What was decided on the way.
    notes : list of str
        What a reader should know.
    """

    cloud: GaussianCloud
    volumes: dict
    half_sets: np.ndarray
    histories: list
    agreement: dict
    seconds: dict
    settings: dict
    notes: list


def reconstruct_particles(
    views: Views,
    symmetry="C1",
    objective="volume",
    init="map",
    contrast="auto",
    seed=0,
    progress=None,
    journal=None,
    ranks=None,
):
    """Reconstruct particles with known poses as a cloud of Gaussians.

    The half-sets are fitted apart, each from its own direct Fourier map; each stops when its agreement with the
    images of the other no longer grows. All particles are then fitted with the schedule the halves agreed on.

    Parameters
    ----------
    views : Views
        Square images with the centre at n // 2, `ctf` and, if poses were refined in two halves, `half_sets`.
    symmetry : str
        Point group: C1, C2, ..., D2, ..., T, O, I.
    objective : {"volume", "views", "both"}
        Fit the Fourier sums of all particles; mini-batches of particles; or first the one, then the other.
    init : {"map", "random"}
        Where the Gaussians start: drawn from the direct map, or anywhere in the box.
    contrast : {"auto", "bright", "dark"}
        What dense matter looks like; "dark" images are negated.
    seed : int
        Same seed, views and version: same bits on the CPU, whatever the number of threads.
    progress : Progress, optional
    journal : Journal, optional
        Keeps what was computed, and hands it out again; of several ranks, that of rank 0.
    ranks : taigs.parallel.Ranks, optional
        The processes that share the work; each calls this with the same arguments.

    Returns
    -------
    ParticleResult
        None on all ranks but the first.

    Raises
    ------
    InputError
        Images that are not square or not centred at n // 2, or fewer than two views in a half-set.
    """
    _check(views, objective, init, contrast)
    journal, ranks = journal or Journal(), ranks or Alone()
    progress = journal.watch(progress or NoProgress())
    # Random numbers of its own for each fit: no half depends on the other.
    *rngs, dealer = (np.random.default_rng([seed, i]) for i in range(4))
    clock = Clock()
    half_sets, own = deal_half_sets(views, dealer)
    sets, dark = gather(views, half_sets, symmetry_matrices(symmetry), contrast, progress, journal, ranks)
    if sets is None:
        return None
    if dark:
        views = replace(views, images=NegatedImages(views.images))
    clock.lap("reading, gridding and direct Fourier maps")

    fitter = ParticleFit(views, objective, init, sets, progress, journal)
    names = ["fitting half 1", "fitting half 2"]
    fits = ranks.leaders().halves(
        names, lambda half: fitter.run(sets[half], sets[1 - half], rngs[half], names[half]), progress, journal
    )
    if ranks.rank:
        return None
    clock.lap("fits of the halves")
    name = "fitting all particles"
    progress.stage(name)
    schedule = agree(fits[0].schedule, fits[1].schedule)
    cloud = journal.part(name, partial(fitter.repeat, schedule, sets[2], rngs[2], name))
    clock.lap("fit of all particles")

    half_maps = [fitter.volume(fit.cloud) for fit in fits]
    directs = [one.direct for one in sets]
    agreement = {
        name: np.mean([ring_correlation(sets[1 - half].data, maps[half]) for half in (0, 1)], axis=0)
        for name, maps in (("taigs", half_maps), ("direct Fourier", directs))
    }
    names = ("half1", "half2", "map", "direct_half1", "direct_half2", "direct")
    return ParticleResult(
        cloud=cloud,
        volumes=dict(zip(names, [*half_maps, fitter.volume(cloud), *directs], strict=True)),
        half_sets=half_sets,
        histories=[{"half": half + 1, **row} for half, fit in enumerate(fits) for row in fit.history],
        agreement=agreement,
        seconds=clock.laps,
        settings={
            "objective": objective,
            "seeds": "from the direct map" if init == "map" else "at random",
            "symmetry": symmetry.upper(),
            "stages (smallest sigma in px: steps), half 1": describe(fits[0].schedule),
            "stages (smallest sigma in px: steps), half 2": describe(fits[1].schedule),
            "stages (smallest sigma in px: steps), all particles": describe(schedule),
            "held-out score of the halves (1 - mean ring correlation)": ", ".join(f"{f.score:.4f}" for f in fits),
            **({"processes (MPI)": ranks.size} if ranks.size > 1 else {}),
        },
        notes=[
            f"Dense matter is {'dark in the images: they were negated' if dark else 'bright in the images'}.",
            *([] if own else [DEALT]),
        ],
    )


def _check(views, objective, init, contrast):
    n = views.image_shape[0]
    if views.image_shape != (n, n) or tuple(views.centre) != (n // 2, n // 2):
        raise InputError(f"images {views.image_shape}, centre {tuple(views.centre)}; expected square, centre n // 2")
    for name, value, known in (
        ("objective", objective, SCHEDULES),
        ("init", init, INITS),
        ("contrast", contrast, CONTRASTS),
    ):
        if value not in known:
            raise InputError(f'{name} "{value}"; expected one of {", ".join(known)}')


class Clock:
    """Seconds between laps, by name."""

    def __init__(self):
        self.laps, self.last = {}, time.perf_counter()

    def lap(self, name):
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
