"""Point groups of rotations, with their axes where RELION has them.

Cn  n-fold z                        Dn  n-fold z, 2-fold x
T   3-fold z, 2-fold (0, sqrt 2, 1)
O   4-fold x, y, z
I1  2-fold x, y, z, 5-fold (p, 0, 1), p the golden ratio
I2  2-fold x, y, z, 5-fold (1, 0, p): I1 turned by 90 degrees about z; also called I
I3  5-fold z, (2, 0, -1), 2-fold y
I4  5-fold z, (2, 0, 1), 2-fold y: I3 turned by 180 degrees about z
"""

import re

import numpy as np

from taigs.errors import InputError
from taigs.geometry import quaternion_to_matrix

X, Z = (1, 0, 0), (0, 0, 1)
GOLDEN = (1 + 5**0.5) / 2
# Two rotations that make the whole group: (axis, of any length; fold).
GENERATORS = {
    "T": ((Z, 3), ((0, 2**0.5, 1), 2)),
    "O": ((Z, 4), (X, 4)),
    "I1": ((Z, 2), ((GOLDEN, 0, 1), 5)),
    "I2": ((Z, 2), ((1, 0, GOLDEN), 5)),
    "I3": ((Z, 5), ((2, 0, -1), 5)),
    "I4": ((Z, 5), ((2, 0, 1), 5)),
}


def symmetry_matrices(name):
    """Rotations that turn a particle of a point group into itself.

    Its density has rho(S x) = rho(x) for each rotation S and every x from the volume centre; so a view with the
    rotation R (volume -> image) is one with R S as well. Where a group's axes lie is a convention: this is
    RELION's, measured on maps that RELION 3.1.3 symmetrised.

    Parameters
    ----------
    name : str
        C1 to C99, D1 to D99, T, O, I, I1, I2, I3 or I4, in small letters or capitals.

    Returns
    -------
    (G, 3, 3) float64 array
        All of the group, for vectors (x, y, z); n, 2n, 12, 24 or 60, first the identity.

    Raises
    ------
    InputError
        If it is no such group. Groups with mirrors, which no protein has, are none.
    """
    group = [np.eye(3)]
    generators = [_rotation(*generator) for generator in _generators(name)]
    for known in group:  # which grows
        for generator in generators:
            product = generator @ known
            if np.abs(np.array(group) - product).max(axis=(1, 2)).min() > 1e-6:
                group.append(product)
    return np.array(group)


def _generators(name):
    name = str(name).strip().upper()
    if re.fullmatch(r"[CD][1-9]\d?", name):
        turn = (Z, int(name[1:]))
        return (turn,) if name[0] == "C" else (turn, (X, 2))
    name = "I2" if name == "I" else name
    if name not in GENERATORS:
        raise InputError(f'symmetry "{name}" is not known; expected C1 to C99, D1 to D99, I or {", ".join(GENERATORS)}')
    return GENERATORS[name]


def _rotation(axis, fold):
    """(3, 3) right-handed rotation by 360 / fold degrees about an axis."""
    half = np.pi / fold
    return quaternion_to_matrix([np.cos(half), *np.sin(half) * np.array(axis) / np.linalg.norm(axis)])
