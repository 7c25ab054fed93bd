"""The command line: reads options, calls the library, turns errors into one line and an exit code.

Everything heavy is imported inside the commands, so that ``taigs --help`` answers at once.
"""

import contextlib
import logging
import os
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.compare import compare
from taigs.cli.evaluate import evaluate
from taigs.cli.export import export
from taigs.cli.fit import fit
from taigs.cli.fsc import fsc
from taigs.cli.options import (
    Arch,
    ArchOption,
    DebugOption,
    Mode0Option,
    OutputOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
)
from taigs.cli.plan import plan
from taigs.cli.project import project
from taigs.cli.simulate import simulate
from taigs.cli.spa import spa
from taigs.cli.tilt import tilt
from taigs.cli.view import view
from taigs.cli.voxelize import voxelize
from taigs.errors import StoppedError, TaigsError

app = typer.Typer(
    help="3D structure from cryo-EM images as a cloud of Gaussians.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False):
    if version:
        from taigs import __version__

        print(f"taigs {__version__}")
        raise typer.Exit


@app.command()
def demo(
    context: typer.Context,
    output: OutputOption = Path("taigs-demo"),
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Reconstruct a simulated tilt series beside WBP and SIRT.

    Takes about a minute and needs no data; the folder then holds the maps, the truth and report.html.

    \b
    Example:
      taigs demo -o taigs-demo
    """
    from taigs.report import RunDirectory

    with RunDirectory(output, overwrite) as directory:
        from taigs import runtime
        from taigs.demo import results_table, run_demo
        from taigs.progress import make_progress

        started = runtime.init(arch.value, threads=threads)
        directory.begin(sys.argv, context.params, started)
        with contextlib.closing(make_progress(quiet)) as progress:
            result = run_demo(directory, seed, progress)
    _console().print(results_table(result))
    print(result.verdict)
    print(f"report: {directory / 'report.html'}")


@app.command()
def info(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="MRC stack or volume, particles (.star, .cs), model (.npz, .ply)."),
    ],
    mode0: Mode0Option = None,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Describe the whole sections of a shortened MRC file.")
    ] = False,
    debug: DebugOption = False,
):
    """Show what a file holds.

    \b
    Example:
      taigs info tomogram.mrc
    """
    from taigs.cli.describe import describe_file

    _print_pairs(describe_file(file, mode0 and mode0.value, allow_truncated))


@app.command()
def doctor(
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Also check the results of the kernels; takes seconds.")
    ] = False,
    arch: ArchOption = Arch.auto,
    debug: DebugOption = False,
):
    """Show versions, backends that start, and memory.

    With --self-check, what the kernels compute on the backend of --arch is compared with plain arithmetic and with a
    known truth, one line a check; the exit code is 5 if any fails. The whole output belongs in a bug report.

    \b
    Example:
      taigs doctor --self-check
    """
    from taigs.cli.describe import describe_system

    _print_pairs(describe_system())
    if self_check:
        from taigs import runtime
        from taigs.selfcheck import check_all

        print(f"\nself-check on {runtime.init(arch.value).arch}")
        check_all(print)


app.command()(tilt)
app.command()(fsc)
app.command()(spa)
app.command()(project)
app.command()(compare)
app.command()(evaluate)
app.add_typer(simulate, name="simulate")
app.command()(export)
app.command()(voxelize)
app.command()(view)
app.command()(fit)
app.command(context_settings={"allow_interspersed_args": False})(plan)


def main():
    """Run the command line; the only way out is an exit code of errors.py."""
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    heard = logging.StreamHandler()
    heard.setFormatter(logging.Formatter("warning: %(message)s"))
    heard.addFilter(lambda record: record.levelno == logging.WARNING)  # errors end the command, and say so
    logging.getLogger("taigs").addHandler(heard)
    try:
        app()
    except StoppedError as error:
        _say(f"{error}; to go on: {_resuming(sys.argv)}")
        sys.exit(error.exit_code)
    except TaigsError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        # Typer's only 1 means that the reader of stdout left early (| head): no error of ours.
        sys.exit(0 if stop.code == 1 else stop.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        _say("error: this is a bug in taigs; please report it with the lines above")
        sys.exit(1)
    finally:
        logging.getLogger("taigs").removeHandler(heard)
        _flush_quietly()


def _resuming(argv):
    """The command that goes on with this one."""
    others = [argument for argument in argv[1:] if argument not in ("--overwrite", "--resume")]
    return shlex.join(["taigs", *others, "--resume"])


def _say(line):
    print(line, file=sys.stderr)


def _flush_quietly():
    """A reader that left early (``| head``) is no error; without this Python complains at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _console():
    from rich.console import Console

    return Console()


def _print_pairs(pairs):
    """Aligned label and value lines."""
    width = max(len(label) for label, _ in pairs) + 2
    for label, value in pairs:
        print(f"{label:<{width}}{value}")


if __name__ == "__main__":
    main()
