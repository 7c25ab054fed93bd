"""`taigs compare`: a map against the truth, or against the atoms that it should show."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import Arch, ArchOption, DebugOption, OverwriteOption, QuietOption, ThreadsOption, file_option


def compare(
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="The map to judge, MRC.")],
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="The truth on the same grid, MRC; or atoms, .pdb .cif.")
    ],
    mask: Annotated[Path | None, file_option("Soft mask, 0 to 1; the scores are given without it, too.")] = None,
    wedge: Annotated[
        float | None,
        typer.Option(metavar="DEG", help="Largest tilt about y: FSC in the measured region and the missing wedge."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="A", help="Voxel size in Angstrom.  [default: from the headers]")
    ] = None,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Score a map against the truth: FSC, correlation, PSNR, SSIM.

    \b
    Example:
      taigs compare tomogram.mrc truth.mrc --wedge 60

    NCC is the correlation about the means. PSNR and SSIM follow after the best scale and offset of MAP. Resolutions
    are first crossings of the FSC, from shell 3 on; mean FSC runs over shells 1 to Nyquist.
    Atoms become Gaussians of sigma 0.6 voxels, weighted by electron scattering, at the place that MAP's header gives.
    """
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise typer.BadParameter(f"--pixel-size {pixel_size}: expected a positive number")

    from taigs import compare as comparing
    from taigs.errors import RefusedError
    from taigs.io.mrc import atomic_file

    if json_file is not None and json_file.exists():
        if any(json_file.samefile(path) for path in (map_file, truth, mask) if path is not None and path.exists()):
            raise RefusedError(f"{json_file}: is an input and would be overwritten; try another name")
        if not overwrite:
            raise RefusedError(f"{json_file}: exists already; try another name or --overwrite")
    with warnings.catch_warnings(record=True) as heard:
        pair = comparing.read_pair(map_file, truth, mask, pixel_size, arch.value, threads)
        scores = comparing.compare(pair.volume, pair.truth, pair.voxel_size, pair.mask, wedge)
    for line in [f"warning: {w.message}" for w in heard] + [f"note: {n}" for n in pair.notes if not quiet]:
        print(line, file=sys.stderr)
    if json_file is not None:
        with atomic_file(json_file, overwrite) as file:
            file.write((json.dumps({"map": str(map_file), "truth": str(truth)} | scores, indent=2) + "\n").encode())
    for line in comparing.describe(pair, scores):
        print(line)
