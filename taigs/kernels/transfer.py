"""Copies between NumPy arrays and fields; ranges are arguments, which Vulkan needs beyond 8 million elements."""

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
def store_vectors(vectors: ti.template(), array: ti.types.ndarray(ndim=1), n: int):
    for i in range(n):
        for j in ti.static(range(LAYOUT.lanes)):
            array[i * LAYOUT.lanes + j] = vectors[i][j]


@ti.kernel
def load_scalars(field: ti.template(), array: ti.types.ndarray(ndim=1), n: int):
    for i in range(n):
        field[i] = array[i]


@ti.kernel
def store_scalars(field: ti.template(), array: ti.types.ndarray(ndim=1), n: int):
    for i in range(n):
        array[i] = field[i]
