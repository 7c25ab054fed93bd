"""Device memory of the kernels, as structs of arrays.

Every array is a Taichi field: on the CPU only loops over fields are vectorised. Taichi compiles a kernel for the
very fields it is given and never gives their memory back. So the sizes are rounded up, the fields of a struct lie
in a tree of their own, on whose sizes alone its code depends, and `lend` hands out again what is no longer used.
A tree that is begun must be finished, or no kernel runs any more: sizes are checked before.
"""

import weakref
from collections import defaultdict

import numpy as np

from taigs import runtime
from taigs.errors import ResourceError
from taigs.kernels.layout import LAYOUT, MOST_BLOCKS, SUPPORT, round_up
from taigs.runtime import check_size, ti

LEAST = 512  # entries of an array: four chunks
PAGE, SKEW = 1024, 144  # numbers of four bytes

_unused = defaultdict(list)  # of the structs of (start of Taichi, kind, sizes) those that nobody holds


def lend(owner, kind, *sizes):
    """A struct of fields, until `owner` is no more; then others get it, with whatever is left in it.

    Parameters
    ----------
    owner : object
        All who use the fields must hold it.
    kind : type
        CloudFields, for instance; `sizes` are its arguments.
    """
    runtime.current()  # starts Taichi, which would be another start
    unused = _unused[runtime.generation(), kind, sizes]
    fields = unused.pop() if unused else kind(*sizes)
    weakref.finalize(owner, unused.append, fields).atexit = False
    return fields


def roomy(n):
    """n rounded up to one of eight sizes between powers of two, at most by an eighth, and to whole chunks."""
    return max(LEAST, round_up(n, max(128, (1 << n.bit_length()) // 16)))


def scalars(tree, n, count=None, dtype=float):
    """One field of n numbers, or a list of `count` of them.

    They lie one after another, and loops take the same place in many of them. These must not be whole pages apart,
    or all fall into the same few lines of the first cache.
    """
    if count is None:
        return _placed(ti.field(dtype), tree.dense(ti.i, n + (SKEW - n) % PAGE))
    return [scalars(tree, n, dtype=dtype) for _ in range(count)]


def vectors(tree, n, lanes=None):
    """A field of n vectors of pixels, LAYOUT.lanes if no other number is given."""
    return _placed(ti.Vector.field(lanes or LAYOUT.lanes, float), tree.dense(ti.i, n))


def table(tree, *shape, dtype=float):
    """A small field of up to three axes; without any, of one number."""
    axes = (ti.i, ti.ij, ti.ijk)
    return _placed(ti.field(dtype), tree.dense(axes[len(shape) - 1], shape) if shape else tree)


def number_lanes(lane):
    """Write 0 1 2 ... into a vector."""
    lane.from_numpy(np.arange(LAYOUT.lanes, dtype=np.float32)[None])


def _placed(field, node):
    node.place(field)
    return field


@ti.data_oriented
class CloudFields:
    """Parameters of up to `capacity` Gaussians, what is derived from them, and their gradients.

    raw : position x y z (A), log sigma x y z (log A), quaternion w x y z, raw mass; (11, capacity)
    cov, mass : covariance xx xy xz yy yz zz (A^2) and mass
    v_pos, v_cov, v_mass, v_raw : dL/d(each)
    moment1, moment2 : Adam's, like raw
    score, action, child, count : see kernels/densify.py
    zero : see `chunk_of`
    """

    def __init__(self, capacity, signed):
        check_size(2 * capacity, "twice the cloud", "fewer Gaussians")  # loops count MOST_TASKS of its chunks
        self.capacity, self.signed = capacity, signed
        tree = ti.FieldsBuilder()
        self.zero = table(tree, dtype=ti.i32)
        self.raw = scalars(tree, capacity, 11)
        self.cov = scalars(tree, capacity, 6)
        self.mass = scalars(tree, capacity)
        self.v_pos = scalars(tree, capacity, 3)
        self.v_cov = scalars(tree, capacity, 6)
        self.v_mass = scalars(tree, capacity)
        self.v_raw = scalars(tree, capacity, 11)
        self.moment1 = scalars(tree, capacity, 11)
        self.moment2 = scalars(tree, capacity, 11)
        self.score = scalars(tree, capacity)
        self.action = scalars(tree, capacity, dtype=ti.i32)
        self.child = scalars(tree, capacity, dtype=ti.i32)
        self.count = table(tree, dtype=ti.i32)
        self.unit = table(tree)
        tree.finalize()


@ti.data_oriented
class ViewFields:
    """Geometry of up to `n_views` views: M (6, row by row; pixel per A) and t (2, pixel).

    blur : variance (pixel^2) added to every ellipse; v_parts : see project_vjp.
    """

    def __init__(self, n_views, n_chunks):
        tree = ti.FieldsBuilder()
        self.table = table(tree, n_views, 8)
        self.blur = table(tree)
        self.v_parts = table(tree, n_views, n_chunks, 8)
        tree.finalize()


@ti.data_oriented
class EllipseFields:
    """Projections of every Gaussian under every view, index view * capacity + g; see kernels/project.py."""

    def __init__(self, n_views, capacity, cutoff):
        self.capacity, self.cutoff = capacity, cutoff
        n = n_views * capacity
        # with what `scalars` adds, and the threads of all teams
        check_size(max(n + PAGE, LAYOUT.team * n + LAYOUT.block), "a device array")
        tree = ti.FieldsBuilder()
        self.zero = table(tree, dtype=ti.i32)
        self.x, self.y, self.rx, self.ry = scalars(tree, n, 4)
        self.a, self.b, self.c, self.peak, self.q, self.across = scalars(tree, n, 6)
        self.v_x, self.v_y, self.v_xx, self.v_xy, self.v_yy, self.v_mass = scalars(tree, n, 6)
        tree.finalize()


@ti.data_oriented
class ImageFields:
    """Images of up to `n_views` views of up to `size` pixel vectors, in rows.

    parts : private images that sum to the model's; residual : weighted residual = dL/dimage;
    target : measured images; sums : scratch of raster_vjp and collect.
    """

    def __init__(self, n_views, n_parts, size, n_chunks):
        n_sums = n_views * max(6 * n_chunks, 5 * LAYOUT.strips)
        check_size(max(n_parts * n_views * size, n_sums) * LAYOUT.lanes, "a device image")
        tree = ti.FieldsBuilder()
        self.parts = vectors(tree, n_parts * n_views * size)
        self.residual = vectors(tree, n_views * size)
        self.target = vectors(tree, n_views * size)
        self.sums = vectors(tree, n_sums)
        self.statistics = table(tree, n_views * LAYOUT.strips, 6)
        self.scale = table(tree, n_views, 3)
        self.lane = vectors(tree, 1)
        tree.finalize()
        number_lanes(self.lane)


def image_blocks(width):
    """Pixel vectors in a row: whole 8-pixel blocks, on the CPU an odd number of them.

    Rows a power of two apart fall into the same few lines of the first cache.
    """
    blocks = round_up(width, SUPPORT) // LAYOUT.lanes
    blocks = blocks | 1 if LAYOUT.lanes > 1 else blocks
    if blocks > MOST_BLOCKS:
        raise ResourceError(f"a row of {width} pixels; expected at most {MOST_BLOCKS * LAYOUT.lanes}")
    return blocks


@ti.data_oriented
class VoxelFields:
    """A slab of up to `size` pixel vectors of a volume, and up to `capacity` Gaussians in its voxel units.

    order, start (of up to `n_tiles` tiles), reach, sums : see kernels/voxelize.py; they are used on the CPU only.
    """

    def __init__(self, capacity, n_tiles, size, cutoff):
        check_size(max(size * LAYOUT.lanes, 10 * capacity), "a device image")
        self.cutoff = cutoff
        tree, cpu = ti.FieldsBuilder(), LAYOUT.lanes > 1
        self.p = scalars(tree, capacity, 13)
        self.order = scalars(tree, capacity if cpu else 1, dtype=ti.i32)
        self.start = scalars(tree, n_tiles if cpu else 1, dtype=ti.i32)
        self.reach = table(tree, dtype=ti.i32)
        self.sums = vectors(tree, 10 * (capacity // LAYOUT.chunk) if cpu else 1)
        self.slab = vectors(tree, size)
        self.grid = table(tree, 4)
        self.lane = vectors(tree, 1)
        tree.finalize()
        number_lanes(self.lane)
