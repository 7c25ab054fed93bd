"""Sub-tomograms as 2D stacks (RELION 5, Warp): one stack per particle, an image per tilt.

A particle's point x (from its centre) lies in the tomogram at E_sub (E x) + position, with E of its own
angles and E_sub of its sub-tomogram's; tilt f shows it at P_f of that. So a view's rotation is
P_f E_sub E. A stack was cut out around the particle's coordinate, of which its origin says that the
particle is off by -E_sub origin: it appears at -(P_f E_sub origin)_xy from the image's centre.
"""

import numpy as np

from taigs.errors import InputError
from taigs.geometry import euler_to_matrix
from taigs.imaging.ctf import Ctf
from taigs.io.listing import Listing
from taigs.io.optics import Optics, vector
from taigs.io.stacks import find_stack, stack_header
from taigs.io.tomograms import TiltSeries, tomograms_path


def are_subtomograms(tables):
    """Whether the tables of a STAR file list 2D stacks of sub-tomograms."""
    label = "rlnTomoSubTomosAre2DStacks"
    flags = [tables[name].ints(label) for name in ("general", "optics") if name in tables and label in tables[name]]
    return any(flag.any() for flag in flags)


def list_subtomograms(path, tables, datadir=None, tomograms=None, no_ctf=False):
    """Listing with an image for each visible tilt of each particle, by particle, then tilt.

    Raises
    ------
    InputError
        If a table, column or tilt series is missing or does not fit the stacks.
    """
    if "particles" not in tables or not len(tables["particles"]):
        raise InputError(f"{path}: no particles; found: {', '.join(f'data_{name}' for name in tables)}")
    particles = tables["particles"]
    particles.require("rlnTomoName", "rlnImageName", "rlnTomoVisibleFrames")
    optics = Optics(path, tables.get("optics"), particles)
    names, series = np.unique(particles.strings("rlnTomoName"), return_inverse=True)
    tomograms = tomograms_path(path, tomograms)
    tilts = TiltSeries(tomograms, names.tolist(), datadir, no_ctf)
    frames = Frames(path, particles, tilts, series, datadir)
    particle, tilt = frames.particle, frames.tilt

    apix, told_by = optics.pixel_size()
    to_tilt = tilts.rotations[tilt] @ _rotations(particles, "rlnTomoSubtomogram")[particle]
    origins = np.einsum("vij,vj->vi", to_tilt[:, :2], _vectors(particles, "rlnOrigin{}Angst")[particle])
    notes = [
        f"sub-tomograms as 2D stacks: {len(particle)} images of {len(particles)} particles in {len(names)} tilt "
        f"series ({tomograms}), {apix[0]:g} A per pixel from {told_by}",
        *frames.notes,
    ]
    optics.warn_of_aberrations()
    values = {}
    if not no_ctf:
        values["ctf"] = _ctf(particles, optics, tilts, series, frames, notes)
        values["premultiplied"] = optics.premultiplied()[particle]
    for name, label in (("half_sets", "rlnRandomSubset"), ("classes", "rlnClassNumber")):
        values[name] = particles.ints(label)[particle] if label in particles else None
    return Listing(
        source=path,
        stacks=frames.stacks,
        files=frames.stack[particle],
        slices=frames.section,
        where=lambda i: particles.where(particle[i]),
        pixel_sizes=apix[particle],
        rotations=to_tilt @ _rotations(particles, "rlnAngle")[particle],
        shifts=-origins / apix[particle, None],
        groups=None if optics.groups is None else optics.groups[particle],
        boxes=optics.column("rlnImageSize")[particle] if optics.has("rlnImageSize") else None,
        particles=np.unique(particle, return_inverse=True)[1],
        sections=frames.sections,
        notes=notes,
        **values,
    )


def _vectors(particles, label):
    """(n, 3) array of three columns, zero if there is none of them."""
    labels = [label.format(axis) for axis in "XYZ"]
    if not any(name in particles for name in labels):
        return np.zeros((len(particles), 3))
    return np.stack([particles.floats(name) for name in labels], axis=1)


def _rotations(particles, label):
    """(n, 3, 3) rotations of the Euler angles <label>Rot, Tilt, Psi, none if there are none."""
    labels = [f"{label}{name}" for name in ("Rot", "Tilt", "Psi")]
    if label == "rlnTomoSubtomogram" and not any(name in particles for name in labels):
        return np.broadcast_to(np.eye(3), (len(particles), 3, 3))
    return euler_to_matrix(*(particles.floats(name) for name in labels))


def _ctf(particles, optics, tilts, series, frames, notes):
    """Ctf of every image: the tilt's, with the defocus at the particle's depth.

    Warp's coordinates do not tell the depth: they count other pixels than RELION's, and which way defocus
    changes is not in the file (its rlnTomoHand is always -1). Its images are multiplied by their CTF
    already, so that an error of the defocus shifts weights, but no phases.
    """
    particle, tilt = frames.particle, frames.tilt
    if "rlnCenteredCoordinateXAngst" in particles:
        position = _vectors(particles, "rlnCenteredCoordinate{}Angst")
    elif "rlnCoordinateX" in particles and not tilts.by_warp.any():
        pixels = _vectors(particles, "rlnCoordinate{}")  # from a corner, as in RELION 4
        position = pixels * tilts.pixel_size[series, None] - tilts.size[series] / 2
    else:
        position = np.full((len(particles), 3), np.nan)
    depth = tilts.hand[series[particle]] * np.einsum("vi,vi->v", tilts.rotations[tilt, 2], position[particle])
    if np.isnan(depth).any():
        notes.append("every particle has the defocus of its tomogram's centre: the file does not tell its depth")
        depth = np.zeros(len(depth))
    else:
        notes.append(f"defocus corrected for the particles' depth: by {depth.min():.0f} to {depth.max():.0f} A")
    u, v, angle = tilts.defocus[tilt].T
    voltage, cs, contrast = (values[particle] for values in optics.microscope())
    return Ctf(voltage, cs, contrast, u + depth, v + depth, angle, scale=tilts.scale[tilt], dose=tilts.dose[tilt])


class Frames:
    """Which tilts of which particles there are images of, and where these are.

    Attributes
    ----------
    stacks : list of str
    stack : (n,) int array
        Stack of each particle.
    sections : (number of stacks,) int array
        Images that each must hold.
    particle, tilt, section : (V,) int arrays
        Of each image that shows something.
    notes : list of str
    """

    def __init__(self, path, particles, tilts, series, datadir):
        names, self.stack = np.unique(particles.strings("rlnImageName"), return_inverse=True)
        self.stacks = names.tolist()
        if len(self.stacks) < len(particles):
            twice = np.flatnonzero(np.bincount(self.stack)[self.stack] > 1)
            raise InputError(
                f"{particles.where(twice[1])}: stack {names[self.stack[twice[1]]]} again; expected one a particle"
            )
        visible = [_visible(particles, row, tilts, series[row]) for row in range(len(particles))]
        shown = np.array([v.sum() for v in visible])
        every = np.array([len(v) for v in visible])
        keeps_all = self._keeps_hidden(path, shown, every, datadir)
        self.sections = np.empty(len(names), int)
        self.sections[self.stack] = every if keeps_all else shown

        frame = np.concatenate([np.flatnonzero(v) for v in visible])
        rank = np.concatenate([np.arange(n) for n in shown])
        particle = np.repeat(np.arange(len(particles)), shown)
        tilt = tilts.first[series[particle]] + frame
        kept = tilts.scale[tilt] != 0
        if not kept.any():
            raise InputError(
                f"{path}: no image of any particle shows anything (rlnTomoVisibleFrames, rlnCtfScalefactor)"
            )
        self.particle, self.tilt, self.section = particle[kept], tilt[kept], (frame if keeps_all else rank)[kept]
        self.notes = [f"stacks hold {'all tilts, hidden ones too' if keeps_all else 'the visible tilts'}"]
        if not kept.all():
            self.notes.append(f"{(~kept).sum()} images left out, of tilts whose rlnCtfScalefactor is 0")

    def _keeps_hidden(self, path, shown, every, datadir):
        """Whether stacks have a section for tilts that are hidden, too (Warp) or not (RELION): the first one tells."""
        for row in np.flatnonzero(shown < every):
            found, _ = find_stack(self.stacks[self.stack[row]], path, datadir)
            if found is not None:
                return stack_header(found)[0].shape[0] == every[row]
        return False


def _visible(particles, row, tilts, series):
    """(tilts,) bool: which tilts show a particle."""
    text = particles.columns["rlnTomoVisibleFrames"][row]
    flags = vector(text)
    if flags is None or not set(flags) <= {0, 1}:
        shown = text.decode()[:60]
        raise InputError(f'{particles.where(row)}: rlnTomoVisibleFrames "{shown}"; expected a list such as [1,1,0]')
    if len(flags) != tilts.count[series]:
        raise InputError(
            f"{particles.where(row)}: rlnTomoVisibleFrames of {len(flags)} tilts; the series has {tilts.count[series]} "
            f"in {tilts.path}"
        )
    return np.array(flags, bool)
