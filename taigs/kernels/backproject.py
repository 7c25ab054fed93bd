"""Voxels <-> aligned tilt images: one linear map and its transpose, for the WBP and SIRT baselines.

The tilt axis is y, so planes of constant y are independent and y runs along the lanes of a vector.
A voxel (x, z) meets image column u = x cos t + z sin t + offset; its value is shared linearly
between the two nearest columns. Indices: volume (y block, z, x), images (y block, view, column).
"""

from taigs.kernels.fields import table, vectors
from taigs.kernels.layout import LAYOUT, at_most, share, slots
from taigs.runtime import check_size, ti

FAR = 1e6  # columns: keeps the conversion to integers defined


@ti.data_oriented
class TiltFields:
    """A volume and aligned images of up to so many vectors along y.

    rays : cos t, sin t, offset for voxel (0, 0), in pixels; (V, 3)
    """

    def __init__(self, n_views, volume_size, images_size):
        check_size(max(volume_size, images_size) * LAYOUT.wide, "a volume or its images")
        tree = ti.FieldsBuilder()
        self.volume = vectors(tree, volume_size, LAYOUT.wide)
        self.images = vectors(tree, images_size, LAYOUT.wide)
        self.rays = table(tree, n_views, 3)
        tree.finalize()


@ti.func
def has_rays(tilt: ti.template(), view):
    """Whether the numbers of a view are such; without them it meets no voxel."""
    return at_most(tilt.rays[view, 0], FAR) & at_most(tilt.rays[view, 1], FAR) & at_most(tilt.rays[view, 2], FAR)


@ti.func
def column_of(tilt: ti.template(), view, x, z):
    """Column left of the ray, and the share of the column right of it."""
    u = x * tilt.rays[view, 0] + z * tilt.rays[view, 1] + tilt.rays[view, 2]
    left = ti.floor(u)
    return ti.cast(left, ti.i32), u - left


@ti.kernel
def project_voxels(tilt: ti.template(), n_tasks: int, n_views: int, n_columns: int, nz: int, nx: int):
    """images = A volume: every voxel adds to two columns of each view; a task owns its (y block, view)."""
    # inputs:  tilt.volume
    # outputs (overwritten): tilt.images
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            block = task // n_views
            view = task - block * n_views
            base = task * n_columns
            zero = ti.Vector([0.0] * LAYOUT.wide)
            for u in range(n_columns):
                tilt.images[base + u] = zero
            for z in range(nz if has_rays(tilt, view) else 0):
                for x in range(nx):
                    u, w = column_of(tilt, view, x, z)
                    v = tilt.volume[(block * nz + z) * nx + x]
                    if 0 <= u < n_columns:
                        tilt.images[base + u] = tilt.images[base + u] + (1 - w) * v
                    if 0 <= u + 1 < n_columns:
                        tilt.images[base + u + 1] = tilt.images[base + u + 1] + w * v


@ti.kernel
def back_project(tilt: ti.template(), n_tasks: int, n_views: int, n_columns: int, nz: int, nx: int):
    """volume = A^T images: every voxel gathers from two columns of each view; a task owns its (y block, z)."""
    # inputs:  tilt.images
    # outputs (overwritten): tilt.volume
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            block = task // nz
            z = task - block * nz
            for x in range(nx):
                tilt.volume[task * nx + x] = ti.Vector([0.0] * LAYOUT.wide)
            for view in range(n_views):
                base = (block * n_views + view) * n_columns
                for x in range(nx if has_rays(tilt, view) else 0):
                    u, w = column_of(tilt, view, x, z)
                    o = task * nx + x
                    if 0 <= u < n_columns - 1:
                        v = (1 - w) * tilt.images[base + u] + w * tilt.images[base + u + 1]
                        tilt.volume[o] = tilt.volume[o] + v
                    elif u == n_columns - 1:
                        tilt.volume[o] = tilt.volume[o] + (1 - w) * tilt.images[base + u]
                    elif u == -1:
                        tilt.volume[o] = tilt.volume[o] + w * tilt.images[base]


@ti.kernel
def load_along_y(array: ti.types.ndarray(ndim=3), vectors: ti.template(), n_tasks: int, n: int, ny: int, n_last: int):
    """A volume (nz, ny, nx) or images (V, ny, columns) as vectors along y, with zeros beyond ny."""
    # inputs:  array (n, ny, n_last)
    # outputs (overwritten): vectors (y block, n, n_last); a task owns its (y block, n)
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            y = task // n * LAYOUT.wide
            for i in range(n_last):
                for lane in range(LAYOUT.wide):
                    vectors[task * n_last + i][lane] = array[task % n, y + lane, i] if y + lane < ny else 0.0


@ti.kernel
def store_along_y(vectors: ti.template(), array: ti.types.ndarray(ndim=3), n_tasks: int, n: int, ny: int, n_last: int):
    """The way back."""
    # inputs:  vectors (y block, n, n_last)
    # outputs (overwritten): array (n, ny, n_last)
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            y = task // n * LAYOUT.wide
            for lane in range(ti.min(LAYOUT.wide, ny - y)):
                for i in range(n_last):
                    array[task % n, y + lane, i] = vectors[task * n_last + i][lane]
