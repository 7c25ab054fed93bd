"""Single particles: whatever lists them, read into Views. RELION's STAR files are read here."""

import numpy as np

from taigs.errors import InputError, Problems, raise_problems
from taigs.geometry import euler_to_matrix
from taigs.io.cryodrgn import list_cryodrgn
from taigs.io.cryosparc import list_cryosparc
from taigs.io.files import existing_file
from taigs.io.listing import Listing, choose, listed_views
from taigs.io.optics import Optics
from taigs.io.star import read_star
from taigs.io.subtomograms import are_subtomograms, list_subtomograms

LARGEST_SECTION = 2**31  # of an MRC file


def read_particles(
    path, *, datadir=None, class_number=None, subset=None, box_crop=None, pixel_size=None, no_ctf=False, poses=None,
    ctf=None, tomograms=None, mode0=None,
):  # fmt: skip
    """Read particles with known poses as Views. Images are read when they are asked for.

    Parameters
    ----------
    path : path-like
        RELION's particles (.star, 3.0 to 5, also 2D stacks of sub-tomograms of RELION 5 or Warp), cryoSPARC's
        (.cs), or a stack or list of stacks (.mrcs, .mrc, .txt) with cryoDRGN's poses.
    datadir : path-like, optional
        Folder that the names of stacks are relative to, or that holds the stacks; default: the working
        directory, or whichever folder above `path` fits.
    class_number : int, optional
        Only the particles of this class (from 1).
    subset : {1, 2}, optional
        Only the particles of this half-set.
    box_crop : int, optional
        Crop the images to this box in Fourier space: coarser pixels, the same field.
    pixel_size : float, optional
        Crop likewise, to the even box whose pixel size in Angstrom is nearest to this, but not below.
    no_ctf : bool
        The images are projections, without a CTF.
    poses : path-like, optional
        cryoDRGN's pose.pkl; or for a .cs file without poses, the passthrough .cs that holds them.
    ctf : path-like, optional
        cryoDRGN's ctf.pkl.
    tomograms : path-like, optional
        tomograms.star of sub-tomograms; default: the one beside `path`.
    mode0 : {"signed", "unsigned"}, optional
        What bytes are (MRC mode 0); default: as IMOD's flag says, else signed. cryoSPARC takes them for unsigned.

    Returns
    -------
    Views
        Centre N // 2, weights 1. ``half_sets`` only if the file assigns them, ``particles`` only for
        sub-tomograms.

    Raises
    ------
    InputError
        If a file, value or stack cannot be used or is missing.
    ResourceError
        If a file may not be read.

    Warns
    -----
    InputWarning
        If pixel sizes disagree by more than 1 %, or the file has aberrations, which are not applied.
    """
    return read_particles_with_notes(
        path, datadir=datadir, class_number=class_number, subset=subset, box_crop=box_crop, pixel_size=pixel_size,
        no_ctf=no_ctf, poses=poses, ctf=ctf, tomograms=tomograms, mode0=mode0,
    )[0]  # fmt: skip


def read_particles_with_notes(
    path, *, datadir=None, class_number=None, subset=None, box_crop=None, pixel_size=None, no_ctf=False, poses=None,
    ctf=None, tomograms=None, mode0=None,
):  # fmt: skip
    """As `read_particles`, but return (views, notes): what was found and decided, one sentence each."""
    path = existing_file(path)
    kind = path.suffix.lower()
    allowed = {".star": {"tomograms"}, ".cs": {"poses"}}.get(kind, {"poses", "ctf"})
    for name, value in (("poses", poses), ("ctf", ctf), ("tomograms", tomograms)):
        if value is not None and name not in allowed:
            raise InputError(f"{path}: {name} ({value}) besides a {kind} file, which has no use for it")
    if kind == ".star":
        listing = _list_star(path, datadir, no_ctf, tomograms)
    elif kind == ".cs":
        listing = list_cryosparc(path, poses, no_ctf)
    elif kind in (".mrcs", ".mrc", ".txt"):
        listing = list_cryodrgn(path, datadir, poses, ctf, no_ctf)
    else:
        raise InputError(f"{path}: expected particles as .star, .cs, .mrcs, .mrc or .txt")
    if listing.rotations is None:
        raise InputError(f"{path}: no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); try a file of a refinement")
    listing = choose(listing, class_number, subset)
    views = listed_views(listing, datadir, box_crop, pixel_size, mode0)
    return views, listing.notes


def _list_star(path, datadir, no_ctf, tomograms):
    tables = read_star(path)
    if are_subtomograms(tables):
        return list_subtomograms(path, tables, datadir, tomograms, no_ctf)
    if tomograms is not None:
        raise InputError(f"{path}: tomograms ({tomograms}) besides particles that are no sub-tomograms")
    return list_relion(path, tables, no_ctf)


def list_relion(path, tables, no_ctf=False):
    """Listing of RELION's single particles; `tables` as from `read_star`. Raises and warns as `read_particles`."""
    particles = _particles_table(path, tables)
    particles.require("rlnImageName")
    optics = Optics(path, tables.get("optics"), particles)
    if np.any(optics.column("rlnImageDimensionality", 2) == 3):
        raise InputError(
            f"{path}: the particles are volumes; expected images; try extracting sub-tomograms as 2D stacks"
        )
    problems = Problems()
    images = problems.attempt(_images, path, particles)
    size = problems.attempt(optics.pixel_size)
    optics.warn_of_aberrations()
    values = {"rotations": problems.attempt(_rotations, particles)}
    for name, label in (("half_sets", "rlnRandomSubset"), ("classes", "rlnClassNumber")):
        values[name] = problems.attempt(particles.ints, label) if label in particles else None
    if not no_ctf:
        values["ctf"] = problems.attempt(optics.ctf)
        values["premultiplied"] = problems.attempt(optics.premultiplied)
    values["boxes"] = problems.attempt(optics.column, "rlnImageSize") if optics.has("rlnImageSize") else None
    origins = problems.attempt(_origins, particles, size[0] if size else 1.0)
    problems.report(path)
    (stacks, files, slices), (apix, told_by) = images, size
    generation = "3.0" if optics.table is None else "3.1 or later"
    notes = [
        f"RELION {generation}: {len(particles)} particles of {optics.count}, {apix[0]:g} A per pixel from {told_by}"
    ]
    notes += ["images without CTF, as given"] if no_ctf else []
    return Listing(
        source=path,
        stacks=stacks,
        files=files,
        slices=slices,
        where=particles.where,
        pixel_sizes=apix,
        shifts=-origins,
        groups=optics.groups,
        notes=notes,
        **values,
    )


def _rotations(particles):
    """(V, 3, 3) rotations volume -> image; None if the file has none of the angles."""
    labels = [f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")]
    if not any(label in particles for label in labels):
        return None
    particles.require(*labels)
    problems = Problems()
    angles = [problems.attempt(particles.floats, label) for label in labels]
    problems.report(particles.path)
    return euler_to_matrix(*angles)


def _particles_table(path, tables):
    loops = [table for name, table in tables.items() if name != "optics" and "rlnImageName" in table]
    table = tables.get("particles") or tables.get("images") or (loops[0] if len(loops) == 1 else None)
    if table is None:
        blocks = ", ".join(f"data_{name}" for name in tables)
        raise InputError(f"{path}: no block of particles (with rlnImageName); found: {blocks}")
    if not len(table):
        raise InputError(f"{path}: no rows in block {table.name}; expected particles")
    return table


def _images(path, particles):
    """(stacks, index of the stack, section from 0) of "000123@stack.mrcs"."""
    index, files, slices, problems = {}, [], [], []
    for row, name in enumerate(particles.columns["rlnImageName"].tolist()):
        section, _, stack = name.partition(b"@")
        if not (stack and section.isdigit() and len(section) < 20 and 0 < int(section) < LARGEST_SECTION):
            shown = name.decode()[:60]
            problems.append(
                f'{particles.where(row)}: rlnImageName "{shown}"; expected one such as 000123@stack.mrcs, from 1'
            )
            continue
        files.append(index.setdefault(stack, len(index)))
        slices.append(int(section) - 1)
    raise_problems(path, problems)
    return [stack.decode() for stack in index], np.array(files), np.array(slices)


def _origins(particles, apix):
    """(V, 2) origins in pixels, from Angstrom (3.1 or later) or pixels (3.0)."""
    for suffix, unit in (("Angst", apix), ("", 1.0)):
        labels = [f"rlnOrigin{axis}{suffix}" for axis in "XY"]
        if any(label in particles for label in labels):
            return np.stack([particles.floats(label) / unit for label in labels], axis=1)
    return np.zeros((len(particles), 2))
