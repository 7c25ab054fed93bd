"""Copies between NumPy arrays and fields; ranges are arguments, which Vulkan needs beyond 8 million elements."""

from taigs.kernels.densify import NOWHERE
from taigs.kernels.layout import LAYOUT
from taigs.runtime import ti


@ti.kernel
def fill(vectors: ti.template(), n: int, value: float):
    for i in range(n):
        for j in ti.static(range(LAYOUT.lanes)):
            vectors[i][j] = value


@ti.kernel
def load_vectors(vectors: ti.template(), array: ti.types.ndarray(ndim=1), n: int):
    for i in range(n):
        for j in ti.static(range(LAYOUT.lanes)):
            vectors[i][j] = array[i * LAYOUT.lanes + j]


@ti.kernel
def load_scalars(field: ti.template(), array: ti.types.ndarray(ndim=1), n: int):
    for i in range(n):
        field[i] = array[i]


@ti.kernel
def store_vectors(vectors: ti.template(), array: ti.types.ndarray(ndim=1), n: int):
    for i in range(n):
        for j in ti.static(range(LAYOUT.lanes)):
            array[i * LAYOUT.lanes + j] = vectors[i][j]


@ti.kernel
def store_scalars(fields: ti.template(), rows: ti.types.ndarray(ndim=2), n: int):
    """Fields of one type, one to a row."""
    for i in range(n):
        for j in ti.static(range(len(fields))):
            rows[j, i] = fields[j][i]


@ti.kernel
def clear_gradient(cloud: ti.template(), n: int):
    """dL/d(position, covariance, mass) = 0."""
    for g in range(n):
        for j in ti.static(range(3)):
            cloud.v_pos[j][g] = 0.0
        for j in ti.static(range(6)):
            cloud.v_cov[j][g] = 0.0
        cloud.v_mass[g] = 0.0


@ti.kernel
def load_cloud(cloud: ti.template(), rows: ti.types.ndarray(ndim=2), n: int, capacity: int):
    """Raw parameters, Adam's moments, scores and masses of n Gaussians; the other slots become empty ones.

    One kernel for all fields, and not one for each, which would have to be compiled.
    """
    # inputs:  rows (35, n): raw, moment1, moment2 (11 each), score, mass
    for g in range(capacity):
        for j in ti.static(range(11)):
            empty = NOWHERE if ti.static(j < 3) else 1.0 if ti.static(j == 6) else 0.0
            if ti.static(j == 10 and not cloud.signed):
                empty = -50.0
            cloud.raw[j][g] = rows[j, g] if g < n else empty
            cloud.moment1[j][g] = rows[11 + j, g] if g < n else 0.0
            cloud.moment2[j][g] = rows[22 + j, g] if g < n else 0.0
        cloud.score[g] = rows[33, g] if g < n else 0.0
        cloud.mass[g] = rows[34, g] if g < n else 0.0


@ti.kernel
def store_cloud(cloud: ti.template(), rows: ti.types.ndarray(ndim=2), n: int):
    """What `load_cloud` loads."""
    # outputs (overwritten): rows (35, n)
    for g in range(n):
        for j in ti.static(range(11)):
            rows[j, g] = cloud.raw[j][g]
            rows[11 + j, g] = cloud.moment1[j][g]
            rows[22 + j, g] = cloud.moment2[j][g]
        rows[33, g] = cloud.score[g]
        rows[34, g] = cloud.mass[g]


@ti.kernel
def store_gradient(cloud: ti.template(), rows: ti.types.ndarray(ndim=2), n: int):
    """dL/draw and dL/dmass of n Gaussians."""
    # outputs (overwritten): rows (12, n)
    for g in range(n):
        for j in ti.static(range(11)):
            rows[j, g] = cloud.v_raw[j][g]
        rows[11, g] = cloud.v_mass[g]
