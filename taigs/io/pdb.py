"""PDB and mmCIF: every Gaussian as a pseudo-atom, for the programs that know nothing but atoms.

Coordinates are those of the model's map, voxel 0 at its MRC origin. Occupancy is the mass over the largest |mass|,
B = 8 pi^2 (mean variance along the axes), and the anisotropic U is the covariance in A^2. Each atom is a residue UNL
(unknown ligand), or programs would draw bonds.
"""

import numpy as np

from taigs import __version__
from taigs.errors import InputError
from taigs.io.clouds import map_grid, map_position
from taigs.io.mrc import atomic_file

MOST_ATOMS = 99_999  # of PDB: five digits
RESIDUES = 9999  # of a chain
CHAINS = "ABCDEFGHIJK"
COORDINATES = (-999.9994, 9999.9994)  # what eight columns hold
LARGEST_U = 999.9  # A^2; seven columns, times 10^4
TENSOR = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
ATOM_SITE = (
    "group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id",
    "label_entity_id", "label_seq_id", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy", "B_iso_or_equiv",
    "auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num",
)  # fmt: skip


def pseudo_atoms(cloud, header):
    """What both formats hold of a cloud.

    Returns
    -------
    positions : (N, 3) array
        Angstrom, in the frame of the model's map.
    occupancies, b_factors : (N,) arrays
        b_factors in A^2.
    tensors : (N, 6) array
        U11 U22 U33 U12 U13 U23, A^2.
    remarks : list of str
        What the numbers mean.
    """
    largest = np.abs(cloud.masses).max(initial=0) or 1.0
    covariances = cloud.covariances()
    b_factors = 8 * np.pi**2 * np.trace(covariances, axis1=1, axis2=2) / 3
    tensors = np.stack([covariances[:, i, j] for i, j in TENSOR], axis=1)
    frame = "the map" if map_grid(header) else "the model, whose centre is at 0 0 0"
    remarks = [
        f"taigs {__version__}: a cloud of Gaussians as pseudo-atoms.",
        f"Coordinates: Angstrom, frame of {frame}.",
        f"Occupancy: mass divided by {largest:.6g}.",
        "B: 8 pi^2 sigma^2, sigma^2 the mean variance of the three axes.",
        "U (anisotropic): the covariance of the Gaussian in A^2.",
    ]
    return cloud.positions + map_position(header), cloud.masses / largest, b_factors, tensors, remarks


def write_pdb(path, cloud, header, overwrite=False):
    """Write pseudo-atoms as PDB; as `taigs.io.mrc.atomic_file`.

    Raises
    ------
    InputError
        More atoms, longer distances or wider Gaussians than the columns of a PDB hold.
    """
    if len(cloud) > MOST_ATOMS:
        raise InputError(f"{path}: {len(cloud):,} Gaussians; expected at most {MOST_ATOMS:,} in PDB; try --to cif")
    positions, occupancies, b_factors, tensors, remarks = pseudo_atoms(cloud, header)
    if len(cloud) and not COORDINATES[0] < positions.min() <= positions.max() < COORDINATES[1]:
        ends = f"{positions.min():.0f} to {positions.max():.0f}"
        raise InputError(f"{path}: coordinates from {ends} A; expected -999 to 9999 in PDB; try --to cif")
    if np.abs(tensors).max(initial=0) > LARGEST_U:
        raise InputError(f"{path}: a sigma above {LARGEST_U**0.5:.1f} A is too wide for a PDB; try --to cif")
    lines = [f"REMARK   6 {remark}" for remark in ["", *remarks]]
    lines.append("CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1")
    values = np.column_stack([positions, occupancies, b_factors]).tolist()
    tensors = np.rint(tensors * 1e4).astype(int).tolist()
    for i, ((x, y, z, occupancy, b), u) in enumerate(zip(values, tensors, strict=True)):
        name = f"{i + 1:5d}  C   UNL {CHAINS[i // RESIDUES]}{i % RESIDUES + 1:4d}"
        numbers = f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{_six(b)}"
        lines.append(f"HETATM{name}    {numbers}           C")
        lines.append(f"ANISOU{name}  {''.join(f'{n:7d}' for n in u)}       C")
    with atomic_file(path, overwrite) as file:
        file.write("".join(f"{line:<80}\n" for line in [*lines, "END"]).encode("ascii"))


def _six(b):
    """A B-factor in six columns: tomograms have some above 999.99, which keep fewer decimals."""
    return next(text for digits in (2, 1, 0) if len(text := f"{b:6.{digits}f}") == 6)


def write_cif(path, cloud, header, overwrite=False):
    """Write pseudo-atoms as mmCIF, any number of them; as `taigs.io.mrc.atomic_file`."""
    positions, occupancies, b_factors, tensors, remarks = pseudo_atoms(cloud, header)
    head = ["data_taigs", *(f"# {remark}" for remark in remarks), "_entry.id taigs"]
    head += ["loop_", "_entity.id", "_entity.type", "1 non-polymer", "#"]
    head += ["loop_", *(f"_atom_site.{name}" for name in ATOM_SITE)]
    values = np.column_stack([positions, occupancies, b_factors]).tolist()
    with atomic_file(path, overwrite) as file:
        _write_lines(file, head)
        _write_lines(
            file,
            (
                f"HETATM {i} C C . UNL A 1 . {x:.3f} {y:.3f} {z:.3f} {occupancy:.6f} {b:.3f} {i} A 1"
                for i, (x, y, z, occupancy, b) in enumerate(values, start=1)
            ),
        )
        names = [f"_atom_site_anisotrop.U[{i + 1}][{j + 1}]" for i, j in TENSOR]
        _write_lines(file, ["#", "loop_", "_atom_site_anisotrop.id", "_atom_site_anisotrop.type_symbol", *names])
        rows = enumerate(tensors.tolist(), start=1)
        _write_lines(file, (f"{i} C {' '.join(f'{n:.5f}' for n in u)}" for i, u in rows))
        _write_lines(file, ["#"])


def _write_lines(file, lines):
    file.writelines(f"{line}\n".encode("ascii") for line in lines)
