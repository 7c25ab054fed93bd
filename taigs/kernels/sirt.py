"""A step of SIRT between projection and back-projection (kernels/backproject.py), and behind both."""

from taigs.kernels.fields import scalars, table, vectors
from taigs.kernels.layout import LAYOUT, share, slots
from taigs.runtime import check_size, ti


@ti.data_oriented
class SirtFields:
    """What SIRT keeps beside TiltFields, in the same order: volumes (y block, z, x), images (y block, view, column).

    current : the volume x; target : the images b; held : b - A x of the views that are held out
    columns, rows : the weights C (z, x) and R (view, column), the same for all y
    slot : a view's place among those held out, or -1
    """

    def __init__(self, n_views, volume_size, images_size, held_size, columns_size, rows_size):
        check_size(max(volume_size, images_size) * LAYOUT.wide, "a volume or its images")
        tree = ti.FieldsBuilder()
        self.current = vectors(tree, volume_size, LAYOUT.wide)
        self.target = vectors(tree, images_size, LAYOUT.wide)
        self.held = vectors(tree, held_size, LAYOUT.wide)
        self.columns = scalars(tree, columns_size)
        self.rows = scalars(tree, rows_size)
        self.slot = table(tree, n_views, dtype=ti.i32)
        tree.finalize()


@ti.kernel
def weigh_difference(
    tilt: ti.template(), sirt: ti.template(), n_tasks: int, n_views: int, n_columns: int, n_held: int
):  # fmt: skip
    """A x -> R (b - A x); a task owns its (y block, view)."""
    # inputs:  tilt.images = A x; sirt.target, sirt.rows, sirt.slot
    # outputs (overwritten): tilt.images; sirt.held
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            block = task // n_views
            slot = sirt.slot[task - block * n_views]
            row = (task - block * n_views) * n_columns
            for u in range(n_columns):
                i = task * n_columns + u
                difference = sirt.target[i] - tilt.images[i]
                if slot >= 0:
                    sirt.held[(block * n_held + slot) * n_columns + u] = difference
                tilt.images[i] = sirt.rows[row + u] * difference


@ti.kernel
def take_step(tilt: ti.template(), sirt: ti.template(), n_tasks: int, nz: int, nx: int, least: float):
    """x = max(x + C A^T r, least); a task owns its (y block, z)."""
    # inputs:  tilt.volume = A^T r; sirt.columns
    # outputs (updated): sirt.current; tilt.volume is the same volume then
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            row = task % nz * nx
            for x in range(nx):
                i = task * nx + x
                value = ti.max(sirt.current[i] + sirt.columns[row + x] * tilt.volume[i], least)
                sirt.current[i] = value
                tilt.volume[i] = value
