"""`taigs simulate tilt` and `taigs simulate spa`: images with known truth."""

import contextlib
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import (
    Arch,
    ArchOption,
    DebugOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
)

simulate = typer.Typer(
    help="Simulate images with known truth.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Poses(str, Enum):
    """Where the particles are seen from."""

    uniform = "uniform"
    preferred = "preferred"


class Noise(str, Enum):
    """Spectrum of the noise."""

    white = "white"
    colored = "colored"


SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="Model (.npz, a run's folder, .ply), map (.mrc, .map) or atoms (.pdb, .cif)."
    ),
]
PixelOption = Annotated[
    float | None, typer.Option(metavar="A", help="Pixel size in Angstrom.  [default: the source's]")
]
SnrOption = Annotated[
    float, typer.Option(metavar="X", help="Mean variance of the clean images over the noise's; inf for no noise.")
]
VoltageOption = Annotated[float, typer.Option("--voltage", metavar="KV", help="Acceleration voltage in kV.")]
CsOption = Annotated[float, typer.Option("--cs", metavar="MM", help="Spherical aberration in mm.")]
AmplitudeOption = Annotated[float, typer.Option("--amplitude-contrast", metavar="X", help="As a fraction.")]
NoiseOption = Annotated[Noise, typer.Option(help="White, or stronger at low frequencies.")]
ResolutionOption = Annotated[
    float | None, typer.Option(metavar="A", help="Of atoms: Gaussians of sigma 0.225 A.  [default: three pixels]")
]
BfactorsOption = Annotated[bool, typer.Option("--bfactors", help="Widen atoms by their B factors.")]
ContourOption = Annotated[
    float | None,
    typer.Option(metavar="X", help="Of a map: voxels above are drawn.  [default: mean + 3 standard deviations]"),
]


@simulate.command()
def spa(
    context: typer.Context,
    source: SourceArgument,
    output: OutputOption,
    particles: Annotated[int, typer.Option(metavar="N", min=1, help="Number of images.")] = 1000,
    box: Annotated[
        int | None, typer.Option(metavar="PX", min=1, help="Image size.  [default: 1.5 times the object's]")
    ] = None,
    pixel_size: PixelOption = None,
    snr: SnrOption = 0.1,
    defocus: Annotated[str, typer.Option(metavar="MIN:MAX", help="Angstrom, underfocus positive.")] = "8000:20000",
    no_ctf: Annotated[bool, typer.Option("--no-ctf", help="Projections without a CTF.")] = False,
    voltage: VoltageOption = 300.0,
    cs: CsOption = 2.7,
    amplitude_contrast: AmplitudeOption = 0.1,
    pad: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="The CTF acts on a field N boxes wide; with 1 it wraps around, as RELION's."
        ),
    ] = 1,
    poses: Annotated[Poses, typer.Option(help="All directions, or views along z, within 45 degrees.")] = Poses.uniform,
    shift_px: Annotated[float, typer.Option(metavar="SD", help="Particles off the centre, in x and y.")] = 0.0,
    pose_error: Annotated[float, typer.Option(metavar="DEG", help="Error of the star's angles, rms.")] = 0.0,
    shift_error: Annotated[float, typer.Option(metavar="PX", help="Error of the star's origins, x and y.")] = 0.0,
    noise: NoiseOption = Noise.white,
    resolution: ResolutionOption = None,
    bfactors: BfactorsOption = False,
    contour: ContourOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Simulate particles, dense = bright, noise of variance 1.

    \b
    Example:
      taigs simulate spa model.npz -o sim --particles 500 --snr 0.05

    The folder then holds particles.mrcs, particles.star (RELION 3.1), truth.star (poses without the errors),
    truth.mrc and truth.npz, scaled like the images, and what was run.
    """
    from taigs import simulate as simulating
    from taigs.simulate_source import radius

    def plan(found):
        size = box or 2 * max(4, round(1.5 * radius(found.cloud) / found.pixel_size))
        return simulating.Particles(
            particles, size, found.pixel_size, snr, None if no_ctf else _defocus(defocus), voltage, cs,
            amplitude_contrast, poses.value, shift_px, pose_error, shift_error, noise.value, pad, seed,
        )  # fmt: skip

    reading = {"resolution": resolution, "bfactors": bfactors, "contour": contour}
    _run(context, source, pixel_size, reading, True, plan, simulating.check, simulating.simulate_particles)
    print(output / "particles.star")


@simulate.command()
def tilt(
    context: typer.Context,
    source: SourceArgument,
    output: OutputOption,
    angles: Annotated[str, typer.Option(metavar="MIN:MAX:STEP", help="Tilts about y, degrees.")] = "-60:60:3",
    shape: Annotated[
        str | None, typer.Option(metavar="NX,NY", help="Image size in pixels.  [default: the model's or what holds it]")
    ] = None,
    thickness: Annotated[
        int | None, typer.Option(metavar="PX", min=1, help="Of truth.mrc.  [default: likewise]")
    ] = None,
    pixel_size: PixelOption = None,
    snr: SnrOption = 0.1,
    defocus: Annotated[
        str | None,
        typer.Option(metavar="MIN:MAX", help="Angstrom, underfocus positive, of each image.  [default: no CTF]"),
    ] = None,
    voltage: VoltageOption = 300.0,
    cs: CsOption = 2.7,
    amplitude_contrast: AmplitudeOption = 0.1,
    dose: Annotated[
        float, typer.Option(metavar="E", help="e/A^2 per image; it damps later ones, the smallest tilts come first.")
    ] = 0.0,
    tilt_axis: Annotated[float, typer.Option(metavar="DEG", help="Tilt axis from vertical.")] = 0.0,
    shift_px: Annotated[float, typer.Option(metavar="SD", help="Images off the centre, in x and y.")] = 0.0,
    pose_error: Annotated[
        float, typer.Option(metavar="DEG", help="Error of ts.tlt and of the axis in ts.xf together, rms.")
    ] = 0.0,
    shift_error: Annotated[float, typer.Option(metavar="PX", help="Error of the shifts in ts.xf, x and y.")] = 0.0,
    noise: NoiseOption = Noise.white,
    resolution: ResolutionOption = None,
    bfactors: BfactorsOption = False,
    contour: ContourOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Simulate a tilt series, dense = bright, noise of variance 1.

    \b
    Example:
      taigs simulate tilt model.npz -o sim --angles -60:60:3 --snr 0.2

    The folder then holds ts.mrc with its alignment ts.tlt and ts.xf; truth.tlt and truth.xf, without the errors;
    truth.mrc and truth.npz, scaled like the images; ts.defocus (IMOD's, with --defocus), ts_dose.txt (with --dose;
    before each image), and what was run. An image has one CTF, astigmatic by up to 400 A, however far it is tilted.
    The damage is that of Grant & Grigorieff (2015).
    """
    from taigs import simulate_tilt as simulating
    from taigs.cli.project import image_size
    from taigs.simulate_source import extent

    def plan(found):
        needed = [max(simulating.SMALLEST_BOX, int(n / found.pixel_size) + 1) for n in extent(found.cloud)[::-1]]
        nz, ny, nx = found.shape or needed
        if shape is not None:
            ny, nx = image_size(shape)
        return simulating.TiltSeries(
            _tilts(angles), (thickness or nz, ny, nx), found.pixel_size, snr,
            None if defocus is None else _defocus(defocus), voltage, cs, amplitude_contrast, dose, tilt_axis,
            shift_px, pose_error, shift_error, noise.value, seed,
        )  # fmt: skip

    reading = {"resolution": resolution, "bfactors": bfactors, "contour": contour}
    _run(context, source, pixel_size, reading, False, plan, simulating.check, simulating.simulate_tilt_series)
    print(output / "ts.mrc")


def _defocus(text):
    """(least, most) of MIN:MAX, Angstrom."""
    return tuple(_range("--defocus", text, 2, "MIN:MAX in Angstrom, such as 8000:20000"))


def _tilts(text):
    """Angles of MIN:MAX:STEP, degrees."""
    import numpy as np

    from taigs.errors import InputError

    low, high, step = _range("--angles", text, 3, "MIN:MAX:STEP in degrees, such as -60:60:3")
    if not (step > 0 and -90 < low and high < 90 and 2 <= (high - low) / step + 1 < 1e4):
        raise InputError(f'--angles "{text}": expected a step above 0, two tilts or more, all within 90 degrees')
    return low + step * np.arange(int((high - low) / step + 1e-6) + 1)


def _range(option, text, count, expected):
    from taigs.errors import InputError

    try:
        values = [float(word) for word in text.split(":")]
    except ValueError:
        values = []
    if len(values) != count or not all(abs(v) < float("inf") for v in values) or values[0] > values[1]:
        raise InputError(f'{option} "{text}": expected {expected}')
    return values


def _run(context, source, pixel_size, reading, relion_centre, plan, check, run):
    """Read, check, and only then write."""
    from taigs.progress import make_progress
    from taigs.report import RunDirectory
    from taigs.simulate_source import read_source

    options = context.params
    with RunDirectory(options["output"], options["overwrite"]) as directory:
        with warnings.catch_warnings(record=True) as heard:
            found = read_source(
                source / "model.npz" if source.is_dir() else source, pixel_size, **reading, relion_centre=relion_centre
            )
        plan = plan(found)
        check(plan, found.cloud)
        for line in [f"warning: {w.message}" for w in heard] + ([] if options["quiet"] else [f"note: {found.note}"]):
            print(line, file=sys.stderr)

        from taigs import runtime

        started = runtime.init(Arch(options["arch"]).value, threads=options["threads"])
        directory.begin(sys.argv, options, started)
        with contextlib.closing(make_progress(options["quiet"])) as progress:
            run(found.cloud, plan, directory, progress, found.frame)
