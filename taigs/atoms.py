"""Atomic models (PDB, mmCIF) as clouds of Gaussians; needs gemmi, the extra [model]."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.errors import InputError, ResourceError
from taigs.io.files import existing_file

EXTENSIONS = (".pdb", ".ent", ".cif", ".mmcif")
LONGEST_FILE = 1 << 29  # bytes: some 5 million atoms
MOST_PACKED = 50  # times smaller by gzip; atoms are packed 4 to 8 times
SIGMA_PER_RESOLUTION = 0.225  # as ChimeraX's molmap: the Gaussian's transform is 1/e at wave number 1 / resolution


@dataclass(frozen=True)
class Atoms:
    """N atoms: positions (N, 3) in A (x, y, z), weights (N,), B factors (N,) in A^2.

    A weight is the electron scattering factor at zero angle (A; International Tables C 4.3.2.2) times the occupancy.
    """

    positions: np.ndarray
    weights: np.ndarray
    bfactors: np.ndarray


def is_atomic_model(path):
    """Whether a file's name says that it holds atoms; a further .gz does not matter."""
    return Path(str(path).lower().removesuffix(".gz")).suffix in EXTENSIONS


def read_atoms(path):
    """Atoms of the first model of a PDB or mmCIF file, without water.

    Raises
    ------
    InputError
        The file is missing, no atomic model, or holds no atoms.
    ResourceError
        gemmi is not installed.
    """
    path = existing_file(path)
    try:
        import gemmi
    except ImportError:
        raise ResourceError(f"{path}: reading atoms needs gemmi; try pip install 'taigs[model]'") from None
    _check_length(path)
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError, IndexError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable atomic model ({text}); expected PDB or mmCIF") from None
    rows = []
    if len(structure):
        structure.remove_waters()
        for site in structure[0].all():
            atom = site.atom
            factors = atom.element.c4322
            if factors is not None:  # the rarest elements have no table
                rows.append((*atom.pos.tolist(), sum(factors.a) * atom.occ, atom.b_iso))
    table = np.array(rows).reshape(-1, 5)
    table = table[np.isfinite(table).all(axis=1) & (table[:, 3] > 0)]
    if not len(table):
        raise InputError(f"{path}: holds no atoms; expected an atomic model")
    return Atoms(table[:, :3], table[:, 3], table[:, 4])


def _check_length(path):
    """Refuse what is too long to hold atoms, packed or not: gemmi reads all there is."""
    size = path.stat().st_size
    most = LONGEST_FILE
    if path.suffix.lower() == ".gz":
        most, size = min(most, MOST_PACKED * size), 0
        try:
            with gzip.open(path) as file:
                while size <= most and (part := file.read(1 << 20)):
                    size += len(part)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: the compressed file is damaged ({error}); fetch it again") from error
    if size > most:
        raise InputError(f"{path}: more than {most:,} bytes; expected an atomic model; is this the right file?")


def atom_cloud(atoms, sigma, with_bfactors=False):
    """One round Gaussian per atom.

    Parameters
    ----------
    atoms : Atoms
    sigma : float
        Angstrom; of a map at resolution d: 0.225 d.
    with_bfactors : bool
        Add B / (8 pi^2) to the variance of each atom.
    """
    variance = np.full(len(atoms.weights), float(sigma) ** 2)
    if with_bfactors:
        variance += np.maximum(atoms.bfactors, 0) / (8 * np.pi**2)
    log_sigmas = np.tile(np.log(variance)[:, None] / 2, 3)
    return GaussianCloud(atoms.positions, log_sigmas, np.tile([1.0, 0, 0, 0], (len(variance), 1)), atoms.weights)
