"""taigs.geometry against written-out matrices, scipy and brute-force pixel positions."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from taigs.errors import InputError
from taigs.geometry import (
    check_rotations,
    euler_to_matrix,
    imod_to_relion,
    imod_views_geometry,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rx,
    ry,
    rz,
    tilt_rotation,
)


@pytest.fixture
def rng():
    return np.random.default_rng(20240611)


def random_xf(rng, n, magnification=1.0):
    """Rotations by any angle, shifts of some pixels: (n, 2, 3)."""
    return np.concatenate([rz(rng.uniform(-180, 180, n))[:, :2, :2] / magnification,
                           rng.normal(0, 9, (n, 2, 1))], axis=2)  # fmt: skip


@pytest.mark.parametrize("axis, rotation", [(0, rx), (1, ry), (2, rz)])
def test_elementary_rotations_are_active_and_right_handed(axis, rotation):
    next_axis, last_axis = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
    np.testing.assert_allclose(rotation(90) @ next_axis, last_axis, atol=1e-15)
    np.testing.assert_allclose(rotation(90) @ last_axis, -next_axis, atol=1e-15)
    np.testing.assert_allclose(rotation([[0.0, 30.0]])[0, 1], rotation(30.0))


def test_euler_matrix_equals_relions_written_out_rows(rng):
    a, b, g = rng.uniform(-180, 180, 3)
    ca, cb, cg = np.cos(np.deg2rad([a, b, g]))
    sa, sb, sg = np.sin(np.deg2rad([a, b, g]))
    expected = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    np.testing.assert_allclose(euler_to_matrix(a, b, g), expected, atol=1e-14)


def test_euler_angles_survive_the_way_through_a_matrix(rng):
    angles = rng.uniform([-180, 0, -180], [180, 180, 180], (200, 3))
    np.testing.assert_allclose(matrix_to_euler(euler_to_matrix(*angles.T)), angles, atol=1e-9)


@pytest.mark.parametrize("tilt", [0, 180, 1e-7, 180 - 1e-7])
def test_euler_angles_at_the_poles_give_back_the_same_matrix(rng, tilt):
    matrices = euler_to_matrix(rng.uniform(-180, 180, 50), tilt, rng.uniform(-180, 180, 50))
    for given in (matrices, matrices.astype(np.float32)):
        again = euler_to_matrix(*matrix_to_euler(given).T)
        np.testing.assert_allclose(again, matrices, atol=1e-6)
    assert matrix_to_euler(np.eye(3)).tolist() == [0, 0, 0]


def test_quaternions_agree_with_scipy_and_survive_the_way_through_a_matrix(rng):
    q = rng.normal(size=(200, 4))
    q[:4] = np.eye(4)  # 180 degree turns: w = 0
    matrices = quaternion_to_matrix(q)
    np.testing.assert_allclose(matrices, Rotation.from_quat(q[:, [1, 2, 3, 0]]).as_matrix(), atol=1e-14)
    again = matrix_to_quaternion(matrices)
    unit = q / np.linalg.norm(q, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(np.sum(again * unit, axis=1)), 1, atol=1e-14)
    assert np.all(again[:, 0] >= 0)


def test_a_zero_quaternion_is_refused():
    with pytest.raises(InputError, match="quaternion is zero"):
        quaternion_to_matrix([[1, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("bad", [np.diag([1, 1, -1.0]), np.eye(3) * 1.01, np.full((3, 3), np.nan)])
def test_a_matrix_that_is_no_rotation_is_refused_with_its_number(bad):
    with pytest.raises(InputError, match="rotation matrix 1 is not a rotation"):
        check_rotations([np.eye(3), bad])


def test_tilt_moves_a_raised_point_along_plus_x():
    x, y, z = 3.0, 5.0, 7.0
    got = tilt_rotation(25.0) @ [x, y, z]
    t = np.deg2rad(25)
    np.testing.assert_allclose(got[:2], [x * np.cos(t) + z * np.sin(t), y])


def test_tilt_rotation_reproduces_projection_rows_of_relion_5():
    # Two rows of the aligned tilt series in RELION-5's own tests (EMPIAR-10164, TS_01).
    expected = [
        [0.0814842382114, -0.996590673923, 0.0129349948257],
        [0.984266480393, 0.0825045183301, 0.156244718125],
        [-0.156779229641, 0, 0.987633645535],
    ]
    np.testing.assert_allclose(tilt_rotation(9.02, 85.267461, 0.0), expected, atol=1e-7)


def imod_raw_pixel(voxel, tilt, xtilt, xf, image_size, volume_size):
    """Where IMOD's newstack and tilt take the raw pixel of a voxel of the `-rx` turned tomogram.

    tilt works on [y, thickness, x] volumes, whose thickness axis `-rx` reverses: z_old = n - 1 - z.
    """
    nx, ny, nz = volume_size
    x, y, z = voxel[0] - (nx - 1) / 2, voxel[1] - (ny - 1) / 2, (nz - 1 - voxel[2]) - (nz - 1) / 2
    t, a = np.deg2rad(tilt), np.deg2rad(xtilt)
    x_ali = x * np.cos(t) + y * np.sin(a) * np.sin(t) - z * np.cos(a) * np.sin(t)
    y_ali = y * np.cos(a) + z * np.sin(a)
    centre = (np.array(image_size) - 1) / 2
    # The aligned image has any size here: its centre drops out.
    return np.linalg.solve(xf[:, :2], np.array([x_ali, y_ali]) - xf[:, 2]) + centre


SIZES = [
    ((64, 48), (64, 48, 32)),
    ((65, 47), (64, 48, 31)),
    ((64, 47), (63, 47, 32)),
    ((33, 33), (33, 33, 33)),
]


@pytest.mark.parametrize("image_size, volume_size", SIZES)
def test_imod_geometry_finds_the_pixel_that_imod_reads(rng, image_size, volume_size):
    tilt, xtilt = np.array([-61.0, 0.0, 23.0]), np.array([0.0, 1.5, -2.0])
    xf = random_xf(rng, 3, magnification=1.02)
    projections, shifts = imod_views_geometry(tilt, xtilt, xf)
    for voxel in rng.uniform(0, volume_size, (5, 3)):
        mu = voxel - (np.array(volume_size) - 1) / 2
        got = projections @ mu + shifts + (np.array(image_size) - 1) / 2
        for v in range(3):
            expected = imod_raw_pixel(voxel, tilt[v], xtilt[v], xf[v], image_size, volume_size)
            np.testing.assert_allclose(got[v], expected, atol=1e-11)


def test_imod_geometry_of_an_aligned_stack_is_the_tilt_alone():
    projections, shifts = imod_views_geometry([-30.0, 30.0])
    np.testing.assert_allclose(projections, ry([-30.0, 30.0])[:, :2])
    assert shifts.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("image_size, volume_size", SIZES)
def test_relion_terms_of_an_imod_alignment_find_the_same_pixel(rng, image_size, volume_size):
    tilt, xtilt, xf = np.array([-61.0, 0.0, 23.0]), np.array([0.0, 1.5, -2.0]), random_xf(rng, 3)
    angles, shifts, magnification = imod_to_relion(tilt, xf, image_size, volume_size, xtilt)
    np.testing.assert_allclose(magnification, 1)
    for voxel in rng.uniform(0, volume_size, (5, 3)):
        for v, (x, y, z) in enumerate(angles):
            rotated = rz(z) @ ry(y) @ rx(x) @ (voxel - np.array(volume_size) // 2)
            got = rotated[:2] + shifts[v] + np.array(image_size) // 2
            expected = imod_raw_pixel(voxel, tilt[v], xtilt[v], xf[v], image_size, volume_size)
            np.testing.assert_allclose(got, expected, atol=1e-11)


def test_half_pixel_term_of_even_sizes_has_the_known_value():
    # conventions: (-0.929, 0.204) px at tilt 23, rotation 84, with no shift of IMOD's own
    xf = np.concatenate([rz([-84.0])[:, :2, :2], np.zeros((1, 2, 1))], axis=2)
    angles, shifts, _ = imod_to_relion([23.0], xf, (64, 64), (64, 64, 32))
    np.testing.assert_allclose(angles, [[0, 23, 84]], atol=1e-12)
    np.testing.assert_allclose(shifts, [[-0.929, 0.204]], atol=1e-3)


def test_magnification_is_reported_in_imods_sense(rng):
    xf = random_xf(rng, 2)
    xf[:, :, :2] *= 1.05
    assert imod_to_relion([0.0, 1.0], xf, (8, 8), (8, 8, 8))[2] == pytest.approx([1.05, 1.05])
