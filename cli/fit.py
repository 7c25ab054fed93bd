"""`taigs fit`: a map as a cloud of Gaussians."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import (
    Arch,
    ArchOption,
    CheckpointOption,
    DebugOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
)


def fit(
    context: typer.Context,
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="Map of any sizes, with cubic voxels, MRC.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MODEL", help="Model to write, .npz.")],
    target_cc: Annotated[
        float | None,
        typer.Option(
            metavar="CC", help="Stop at this correlation with the map.  [default: 0.99 without target and budget]"
        ),
    ] = None,
    target_fsc_resolution: Annotated[
        float | None,
        typer.Option(metavar="A", help="Stop when the FSC with the map stays above 0.5 down to this resolution."),
    ] = None,
    gaussians: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Most Gaussians.  [default: a fifth of the map's bytes]"),
    ] = None,
    megabytes: Annotated[float | None, typer.Option(metavar="MB", help="Largest model file, 10^6 bytes.")] = None,
    contour: Annotated[
        float | None, typer.Option(metavar="LEVEL", help="Set what is below this level to 0 first.  [default: none]")
    ] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Allow negative density.")] = False,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="A", help="Voxel size in Angstrom.  [default: from the header]")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write a report beside the model, of its name with .html.")
    ] = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    resume: ResumeOption = False,
    checkpoint_minutes: CheckpointOption = 5.0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Make a model of Gaussians from a map.

    \b
    Example:
      taigs fit map.mrc -o model.npz --target-cc 0.995

    The cloud grows until it is good enough, its budget is used up, or twice the Gaussians bring nothing. A budget
    without a target is used up. taigs voxelize turns the model back into a map.
    """
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise typer.BadParameter(f"--pixel-size {pixel_size}: expected a positive number")

    from taigs import runtime
    from taigs.identity import identify
    from taigs.io.mrc import read_header
    from taigs.journal import Journal, check_journal
    from taigs.memory import check_run, fit_memory, fits, largest_cloud
    from taigs.progress import make_progress
    from taigs.run_record import RunRecord
    from taigs.volume_fit_run import check_names, planned_levels, run_fit, table

    def say(line):
        if not quiet:
            print(line, file=sys.stderr)

    check_names(map_file, output, report, overwrite)
    started = runtime.init(arch.value, threads=threads)
    shape = read_header(map_file).shape
    needed = fit_memory(shape, gaussians, megabytes)
    memory = needed, f"{map_file}: the fit", "a map of coarser voxels, or --gaussians N"
    if not context.obj:
        check_run(*memory)
    settings = {
        "target_cc": target_cc,
        "target_fsc_resolution": target_fsc_resolution,
        "gaussians": gaussians,
        "megabytes": megabytes,
        "contour": contour,
        "signed": signed,
        "seed": seed,
    }
    identity = identify(settings | {"pixel_size": pixel_size}, {"map": map_file}, started)
    checkpoints = output.with_suffix(".checkpoints")
    if context.obj:  # of taigs plan
        from taigs.plan import fit_plan

        check_journal(checkpoints, identity, resume)
        most = math.ceil(largest_cloud(shape, gaussians, megabytes))
        sizes = planned_levels(map_file, pixel_size, settings, say) if fits(needed) else [most]
        has_target = any((target_cc, target_fsc_resolution)) or not any((gaussians, megabytes))
        return context.obj(fit_plan(shape, sizes, has_target, report), output, *memory)
    with (
        Journal(checkpoints, identity, checkpoint_minutes, resume) as journal,
        contextlib.closing(make_progress(quiet)) as progress,
    ):
        result = run_fit(
            map_file,
            output,
            pixel_size=pixel_size,
            settings=settings,
            report=report,
            overwrite=overwrite,
            say=say,
            progress=progress,
            journal=journal,
            record=RunRecord.of_command(sys.argv, context.params, started),
        )
    for line in [*table(result.rows), f"stopped: {result.reason}"]:
        say(line)
    print(output)
