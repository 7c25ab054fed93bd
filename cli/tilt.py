"""`taigs tilt`: a tilt series, from the stack to the report."""

import contextlib
import sys
import warnings
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
    file_option,
    numbers,
)


def tilt(
    context: typer.Context,
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="MRC stack: raw with --xf, or aligned.")],
    angles: Annotated[Path, file_option("Tilt angles in degrees, one a line (.tlt, .rawtlt).")],
    output: OutputOption,
    xf: Annotated[Path | None, file_option("IMOD's alignment of the raw stack (.xf).")] = None,
    xtilt: Annotated[Path | None, file_option("Tilts about x in degrees, one a line (.xtilt).")] = None,
    tilt_axis: Annotated[
        float,
        typer.Option(metavar="DEG", help="Tilt axis from vertical, degrees; for a raw stack without --xf."),
    ] = 0.0,
    thickness: Annotated[
        int | None,
        typer.Option(metavar="PX", min=1, help="Thickness in unbinned pixels.  [default: half the shorter image side]"),
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="A", help="Angstrom, unbinned.  [default: from the header]")
    ] = None,
    exclude: Annotated[str, typer.Option(metavar="LIST", help="Views to leave out, from 1, as 1,5-7.")] = "",
    contrast: Annotated[Contrast, typer.Option(help="What dense matter looks like.")] = Contrast.auto,
    bin: Annotated[int, typer.Option(metavar="N", min=1, help="Average over N x N pixels first.")] = 1,
    dose: Annotated[Path | None, file_option("Dose before each view in e/A^2, one a line.")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Allow negative density.")] = False,
    invert_angles: Annotated[bool, typer.Option("--invert-angles", help="Negate the tilt angles.")] = False,
    mask_nonfinite: Annotated[
        bool, typer.Option("--mask-nonfinite", help="Fill NaN and infinite pixels instead of refusing them.")
    ] = False,
    cos_weights: Annotated[
        bool, typer.Option("--cos-weights", help="Weight views by cos(tilt), for the longer way through the ice.")
    ] = False,
    mode0: Mode0Option = None,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Leave out the images that a shortened stack lacks.")
    ] = False,
    wbp: Annotated[bool, typer.Option(help="Write weighted back-projection too, as wbp.mrc.")] = True,
    sirt: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Write N iterations of SIRT with positivity too, as sirt.mrc."),
    ] = 0,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    checkpoint_minutes: CheckpointOption = 5.0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Reconstruct a tomogram from a tilt series.

    \b
    Example:
      taigs tilt ts.mrc --angles ts.tlt --xf ts.xf --thickness 300 -o ts

    The folder then holds tomogram.mrc ([z, y, x], right-handed, z = thickness), model.npz (the Gaussians),
    report.html, and what was run and how it went.
    """
    from taigs.io.tilt_series import read_tilt_series_with_notes
    from taigs.report import RunDirectory

    excluded = numbers(exclude)
    inputs = {"stack": stack, "angles": angles, "xf": xf, "xtilt": xtilt, "dose": dose}
    with RunDirectory(output, overwrite, resume, inputs, planned=bool(context.obj)) as directory:
        if directory.is_done:
            print(f"note: {output}: complete already, nothing to resume", file=sys.stderr)
            return
        with warnings.catch_warnings(record=True) as heard:
            views, notes = read_tilt_series_with_notes(
                stack, angles, xf, xtilt, tilt_axis, pixel_size, excluded, contrast.value, bin, dose,
                invert_angles, mask_nonfinite, cos_weights, mode0 and mode0.value, allow_truncated,
            )  # fmt: skip
        warned = [str(warning.message) for warning in heard]
        for line in [f"warning: {w}" for w in warned] + [f"note: {n}" for n in notes if not quiet]:
            print(line, file=sys.stderr)

        from taigs import runtime
        from taigs.memory import check_run, tilt_memory
        from taigs.progress import make_progress
        from taigs.tilt_run import run_tilt

        started = runtime.init(arch.value, threads=threads)
        thickness = None if thickness is None else max(1, round(thickness / bin))
        memory = tilt_memory(len(views), views.image_shape, thickness), f"{stack}: this run", f"--bin {2 * bin}"
        if context.obj:  # of taigs plan
            from taigs.plan import tilt_plan

            directory.check(context.params, started)
            return context.obj(tilt_plan(views, thickness, wbp, sirt), output, *memory)
        check_run(*memory)
        directory.begin(sys.argv, context.params, started, checkpoint_minutes)
        with directory.journal, contextlib.closing(make_progress(quiet)) as progress:
            verdict = run_tilt(
                views,
                directory,
                thickness=thickness,
                signed=signed,
                wbp=wbp,
                sirt_iterations=sirt,
                seed=seed,
                notes=warned + notes,
                title=stack.name,
                progress=progress,
            )
    if not quiet:
        print(verdict, file=sys.stderr)
    print(directory / "tomogram.mrc")
