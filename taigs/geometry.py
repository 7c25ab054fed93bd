"""Conventions: the one page that fixes every axis, sign and centre. All other files refer to it.

Arrays      Volumes are indexed [z, y, x], stacks [view, y, x]; x is fastest in memory and on disk.
            The first pixel is drawn at the bottom left, so y points up and (x, y, z) is right-handed.
Vectors     (x, y, z) in Angstrom from the volume centre, unless a name says ``_px``.
Pixels      A pixel's centre is at its integer index; pixel i covers i - 1/2 to i + 1/2.
Centres     IMOD, and taigs by default: (n - 1) / 2, the middle of the array.
            RELION: n // 2, half a pixel further when n is even. ``Views.centre`` and ``Grid.centre``
            carry the choice; nothing else may assume one.
Rotations   Active, right-handed matrices that map volume -> image: a point mu appears at
            (R mu)_xy, its depth is (R mu)_z; a covariance S becomes (R S R^T)[:2, :2].
            Angles are in degrees at every function's door.
Projection  image pixel (x, y) = P mu / pixel_size + shift + centre, with P = R[:2] (times the
            magnification if it is not 1), shift in pixels. No perspective.
Euler       RELION's ZYZ (rot, tilt, psi): R = Rz(-psi) Ry(-tilt) Rz(-rot).
Origins     RELION's rlnOrigin says how far an image must move to be centred: shift = -origin.
Quaternion  (w, x, y, z), unit, of the same volume -> image rotation; q and -q are one rotation.
Tilt        R = Rz(axis) Ry(tilt) Rx(xtilt): the axis is y for axis = 0 (IMOD's .ali), and
            x' = x cos t + z sin t. This is IMOD's geometry for a tomogram turned by ``clip rotx`` /
            ``trimvol -rx`` (z = thickness, hand kept), and RELION-5's rlnTomoZRot, YTilt, XTilt.
            ``trimvol -yz`` mirrors: it corresponds to negated tilt angles.
.xf         x_ali = A (x_raw - c) + d + c, c = (n - 1) / 2 of the respective image.
Density     Larger = denser (protein bright), whatever the file held.
Defocus     Positive = underfocus, Angstrom. CTF = -sin(gamma), CTF(0) = +amplitude contrast.
Amplitude   A Gaussian's amplitude is its mass, the integral of its density; a projection keeps it, pixel by pixel.
"""

import numpy as np

from taigs.errors import InputError

# --- elementary rotations ------------------------------------------------------------------------


def _axis_rotation(degrees, axis):
    """(..., 3, 3) right-handed rotation about one coordinate axis (0 x, 1 y, 2 z)."""
    angle = np.deg2rad(np.asarray(degrees, float))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = np.cos(angle)
    matrix[..., j, i] = np.sin(angle)
    matrix[..., i, j] = -np.sin(angle)
    return matrix


def rx(degrees):
    """Rotation about x by `degrees` (any shape): (..., 3, 3), active, right-handed."""
    return _axis_rotation(degrees, 0)


def ry(degrees):
    """Rotation about y by `degrees` (any shape): (..., 3, 3), active, right-handed."""
    return _axis_rotation(degrees, 1)


def rz(degrees):
    """Rotation about z by `degrees` (any shape): (..., 3, 3), active, right-handed."""
    return _axis_rotation(degrees, 2)


def check_rotations(matrices, tolerance=1e-3):
    """Refuse (..., 3, 3) matrices that are not proper rotations.

    Raises
    ------
    InputError
        With the index of the first matrix that is not orthonormal within `tolerance`, or mirrors.
    """
    matrices = np.asarray(matrices, float)
    if matrices.shape[-2:] != (3, 3):
        raise InputError(f"rotation matrices have shape {matrices.shape}; expected (..., 3, 3)")
    with np.errstate(invalid="ignore", over="ignore"):  # not-finite matrices are found bad below
        error = np.abs(matrices @ np.swapaxes(matrices, -1, -2) - np.eye(3)).max(axis=(-1, -2))
        determinant = np.linalg.det(matrices)
    bad = np.ravel(~(error <= tolerance) | ~(determinant > 0))
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"rotation matrix {first} is not a rotation (determinant {np.ravel(determinant)[first]:.4g}, "
            f"R R^T differs from 1 by {np.ravel(error)[first]:.2g}); expected orthonormal rows, determinant 1"
        )
    return matrices


# --- Euler angles and quaternions ----------------------------------------------------------------


def euler_to_matrix(rot, tilt, psi):
    """Rotation volume -> image of RELION's Euler angles (degrees, broadcast together): (..., 3, 3)."""
    rot, tilt, psi = np.broadcast_arrays(rot, tilt, psi)
    return rz(-psi) @ ry(-tilt) @ rz(-rot)


def matrix_to_euler(matrices):
    """RELION's Euler angles of rotations volume -> image.

    Parameters
    ----------
    matrices : (..., 3, 3) array

    Returns
    -------
    (..., 3) array
        rot, tilt, psi in degrees; tilt in [0, 180], the others in [-180, 180]. Where tilt is 0 or
        180 only one of rot and psi is determined: rot is 0 there.

    Raises
    ------
    InputError
        If a matrix is not a rotation.
    """
    matrices = check_rotations(matrices)
    x, y, z = np.moveaxis(matrices[..., 2, :], -1, 0)  # third row: (sin b cos a, sin b sin a, cos b)
    sine = np.hypot(x, y)
    tilt = np.rad2deg(np.arctan2(sine, z))
    rot = np.where(sine > 1e-8, np.rad2deg(np.arctan2(y, x)), 0.0)
    # Undoing rot and tilt leaves Rz(-psi); so psi always fits rot, even where rot is ill determined.
    left = matrices @ rz(rot) @ ry(tilt)
    psi = np.rad2deg(np.arctan2(left[..., 0, 1], left[..., 0, 0]))
    return np.stack([rot, tilt, psi], axis=-1)


def quaternion_to_matrix(quaternions):
    """Rotation matrices of (..., 4) quaternions (w, x, y, z), which need not have length 1.

    Raises
    ------
    InputError
        If a quaternion is zero or not finite.
    """
    q = np.asarray(quaternions, float)
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    if not np.all((length > 1e-12) & np.isfinite(length)):
        raise InputError("a quaternion is zero or not finite; expected (w, x, y, z) of length 1")
    w, x, y, z = np.moveaxis(q / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(matrices):
    """Unit quaternions (..., 4) as (w, x, y, z) with w >= 0, of (..., 3, 3) rotations.

    Raises
    ------
    InputError
        If a matrix is not a rotation.
    """
    m = check_rotations(matrices)
    d = np.moveaxis(np.diagonal(m, axis1=-2, axis2=-1), -1, 0)
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    # Each row is 4 q_i (w, x, y, z) for one i; the row of the largest q_i loses no digits.
    rows = [
        np.stack([1 + d[0] + d[1] + d[2], wx, wy, wz], axis=-1),
        np.stack([wx, 1 + d[0] - d[1] - d[2], xy, xz], axis=-1),
        np.stack([wy, xy, 1 - d[0] + d[1] - d[2], yz], axis=-1),
        np.stack([wz, xz, yz, 1 - d[0] - d[1] + d[2]], axis=-1),
    ]
    rows = np.stack(rows, axis=-2)
    largest = np.argmax(np.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(rows, largest[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


# --- tilt series ---------------------------------------------------------------------------------


def tilt_rotation(tilt_deg, axis_deg=0.0, xtilt_deg=0.0):
    """Rotation volume -> image of a tilted specimen, Rz(axis) Ry(tilt) Rx(xtilt); degrees: (..., 3, 3)."""
    tilt, axis, xtilt = np.broadcast_arrays(tilt_deg, axis_deg, xtilt_deg)
    return rz(axis) @ ry(tilt) @ rx(xtilt)


def imod_views_geometry(tilt_deg, xtilt_deg=0.0, xf=None):
    """Projections and shifts of the raw images of a tilt series aligned by IMOD.

    Parameters
    ----------
    tilt_deg : (V,) array
        Tilt angles, degrees (.tlt plus OFFSET).
    xtilt_deg : (V,) array or float
        Tilt about x, degrees (.xtilt minus XAXISTILT).
    xf : (V, 2, 3) array or None
        Per view [A | d] with x_ali = A (x_raw - c) + d + c, d in pixels. None: the images are
        aligned already and the tilt axis is y.

    Returns
    -------
    projections : (V, 2, 3) array
        Volume -> raw image, including the magnification that A undoes.
    shifts : (V, 2) array
        (x, y) in raw pixels, for ``Views.centre`` = (n - 1) / 2.
    """
    tilt_deg = np.atleast_1d(np.asarray(tilt_deg, float))
    projections = tilt_rotation(tilt_deg, 0.0, xtilt_deg)[:, :2]
    if xf is None:
        return projections, np.zeros((len(projections), 2))
    # A point's aligned position is x_ali = R mu + c, so x_raw = A^-1 (R mu - d) + c. IMOD counts all
    # three centres (raw, aligned, volume) as (n - 1) / 2, whatever the parity of n, and so does
    # Views for tilt series: hence no half-pixel term here (see imod_to_relion for where there is one).
    xf = np.asarray(xf, float)
    inverse = np.linalg.inv(xf[:, :, :2])
    return inverse @ projections, -(inverse @ xf[:, :, 2:])[..., 0]


def imod_to_relion(tilt_deg, xf, image_size, volume_size, xtilt_deg=0.0):
    """An IMOD alignment in the terms of a RELION-5 tilt-series star file.

    Parameters
    ----------
    tilt_deg, xtilt_deg : (V,) arrays or float
        As in `imod_views_geometry`, degrees.
    xf : (V, 2, 3) array
        As in `imod_views_geometry`, raw pixels.
    image_size : (2,)
        Raw image (nx, ny), pixels.
    volume_size : (3,)
        Tomogram (nx, ny, nz), raw pixels.

    Returns
    -------
    angles : (V, 3) array
        rlnTomoXTilt, rlnTomoYTilt, rlnTomoZRot, degrees.
    shifts : (V, 2) array
        Raw pixels; times the pixel size: rlnTomoXShiftAngst, rlnTomoYShiftAngst.
    magnification : (V,) array
        What RELION's rigid model leaves out: raw images are smaller than aligned ones by this factor.
    """
    xf = np.asarray(xf, float)
    image_size, volume_size = np.asarray(image_size), np.asarray(volume_size)
    a = xf[:, :, :2]
    zrot = np.rad2deg(np.arctan2(a[:, 0, 1] - a[:, 1, 0], a[:, 0, 0] + a[:, 1, 1]))
    tilt, xtilt, zrot = np.broadcast_arrays(tilt_deg, xtilt_deg, zrot)
    shifts = -np.linalg.solve(a, xf[:, :, 2:])[..., 0]
    # The same pixel written with centres n // 2 instead of (n - 1) / 2: the volume's centre moves by
    # half a voxel along each even axis, which the rotation carries into the image, and so does the
    # image's. The term changes with the tilt, so it is not a constant offset.
    volume_step = volume_size // 2 - (volume_size - 1) / 2
    image_step = image_size // 2 - (image_size - 1) / 2
    shifts = shifts + tilt_rotation(tilt, zrot, xtilt)[:, :2] @ volume_step - image_step
    return np.stack([xtilt, tilt, zrot], axis=-1), shifts, np.sqrt(np.abs(np.linalg.det(a)))
