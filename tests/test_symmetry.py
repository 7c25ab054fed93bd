"""taigs.symmetry: groups in the mathematical sense, with their axes where RELION has them."""

from pathlib import Path

import numpy as np
import pytest

from taigs.errors import InputError
from taigs.geometry import euler_to_matrix, rz
from taigs.symmetry import GOLDEN, symmetry_matrices

FIXTURE = Path(__file__).parent / "data" / "relion_symmetry.npz"  # see data/make_relion_symmetry.py
ORDERS = {"C1": 1, "C2": 2, "C5": 5, "C99": 99, "D1": 2, "D2": 4, "D7": 14, "T": 12, "O": 24}
ORDERS |= dict.fromkeys(("I", "I1", "I2", "I3", "I4"), 60)
IN_FIXTURE = ("C1", "C2", "C7", "D1", "D2", "D3", "D7", "T", "O", "I", "I1", "I2", "I3", "I4")
# All n-fold axes that RELION 3.1.3 gives its groups, of any length; of the icosahedral ones the 5-fold.
AXES = {
    ("D3", 2): [(np.cos(a), np.sin(a), 0) for a in np.radians((0, 60, 120))],
    ("T", 3): [(0, 0, 3), (0, 8**0.5, -1), (6**0.5, -(2**0.5), -1), (6**0.5, 2**0.5, 1)],
    ("O", 4): [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
    ("I1", 5): [(GOLDEN, 0, 1), (GOLDEN, 0, -1), (1, GOLDEN, 0), (1, -GOLDEN, 0), (0, 1, GOLDEN), (0, 1, -GOLDEN)],
    ("I2", 5): [(1, 0, GOLDEN), (1, 0, -GOLDEN), (GOLDEN, 1, 0), (GOLDEN, -1, 0), (0, GOLDEN, 1), (0, GOLDEN, -1)],
    ("I3", 5): [(0, 0, 1), *((2 * np.cos(a), 2 * np.sin(a), -1) for a in np.radians(range(0, 360, 72)))],
    ("I4", 5): [(0, 0, 1), *((2 * np.cos(a), 2 * np.sin(a), 1) for a in np.radians(range(0, 360, 72)))],
}


def distances(matrices, group):
    """Largest entry of the difference between each matrix and the nearest of the group."""
    return np.abs(np.asarray(matrices)[:, None] - group[None]).max(axis=(2, 3)).min(axis=1)


@pytest.mark.parametrize("name, order", ORDERS.items())
def test_the_matrices_are_a_group_of_rotations(name, order):
    group = symmetry_matrices(name)
    assert group.shape == (order, 3, 3) and group.dtype == np.float64
    np.testing.assert_array_equal(group[0], np.eye(3))
    np.testing.assert_allclose(group @ group.transpose(0, 2, 1), np.broadcast_to(np.eye(3), group.shape), atol=1e-13)
    np.testing.assert_allclose(np.linalg.det(group), 1)
    assert all(np.sum(np.abs(group - one).max(axis=(1, 2)) < 1e-6) == 1 for one in group)
    assert distances(group.transpose(0, 2, 1), group).max() < 1e-13
    for one in group:
        assert distances(one @ group, group).max() < 1e-12


@pytest.mark.parametrize("name", IN_FIXTURE)
def test_relion_symmetrises_a_map_with_the_same_operators(name):
    with np.load(FIXTURE) as fixture:
        for blob, copies in zip(fixture["blobs"], fixture[name], strict=True):
            own = symmetry_matrices(name) @ blob
            apart = np.linalg.norm(own[:, None] - copies, axis=2)
            # RELION's interpolation moves a blob by up to an eighth of a voxel; the copies are 7 and more apart.
            assert own.shape == copies.shape
            assert apart.min(axis=0).max() < 0.15 and apart.min(axis=1).max() < 0.15


@pytest.mark.parametrize("name, fold", AXES)
def test_a_groups_axes_are_those_of_relion(name, fold):
    group = symmetry_matrices(name)
    turns = group[np.abs(np.trace(group, axis1=1, axis2=2) - 1 - 2 * np.cos(2 * np.pi / fold)) < 1e-6]
    expected = np.array(AXES[name, fold]) / np.linalg.norm(AXES[name, fold], axis=1)[:, None]
    # Each axis carries two such turns, there and back; of 180 degrees they are one.
    assert len(turns) == len(expected) * (1 if fold == 2 else 2)
    for turn in turns:
        assert np.sum(np.linalg.norm(expected @ turn.T - expected, axis=1) < 1e-12) == 1


def test_the_icosahedral_settings_are_one_group_turned():
    i1, i2, i3, i4 = (symmetry_matrices(name) for name in ("I1", "I2", "I3", "I4"))
    assert distances(rz(90) @ i1 @ rz(-90), i2).max() < 1e-12
    assert distances(rz(180) @ i3 @ rz(180), i4).max() < 1e-12
    assert distances(i1, i2).max() > 0.1 and distances(i3, i4).max() > 0.1
    np.testing.assert_array_equal(symmetry_matrices("I"), i2)


def test_views_that_differ_by_an_operator_are_the_same(rng):
    group = symmetry_matrices("D3")
    particle = (group @ rng.normal(size=(5, 1, 3, 1)))[..., 0].reshape(-1, 3)
    view = euler_to_matrix(20, 50, 80)[:2]
    expected = particle @ view.T
    for one in group:
        apart = np.linalg.norm((particle @ (view @ one).T)[:, None] - expected, axis=2)
        assert apart.min(axis=1).max() < 1e-12


@pytest.mark.parametrize("name, same", [("c4", "C4"), (" d2 ", "D2"), ("o", "O"), ("i", "I2"), ("i3", "I3")])
def test_small_letters_and_blanks_do_not_matter(name, same):
    np.testing.assert_array_equal(symmetry_matrices(name), symmetry_matrices(same))


@pytest.mark.parametrize("name", ["", "C", "C0", "C100", "D-2", "C2v", "Cs", "Td", "Oh", "I5", "T1", "5", None])
def test_what_is_no_rotation_group_is_refused_with_those_known(name):
    with pytest.raises(InputError, match="not known; expected C1 to C99, D1 to D99, I or T, O, I1, I2, I3, I4"):
        symmetry_matrices(name)
