"""RELION's optics: what particles share, in a table of its own (3.1 or later) or beside the poses (3.0)."""

import re
import warnings

import numpy as np

from taigs.errors import InputError, InputWarning, Problems
from taigs.imaging.ctf import Ctf

ABERRATIONS = {"rlnBeamTiltX": 0, "rlnBeamTiltY": 0, "rlnOddZernike": 0, "rlnEvenZernike": 0}
ABERRATIONS |= {"rlnMagMat00": 1, "rlnMagMat01": 0, "rlnMagMat10": 0, "rlnMagMat11": 1}
NO_CTF = "try --no-ctf if the images are projections without one"
_NUMBER = re.compile(rb"[^\[\],\s]+")


def vector(text):
    """Numbers of "[1.0,0,-2]", the form of RELION's columns of vectors; None if any of them is none."""
    try:
        return [float(number) for number in _NUMBER.findall(text)]
    except ValueError:
        return None


class Optics:
    """Columns of the particles, whether they stand in the optics table (RELION 3.1 or later) or beside the poses.

    Parameters
    ----------
    path : Path
    table : taigs.io.star.Table or None
    particles : taigs.io.star.Table
    """

    def __init__(self, path, table, particles):
        self.path, self.table, self.particles, self.groups, self._row = path, table, particles, None, None
        self.count = "one optics group"
        if table is None:
            return
        table.require("rlnOpticsGroup")
        particles.require("rlnOpticsGroup")
        numbers, self.groups = table.ints("rlnOpticsGroup"), particles.ints("rlnOpticsGroup")
        row_of = {number: row for row, number in enumerate(numbers.tolist())}
        if len(row_of) < len(numbers):
            raise InputError(f"{path}: optics groups {numbers.tolist()}; expected different numbers")
        unknown = np.flatnonzero(~np.isin(self.groups, numbers))
        if len(unknown):
            found = ", ".join(map(str, row_of))
            raise InputError(
                f"{particles.where(unknown[0])}: no optics group {self.groups[unknown[0]]}; found: {found}"
            )
        self._row = np.array([row_of[group] for group in self.groups.tolist()])
        used = len(np.unique(self._row))
        self.count = "one optics group" if used == 1 else f"{used} optics groups"

    def has(self, label):
        return (self.table is not None and label in self.table) or label in self.particles

    def column(self, label, default=None):
        """(V,) values for each particle; `default` if there is no such column and a default is given."""
        if self.table is not None and label in self.table:
            return self.table.floats(label)[self._row]
        if label in self.particles or default is None:
            return self.particles.floats(label)
        return np.full(len(self.particles), float(default))

    def pixel_size(self):
        """((V,) Angstrom per pixel, the columns that say so)."""
        for label in ("rlnImagePixelSize", "rlnPixelSize"):
            if self.has(label):
                values, told_by = self.column(label), label
                break
        else:
            label = "rlnDetectorPixelSize"
            if not self.has(label):
                raise InputError(
                    f"{self.path}: no pixel size; expected rlnImagePixelSize (block optics), rlnPixelSize, "
                    "or rlnDetectorPixelSize and rlnMagnification; try adding one of them"
                )
            if not self.has("rlnMagnification"):
                warnings.warn(
                    f"{self.path}: rlnDetectorPixelSize without rlnMagnification taken for Angstrom, as Warp means it",
                    InputWarning,
                    stacklevel=5,
                )
            values = self.column(label) * 1e4 / self.column("rlnMagnification", 1e4)
            told_by = "rlnDetectorPixelSize and rlnMagnification"
        bad = np.flatnonzero(~(values > 0))
        if len(bad):
            raise InputError(f"{self.particles.where(bad[0])}: pixel size {values[bad[0]]:g} A; expected more than 0")
        return values, told_by

    def microscope(self):
        """Voltage (kV), spherical aberration (mm) and amplitude contrast: a (V,) array each."""
        labels = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
        missing = [label for label in labels if not self.has(label)]
        if missing:
            raise InputError(f"{self.path}: no {', '.join(missing)}; {NO_CTF}")
        return [self.column(label) for label in labels]

    def ctf(self):
        """Ctf of single particles."""
        labels = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
        try:
            self.particles.require(*labels)
        except InputError as error:
            raise InputError(f"{error}; {NO_CTF}") from error
        problems = Problems()
        defocus = [problems.attempt(self.particles.floats, label) for label in labels]
        microscope = problems.attempt(self.microscope)
        optional = {"rlnCtfBfactor": 0, "rlnPhaseShift": 0, "rlnCtfScalefactor": 1}
        found = [problems.attempt(self.column, label, default) for label, default in optional.items()]
        problems.report(self.path)
        bfactor, phase, scale = found
        if np.any(bfactor < 0):
            warnings.warn(
                f"{self.path}: rlnCtfBfactor down to {bfactor.min():g}; taken for a loss all the same, as Warp does",
                InputWarning,
                stacklevel=5,
            )
        return Ctf(*microscope, *defocus, phase, np.abs(bfactor), scale)

    def premultiplied(self):
        """(V,) bool: whether the images were multiplied by their CTF."""
        flipped = np.flatnonzero(self.column("rlnCtfDataArePhaseFlipped", 0))
        if len(flipped):
            where = self.particles.where(flipped[0])
            raise InputError(f"{where}: phase-flipped images; expected untouched ones or rlnCtfDataAreCtfPremultiplied")
        return self.column("rlnCtfDataAreCtfPremultiplied", 0) != 0

    def warn_of_aberrations(self):
        """Say which aberrations the file has, since none is applied."""
        found = []
        for label, neutral in ABERRATIONS.items():
            tables = [table for table in (self.table, self.particles) if table is not None and label in table]
            values = [vector(text) for table in tables for text in set(table.columns[label].tolist())]
            if any(value is None or np.any(np.abs(np.subtract(value, neutral)) > 1e-6) for value in values):
                found.append(label)
        if found:
            warnings.warn(
                f"{self.path}: {', '.join(found)} are not applied; expect less at the highest resolution",
                InputWarning,
                stacklevel=5,
            )
