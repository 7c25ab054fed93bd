"""`taigs view`: a page that shows a model from any side."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import DebugOption, QuietOption, numbers
from taigs.errors import TaigsError

# Of a run's config.json, what the reading of its images depends on.
READING = (
    "xf", "xtilt", "tilt_axis", "pixel_size", "contrast", "bin", "dose", "invert_angles", "mask_nonfinite",
    "mode0", "allow_truncated",
)  # fmt: skip


def view(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL|RUN", help="model.npz, or a run's folder; several to compare."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The page.  [default: view.html in RUN, or MODEL with .html]"
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open the page in the browser, from a server on this machine.")
    ] = False,
    max_gaussians: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Draw the N with most mass if there are more.  [default: all]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page if it exists.")] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Look at a model in a browser: a page with its projection along any axis.

    The page is one file that needs no network: it can be kept, and sent to others. With the folder of a tilt
    series whose images are still where they were, they are shown beside the model's projections.

    \b
    Example:
      taigs view run

    writes run/view.html. --serve writes it only if -o says where.
    """
    from taigs.errors import RefusedError
    from taigs.io.mrc import atomic_file
    from taigs.viewer import measured_series, read_models, serve_page, viewer_page

    first = models[0]
    output = output or (None if serve else first / "view.html" if first.is_dir() else first.with_suffix(".html"))
    if output and output.exists() and not overwrite:  # before any work
        raise RefusedError(f"{output}: exists already; try another name, or --overwrite")
    named = read_models(models)
    is_series, views = tilt_images(first, quiet) if first.is_dir() else (False, None)
    page = viewer_page(
        named,
        first.resolve().name if len(models) == 1 else ", ".join(model.name for model in named),
        is_series,
        measured_series(views) if views is not None else None,
        max_gaussians,
    )
    if output:
        with atomic_file(output, overwrite) as file:
            file.write(page.encode())
        print(output)
    if serve:
        if not quiet:
            print("Ctrl-C ends the server", file=sys.stderr)
        serve_page(page)


def tilt_images(run, quiet):
    """(whether a folder is of a tilt series, its Views or None where the images are gone)."""
    from taigs.io.tilt_series import read_tilt_series

    try:
        arguments = _images_of(run)
        if arguments is None:
            return False, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run has said them already
            return True, read_tilt_series(**arguments)
    except (TaigsError, TypeError, AttributeError, typer.BadParameter) as error:  # config.json may hold anything
        if not quiet:
            print(f"note: the page has no measured images: {error}", file=sys.stderr)
        return True, None


def _images_of(run):
    """Arguments of read_tilt_series for a folder of `taigs tilt` or `taigs demo`; None for others."""
    own = {"stack": run / "tilt_series.mrc", "angles": run / "tilt_series.tlt"}
    if all(path.exists() for path in own.values()):
        return own
    try:
        config = json.loads((run / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or not {"stack", "angles"} <= config.keys():
        return None
    arguments = {name: config[name] for name in READING if config.get(name) is not None}
    arguments["exclude"] = numbers(config.get("exclude") or "")
    return arguments | {name: Path(config[name]) for name in own}
