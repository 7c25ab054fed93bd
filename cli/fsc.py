"""`taigs fsc`: resolution of two half maps."""

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import DebugOption, OverwriteOption, QuietOption, SeedOption, bfactor, file_option


def fsc(
    context: typer.Context,
    half1: Annotated[Path, typer.Argument(metavar="A", help="First half map, MRC.")],
    half2: Annotated[Path, typer.Argument(metavar="B", help="Second half map.")],
    mask: Annotated[Path | None, file_option("Soft mask, 0 to 1.  [default: none]")] = None,
    auto_mask: Annotated[bool, typer.Option("--auto-mask", help="Make a soft mask from the average.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for curves and report.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="A", help="Voxel size in Angstrom.  [default: from the headers]")
    ] = None,
    sharpen: Annotated[
        str | None,
        typer.Option(
            metavar="auto|B", parser=bfactor, help="Write the average sharpened by B in A^2, as -80; needs -o."
        ),
    ] = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Resolution of two half maps by Fourier shell correlation.

    Unmasked, and with a mask also masked and corrected by phase randomisation as in RELION; and by direction.

    \b
    Example:
      taigs fsc half1.mrc half2.mrc --mask mask.mrc -o fsc

    The folder then holds fsc.csv, postprocess.star, fsc.xml (for EMDB) and report.html.
    """
    if mask is not None and auto_mask:
        raise typer.BadParameter("--mask and --auto-mask exclude each other")
    if sharpen is not None and output is None:
        raise typer.BadParameter("--sharpen writes a map: give -o DIR too")
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise typer.BadParameter(f"--pixel-size {pixel_size}: expected a positive number")

    from taigs import fsc_run
    from taigs.half_maps import read_half_maps
    from taigs.progress import make_progress
    from taigs.report import RunDirectory

    with RunDirectory(output, overwrite) if output else contextlib.nullcontext() as directory:
        with warnings.catch_warnings(record=True) as heard, contextlib.closing(make_progress(quiet)) as progress:
            if directory:
                fsc_run.refuse_inputs_as_outputs(directory, [p for p in (half1, half2, mask) if p])
            halves = read_half_maps(half1, half2, pixel_size, mask, auto_mask)
            outcome = fsc_run.score(halves, sharpen, seed, progress)
        warned = [str(warning.message) for warning in heard]
        for line in warned:
            print(f"warning: {line}", file=sys.stderr)
        if not quiet:
            print(f"note: {fsc_run.REPRODUCIBLE_NOT_TRUE}", file=sys.stderr)
        if directory:
            directory.begin(sys.argv, context.params)
            fsc_run.write_results(directory, halves, outcome, warned)
    for line in fsc_run.describe(halves, outcome):
        print(line)
    if directory:
        print(f"report: {directory / 'report.html'}")
