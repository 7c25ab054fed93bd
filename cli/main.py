"""The command line: reads options, calls the library, turns errors into one line and an exit code.

Everything heavy is imported inside the commands, so that ``taigs --help`` answers at once.
"""

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
from taigs.cli.project import project
from taigs.cli.simulate import simulate
from taigs.cli.spa import spa
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
    with RunDirectory(output, overwrite, resume, inputs) as directory:
        if directory.is_done:
            _say(f"note: {output}: complete already, nothing to resume")
            return
        with warnings.catch_warnings(record=True) as heard:
            views, notes = read_tilt_series_with_notes(
                stack, angles, xf, xtilt, tilt_axis, pixel_size, excluded, contrast.value, bin, dose,
                invert_angles, mask_nonfinite, cos_weights, mode0 and mode0.value, allow_truncated,
            )  # fmt: skip
        warned = [str(warning.message) for warning in heard]
        for line in [f"warning: {w}" for w in warned] + [f"note: {n}" for n in notes if not quiet]:
            _say(line)

        from taigs import runtime
        from taigs.memory import check_run, tilt_memory
        from taigs.tilt_run import run_tilt

        started = runtime.init(arch.value, threads=threads)
        thickness = None if thickness is None else max(1, round(thickness / bin))
        needed = tilt_memory(len(views), views.image_shape, thickness)
        check_run(needed, f"{stack}: this run", f"--bin {2 * bin}")
        directory.begin(sys.argv, context.params, started, checkpoint_minutes)
        with directory.journal, _progress(quiet) as progress:
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
        _say(verdict)
    print(directory / "tomogram.mrc")


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

        started = runtime.init(arch.value, threads=threads)
        directory.begin(sys.argv, context.params, started)
        with _progress(quiet) as progress:
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


def _progress(quiet):
    from contextlib import closing

    from taigs.progress import make_progress

    return closing(make_progress(quiet))


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
