"""`taigs voxelize`: a model drawn on any grid."""

import contextlib
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import Arch, ArchOption, DebugOption, QuietOption, ThreadsOption

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def three(text, pattern, expected):
    """The three groups of values in a comma-separated list."""
    parts = [re.fullmatch(pattern, part.strip()) for part in text.split(",")]
    if len(parts) != 3 or None in parts:
        raise typer.BadParameter(f'"{text}"; expected {expected}')
    return [part.groups() for part in parts]


def sizes(text):
    """NX,NY,NZ as (nz, ny, nx)."""
    return tuple(int(n) for (n,) in three(text, r"(\d+)", "NX,NY,NZ, as 256,256,128")[::-1])


def position(text):
    """X,Y,Z in Angstrom."""
    return tuple(float(x) for (x,) in three(text, f"({NUMBER})", "X,Y,Z in Angstrom, as -12.5,0,40"))


def box(text):
    """X0:X1,Y0:Y1,Z0:Z1 as three (first, end), z first."""
    ranges = three(text, r"(-?\d+):(-?\d+)", "X0:X1,Y0:Y1,Z0:Z1, as 0:64,0:64,10:20")
    return tuple((int(first), int(end)) for first, end in ranges[::-1])


def voxelize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model.npz, its folder, or a .ply.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MAP", help="Map to write, .mrc.")],
    pixel_size: Annotated[
        float | None, typer.Option(metavar="A", help="Angstrom; the box keeps its extent.  [default: the model's]")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="NX,NY,NZ", parser=sizes, help="Voxels of the box.  [default: the model's extent]"),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z", parser=position, help="Where voxel 0 lies upon the model's map, A.  [default: same centre]"
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X0:X1,Y0:Y1,Z0:Z1", parser=box, help="Only these voxels, from 0, X1 left out.  [default: all]"
        ),
    ] = None,
    lowpass: Annotated[
        float | None, typer.Option(metavar="A", help="Gaussian low-pass, half amplitude there.  [default: none]")
    ] = None,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Draw a model as a map, of any size: memory holds a slab of it.

    By default on the grid it was made for, which gives the run's map. Any other grid has its MRC origin set so
    that it lies upon that map.

    \b
    Example:
      taigs voxelize run/model.npz -o fine.mrc --pixel-size 1.5 --region 100:200,100:200,0:80
    """
    from taigs.io.clouds import read_cloud

    cloud, header = read_cloud(model / "model.npz" if model.is_dir() else model)

    from taigs import runtime
    from taigs.progress import make_progress
    from taigs.voxel_output import target_grid, write_map

    grid = target_grid(header, pixel_size, shape, origin, region)
    coarser = grid.voxel_size / (header.get("pixel_size_A") or grid.voxel_size)
    if coarser > 1.5 and lowpass is None and not quiet:
        print(
            f"note: voxels {coarser:.1f} times as large as the data's sample fine detail without averaging it; "
            f"--lowpass {2 * grid.voxel_size:.3g} removes it",
            file=sys.stderr,
        )
    runtime.init(arch.value, threads=threads)
    with contextlib.closing(make_progress(quiet)) as progress:
        write_map(output, cloud, header, grid, lowpass, overwrite, progress)
    print(output)
