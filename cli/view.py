"""`taigs view`: a page that shows a model from any side."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import DebugOption, QuietOption
from taigs.errors import TaigsError


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
    from taigs.errors import InputError, RefusedError
    from taigs.io.mrc import atomic_file
    from taigs.viewer import measured_series, read_models, serve_page, viewer_page

    first = models[0]
    output = output or (None if serve else first / "view.html" if first.is_dir() else first.with_suffix(".html"))
    if output and output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f'{output}: unknown kind of page "{output.suffix}"; expected .html')
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
    from taigs.run_input import has_tilt_series, read_run_tilt_series

    try:
        if not has_tilt_series(run):
            return False, None
        return True, read_run_tilt_series(run)
    except (TaigsError, TypeError, AttributeError) as error:  # config.json may hold anything
        if not quiet:
            print(f"note: the page has no measured images: {error}", file=sys.stderr)
        return True, None
