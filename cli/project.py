"""`taigs project`: images of a model from any side."""

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from taigs.cli.options import (
    Arch,
    ArchOption,
    DebugOption,
    OverwriteOption,
    QuietOption,
    ThreadsOption,
    file_option,
)


def project(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model.npz, its folder, or a .ply.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="STACK.mrcs", help="Stack to write.")],
    tilt_angles: Annotated[Path | None, file_option("Tilts about y in degrees, one a line; writes a .tlt.")] = None,
    star: Annotated[Path | None, file_option("RELION's particles: poses, shifts and CTF; writes a .star.")] = None,
    rot: Annotated[
        str | None, typer.Option(metavar="DEG,..", help="RELION's Euler angle rot, one or a list; writes a .star.")
    ] = None,
    tilt: Annotated[str | None, typer.Option(metavar="DEG,..", help="Euler angle tilt.")] = None,
    psi: Annotated[str | None, typer.Option(metavar="DEG,..", help="Euler angle psi.")] = None,
    movie: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="N views on a great circle about the image's y, from --rot --tilt --psi."
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="NX,NY", help="Image size in pixels.  [default: the star's or the model's]")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="A", help="Angstrom.  [default: the star's or the model's]")
    ] = None,
    ctf: Annotated[bool, typer.Option("--ctf/--no-ctf", help="Apply the CTF of the star.")] = True,
    threads: ThreadsOption = None,
    arch: ArchOption = Arch.auto,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
):
    """Project a model: along tilts, Euler angles, the poses of a star file, or around it.

    \b
    Example:
      taigs project model.npz --tilt-angles ts.tlt -o reprojected.mrcs

    Images hold line integrals of the density, dense = bright: the units of the images that the model was fitted to.
    The volume's centre falls on pixel (n - 1) / 2 of tilt series, as in IMOD, and on n // 2 else, as in RELION.
    """
    euler = [angle is not None for angle in (rot, tilt, psi)]
    chosen = [tilt_angles is not None, star is not None, any(euler) or movie is not None]
    if sum(chosen) != 1:
        raise typer.BadParameter("give one of --tilt-angles, --star, --movie, or --rot --tilt --psi")
    if star is not None and pixel_size is not None:
        raise typer.BadParameter("--pixel-size with --star: the star says it")

    from taigs import projections
    from taigs.errors import InputError
    from taigs.io.clouds import read_cloud
    from taigs.progress import make_progress

    cloud, header = read_cloud(model / "model.npz" if model.is_dir() else model)
    with warnings.catch_warnings(record=True) as heard:
        if tilt_angles is not None:
            poses = projections.tilt_poses(tilt_angles)
        elif star is not None:
            poses = projections.star_poses(star, ctf)
        else:
            angles = [_angles(*pair) for pair in (("rot", rot), ("tilt", tilt), ("psi", psi))]
            if movie is not None and max(map(len, angles)) > 1:
                raise InputError("--movie starts from one view; expected one angle each for --rot, --tilt and --psi")
            poses = (
                projections.euler_poses(*angles)
                if movie is None
                else projections.movie_poses(movie, [a for [a] in angles])
            )
    for warning in heard:
        print(f"warning: {warning.message}", file=sys.stderr)
    size = _size(shape, poses.box, header.get("shape_zyx"), model)
    if poses.box is not None and size[0] != size[1]:
        raise InputError(f"--shape {shape}: expected a square image for particles of a star file")
    pixel_size = pixel_size or poses.pixel_size or header.get("pixel_size_A")
    if pixel_size is None:
        raise InputError(f"{model}: names no pixel size; try --pixel-size")
    projections.check_stack_name(output, poses.suffix, poses.source, overwrite)

    from taigs import runtime

    runtime.init(arch.value, threads=threads)
    with contextlib.closing(make_progress(quiet)) as progress:
        progress.stage("projecting")
        beside = projections.write_projections(output, cloud, poses, size, pixel_size, overwrite, progress)
    print(output)
    print(beside)


def _angles(name, text):
    from taigs.errors import InputError

    try:
        values = [float(part) for part in (text or "0").split(",")]
    except ValueError:
        values = [float("nan")]
    if not all(abs(value) < float("inf") for value in values):
        raise InputError(f'--{name} "{text}": expected degrees, such as 30 or 0,30,60')
    return values


def _size(text, box, shape_zyx, model):
    """(H, W) of --shape, of the star, or of the model."""
    from taigs.errors import InputError

    if text is not None:
        return image_size(text)
    if box is not None:
        return box, box
    if shape_zyx is None:
        raise InputError(f"{model}: names no image size; try --shape NX,NY")
    return tuple(shape_zyx[1:])


def image_size(text):
    """(H, W) of --shape NX,NY, or of one number for both."""
    from taigs.errors import InputError

    words = text.split(",")
    if len(words) not in (1, 2) or not all(word.strip().isdigit() and int(word) for word in words):
        raise InputError(f'--shape "{text}": expected pixels, such as 256 or 256,192 (x, y)')
    return int(words[-1]), int(words[0])
