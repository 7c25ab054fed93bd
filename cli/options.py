"""Options that several commands share, and the parsing of their values."""

import contextlib
import math
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Arch(str, Enum):
    """Backends of --arch."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    vulkan = "vulkan"


class Contrast(str, Enum):
    """What dense matter looks like in the images."""

    auto = "auto"
    dark = "dark"
    bright = "bright"


class Mode0(str, Enum):
    """What the bytes of MRC mode 0 are."""

    signed = "signed"
    unsigned = "unsigned"


def file_option(help):
    """An option that names an input file."""
    return typer.Option(metavar="FILE", help=help)


OutputOption = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")]
Mode0Option = Annotated[
    Mode0 | None,
    typer.Option(help="What 8-bit data (MRC mode 0) are.  [default: as IMOD's flag says, else signed]"),
]
SeedOption = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of all random choices.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="CPU threads; the result does not depend on it.  [default: all]"),
]
ArchOption = Annotated[Arch, typer.Option(help="Backend; auto takes the fastest that starts.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds files.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that was stopped in the output folder, to the same bits.")
]
CheckpointOption = Annotated[
    float, typer.Option(metavar="MIN", min=0, help="Minutes between checkpoints, from which --resume goes on.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def bfactor(text):
    """ "auto" or a number."""
    if text == "auto":
        return text
    with contextlib.suppress(ValueError):
        if math.isfinite(float(text)):
            return float(text)
    raise typer.BadParameter(f'"{text}" is neither auto nor a number')


def numbers(text):
    """The integers of a list with ranges: 1,5-7 means 1, 5, 6 and 7."""
    from taigs.errors import InputError
    from taigs.run_input import number_list

    try:
        return number_list(text)
    except InputError as error:
        raise typer.BadParameter(f"--exclude: {error}") from None
