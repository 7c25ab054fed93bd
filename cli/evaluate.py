"""`taigs evaluate`: a finished run judged by images that it did not see."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import Arch, ArchOption, DebugOption, QuietOption, ThreadsOption


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of taigs tilt, taigs demo or taigs spa.")],
    held_out: Annotated[
        bool, typer.Option("--held-out", help="By images left out of the fit, which is the only way there is.")
    ] = True,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here.")] = None,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Score a finished run by images that it did not see, beside the standard methods.

    \b
    Example:
      taigs evaluate run --held-out

    Of a tilt series: the held-out views, predicted from the others. CC is the correlation, and residual the share
    of an image's variance that the prediction leaves after the best gain and offset; the last column estimates
    what noise alone would leave. Of particles: each half map against the images of the other half, read again.
    """
    from taigs import runtime
    from taigs.errors import RefusedError
    from taigs.evaluate import describe, evaluate_run
    from taigs.io.mrc import atomic_file
    from taigs.progress import make_progress
    from taigs.run_input import read_config

    if json_file is not None and json_file.exists() and not overwrite:
        raise RefusedError(f"{json_file}: exists already; try another name or --overwrite")
    if "particles" in read_config(run):  # the rest needs no kernel
        runtime.init(arch.value, threads=threads)
    with contextlib.closing(make_progress(quiet)) as progress:
        scores = evaluate_run(run, progress)
    for line in [f"warning: {w}" for w in scores["warnings"]] + [f"note: {n}" for n in scores["notes"] if not quiet]:
        print(line, file=sys.stderr)
    if json_file is not None:
        with atomic_file(json_file, overwrite) as file:
            file.write((json.dumps(scores, indent=2) + "\n").encode())
    for line in describe(scores):
        print(line)
