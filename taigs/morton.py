"""Order in space: Gaussians near each other next to each other, so that threads share fewer pages and caches."""

import numpy as np

BITS = 10  # of each coordinate: cells of 1/1024 of the box


def morton_order(positions, half_width):
    """Indices that sort points by the Z-order curve through cells of a cube about the origin.

    Parameters
    ----------
    positions : (N, 3) array
        A; those outside of the cube count as on its faces, those that are no numbers as at its corner.
    half_width : float
        Of the cube, A.

    Returns
    -------
    (N,) array
        Points of one cell keep their order.
    """
    fractions = np.nan_to_num(np.asarray(positions, np.float64) / half_width, nan=-1, posinf=1, neginf=-1)
    cells = np.clip((fractions + 1) * 2 ** (BITS - 1), 0, 2**BITS - 1).astype(np.int64)
    code = np.zeros(len(cells), np.int64)
    for bit in range(BITS):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")
