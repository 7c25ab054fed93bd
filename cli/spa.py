"""`taigs spa`: particles with known poses, from the star file to the report."""

import contextlib
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import (
    Arch,
    ArchOption,
    CheckpointOption,
    Contrast,
    DebugOption,
    Mode0Option,
    OutputOption,
    OverwriteOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    bfactor,
    file_option,
)


class Objective(str, Enum):
    """What the fit minimises."""

    volume = "volume"
    views = "views"
    both = "both"


class Init(str, Enum):
    """Where the Gaussians start."""

    map = "map"
    random = "random"


def spa(
    context: typer.Context,
    particles: Annotated[
        Path, typer.Argument(metavar="PARTICLES", help="RELION's .star, cryoSPARC's .cs, or a stack with --poses.")
    ],
    output: OutputOption,
    datadir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder that stack names are relative to.  [default: found]"),
    ] = None,
    class_number: Annotated[
        int | None, typer.Option("--class", metavar="N", min=1, help="Only the particles of this class.")
    ] = None,
    subset: Annotated[
        int | None,
        typer.Option(metavar="1|2", min=1, max=2, help="Only this half-set, dealt out anew into two halves."),
    ] = None,
    box_crop: Annotated[
        int | None, typer.Option(metavar="PX", min=8, help="Crop the images to this box in Fourier space.")
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(metavar="A", help="Crop likewise, to the box whose pixel is nearest to this, not below."),
    ] = None,
    poses: Annotated[Path | None, file_option("cryoDRGN's pose.pkl; or cryoSPARC's passthrough .cs.")] = None,
    ctf: Annotated[Path | None, file_option("cryoDRGN's ctf.pkl.")] = None,
    tomograms: Annotated[
        Path | None, file_option("tomograms.star of sub-tomograms.  [default: beside PARTICLES]")
    ] = None,
    no_ctf: Annotated[bool, typer.Option("--no-ctf", help="The images are projections, without a CTF.")] = False,
    mode0: Mode0Option = None,
    sym: Annotated[str, typer.Option(metavar="GROUP", help="Point group: C1, C2, D7, T, O, I, ...")] = "C1",
    objective: Annotated[
        Objective, typer.Option(help="Fit the Fourier sums of all images, batches of images, or first one, then other.")
    ] = Objective.volume,
    init: Annotated[Init, typer.Option(help="Gaussians start from the direct Fourier map, or anywhere.")] = Init.map,
    contrast: Annotated[Contrast, typer.Option(help="What dense matter looks like.")] = Contrast.auto,
    mask: Annotated[Path | None, file_option("Soft mask for the FSC.  [default: made from the map]")] = None,
    sharpen: Annotated[
        str | None,
        typer.Option(metavar="auto|B", parser=bfactor, help="Write map_sharpened.mrc too; B in A^2, as -80."),
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    checkpoint_minutes: CheckpointOption = 5.0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Reconstruct particles with known poses and CTF.

    \b
    Example:
      taigs spa run_data.star -o run

    The folder then holds map.mrc, the unfiltered half maps half1.mrc and half2.mrc, direct Fourier maps of the same
    images, model.npz (the Gaussians), FSC curves, report.html, and what was run and how it went.
    """
    if box_crop is not None and pixel_size is not None:
        raise typer.BadParameter("--box-crop and --pixel-size exclude each other")
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise typer.BadParameter(f"--pixel-size {pixel_size}: expected a positive number")

    from taigs import parallel
    from taigs.errors import Problems
    from taigs.half_maps import read_mask
    from taigs.io.mrc import read_header
    from taigs.io.particles import read_particles_with_notes
    from taigs.report import RunDirectory
    from taigs.symmetry import symmetry_matrices

    ranks = parallel.join()
    if ranks.rank:
        with ranks:
            from taigs import spa_run

            spa_run.assist(ranks, arch.value, threads)
        return
    inputs = {"particles": particles, "poses": poses, "ctf": ctf, "tomograms": tomograms, "mask": mask}
    with ranks, RunDirectory(output, overwrite, resume, inputs, planned=bool(context.obj)) as directory:
        if ranks.size > 1 and objective is not Objective.volume:
            raise typer.BadParameter(f"--objective {objective.value} runs as one process; several need volume")
        if directory.is_done:
            ranks.broadcast(None)
            print(f"note: {output}: complete already, nothing to resume", file=sys.stderr)
            return
        with warnings.catch_warnings(record=True) as heard:
            problems = Problems()
            views, notes = problems.attempt(
                read_particles_with_notes, particles, datadir=datadir, class_number=class_number, subset=subset,
                box_crop=box_crop, pixel_size=pixel_size, no_ctf=no_ctf, poses=poses, ctf=ctf, tomograms=tomograms,
                mode0=mode0 and mode0.value,
            ) or (None, [])  # fmt: skip
            given = None
            if mask is not None and views is not None:
                given = problems.attempt(read_mask, mask, (views.image_shape[0],) * 3, views.pixel_size)
            elif mask is not None:
                problems.attempt(read_header, mask)
            problems.attempt(symmetry_matrices, sym)
        warned = [str(warning.message) for warning in heard]
        problems.report(particles)

        from taigs import runtime, spa_run

        spa_run.check(views, sym)
        for line in [f"warning: {w}" for w in warned] + [f"note: {n}" for n in notes if not quiet]:
            print(line, file=sys.stderr)

        from taigs.memory import check_run, spa_memory
        from taigs.progress import make_progress

        started = runtime.init(arch.value, threads=threads or ranks.threads)
        box = views.image_shape[0]
        memory = spa_memory(len(views), box), f"{particles}: this run", f"--box-crop {box // 4 * 2}"
        directory.inputs["images"] = views.images.paths
        if context.obj:  # of taigs plan
            from taigs.plan import spa_plan

            ranks.broadcast(None)
            directory.check(context.params, started)
            return context.obj(spa_plan(views, sym, objective.value, init.value, sharpen, ranks.size), output, *memory)
        check_run(*memory)
        directory.begin(sys.argv, context.params, started, checkpoint_minutes)
        with directory.journal, contextlib.closing(make_progress(quiet)) as progress:
            verdict = spa_run.run_spa(
                views,
                directory,
                symmetry=sym,
                objective=objective.value,
                init=init.value,
                contrast=contrast.value,
                mask=given,
                mask_name=None if mask is None else str(mask),
                bfactor=sharpen,
                seed=seed,
                notes=warned + notes,
                title=particles.name,
                progress=progress,
                ranks=ranks,
            )
    # A failure is said even with --quiet: nobody should go on with these maps.
    lines = [f"warning: {doubt}" for doubt in verdict.doubts]
    lines += [f"warning: {verdict.text}"] if verdict.failed else [] if quiet else [verdict.text]
    for line in lines:
        print(line, file=sys.stderr)
    print(directory / "map.mrc")
