"""`taigs export`: a model for the programs of the field."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import DebugOption, QuietOption


class Format(str, Enum):
    """Kinds of file."""

    ply = "ply"
    pdb = "pdb"
    cif = "cif"
    bild = "bild"
    cxc = "cxc"


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model.npz, the folder of a run, or a .ply.")],
    to: Annotated[Format | None, typer.Option(help="Kind of file.  [default: by the name after -o]")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="[default: beside MODEL]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Write a model for splat viewers, atomic programs or ChimeraX.

    ply opens in viewers of 3D Gaussian splatting and reads back; pdb and cif hold pseudo-atoms with the covariances;
    bild holds spheres; cxc opens a run's maps with the model, which it writes beside itself as cif.
    All but ply lie upon the run's map.

    \b
    Example:
      taigs export run/model.npz --to ply
    """
    if to is None and output is None:
        raise typer.BadParameter("give --to KIND or -o FILE")

    from taigs.errors import InputError
    from taigs.io import chimerax, pdb, ply
    from taigs.io.clouds import map_grid, read_cloud

    kind = to.value if to else output.suffix.lower().removeprefix(".")
    if kind not in Format.__members__:
        known = ", ".join(Format.__members__)
        raise InputError(f'{output}: unknown kind of file ".{kind}"; expected one of {known}; try --to')
    model = model / "model.npz" if model.is_dir() else model
    output = model.with_suffix(f".{kind}") if output is None else output
    cloud, header = read_cloud(model)
    if kind != "ply" and map_grid(header) is None and not quiet:
        print("note: the model names no map: its own centre is at 0 0 0", file=sys.stderr)
    if kind == "cxc":
        print(chimerax.write_cxc(output, cloud, header, model.parent, overwrite))
    else:
        writers = {"ply": ply.write_ply, "pdb": pdb.write_pdb, "cif": pdb.write_cif, "bild": chimerax.write_bild}
        writers[kind](output, cloud, header, overwrite)
    print(output)
