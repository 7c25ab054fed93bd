"""Device memory of the kernels, as structs of arrays.

Every array is a Taichi field: on the CPU only loops over fields are vectorised. Capacities are
rounded up, so that a growing cloud or a smaller image level does not compile the kernels again.
"""

import numpy as np

from taigs.kernels.layout import LAYOUT, round_up
from taigs.runtime import check_size, ti


def scalars(n, count=None, dtype=float):
    """One field of n numbers, or a list of `count` of them."""
    check_size(n, "a device array")
    if count is None:
        return ti.field(dtype, shape=max(n, 1))
    return [ti.field(dtype, shape=max(n, 1)) for _ in range(count)]


def vectors(n):
    """A field of n pixel vectors."""
    check_size(n * LAYOUT.lanes, "a device image")
    return ti.Vector.field(LAYOUT.lanes, float, shape=max(n, 1))


@ti.data_oriented
class CloudFields:
    """Parameters of up to `capacity` Gaussians, what is derived from them, and their gradients.

    raw : position x y z (A), log sigma x y z (log A), quaternion w x y z, raw mass; (11, capacity)
    cov, mass : covariance xx xy xz yy yz zz (A^2) and mass
    v_pos, v_cov, v_mass, v_raw : dL/d(each)
    moment1, moment2 : Adam's, like raw
    score, action, child, count : see kernels/densify.py
    """

    def __init__(self, capacity, signed=False):
        self.capacity = round_up(max(capacity, 1), LAYOUT.chunk)
        check_size(2 * self.capacity, "twice the cloud", "fewer Gaussians")  # loops count MOST_TASKS of its chunks
        self.signed = signed
        self.raw = scalars(self.capacity, 11)
        self.cov = scalars(self.capacity, 6)
        self.mass = scalars(self.capacity)
        self.v_pos = scalars(self.capacity, 3)
        self.v_cov = scalars(self.capacity, 6)
        self.v_mass = scalars(self.capacity)
        self.v_raw = scalars(self.capacity, 11)
        self.moment1 = scalars(self.capacity, 11)
        self.moment2 = scalars(self.capacity, 11)
        self.score = scalars(self.capacity)
        self.action = scalars(self.capacity, dtype=ti.i32)
        self.child = scalars(self.capacity, dtype=ti.i32)
        self.count = ti.field(ti.i32, shape=())
        self.unit = ti.field(float, shape=())


@ti.data_oriented
class ViewFields:
    """Geometry of up to `n_views` views: M (6, row by row; pixel per A) and t (2, pixel).

    blur : variance (pixel^2) added to every ellipse; v_parts : see project_vjp.
    """

    def __init__(self, n_views, capacity=0):
        self.table = ti.field(float, shape=(n_views, 8))
        self.blur = ti.field(float, shape=())
        self.v_parts = ti.field(float, shape=(n_views, max(1, round_up(capacity, LAYOUT.chunk) // LAYOUT.chunk), 8))


@ti.data_oriented
class EllipseFields:
    """Projections of every Gaussian under every view, index view * capacity + g; see kernels/project.py."""

    def __init__(self, n_views, capacity, cutoff=4.0):
        self.capacity = round_up(max(capacity, 1), LAYOUT.chunk)
        self.cutoff = cutoff
        n = n_views * self.capacity
        self.x, self.y, self.rx, self.ry = scalars(n, 4)
        self.a, self.b, self.c, self.peak, self.q, self.across = scalars(n, 6)
        self.v_x, self.v_y, self.v_xx, self.v_xy, self.v_yy, self.v_mass = scalars(n, 6)


@ti.data_oriented
class ImageFields:
    """Images of up to `n_views` views as rows of pixel vectors.

    parts : private images that sum to the model's; residual : weighted residual = dL/dimage;
    target : measured images; sums : scratch of raster_vjp and collect.
    """

    def __init__(self, n_views, n_parts, height, width, capacity):
        self.n_parts = n_parts
        blocks = image_blocks(width)
        self.parts = vectors(n_parts * n_views * height * blocks)
        self.residual = vectors(n_views * height * blocks)
        self.target = vectors(n_views * height * blocks)
        chunks = round_up(max(capacity, 1), LAYOUT.chunk) // LAYOUT.chunk
        self.sums = vectors(n_views * max(6 * chunks, 5 * LAYOUT.strips))
        self.statistics = ti.field(float, shape=(n_views * LAYOUT.strips, 6))
        self.scale = ti.field(float, shape=(n_views, 3))
        self.lane = vectors(1)
        self.lane.from_numpy(np.arange(LAYOUT.lanes, dtype=np.float32)[None])


def image_blocks(width):
    """Pixel vectors in a row: whole 8-pixel blocks."""
    return round_up(width, 8) // LAYOUT.lanes


@ti.data_oriented
class VoxelFields:
    """A slab of up to `planes` of the `depth` planes of a volume, and the Gaussians in its voxel units.

    order, start, reach, sums : see kernels/voxelize.py; they are used on the CPU only.
    """

    def __init__(self, capacity, depth, planes, height, width, cutoff=4.0):
        self.cutoff = cutoff
        capacity = round_up(max(capacity, 1), LAYOUT.chunk)
        self.p = scalars(capacity, 13)
        cpu = LAYOUT.lanes > 1
        self.order = scalars(capacity if cpu else 1, dtype=ti.i32)
        self.start = scalars(-(-depth // 8) * -(-height // 8) if cpu else 1, dtype=ti.i32)
        self.reach = ti.field(ti.i32, shape=())
        self.sums = vectors(10 * (capacity // LAYOUT.chunk) if cpu else 1)
        self.slab = vectors(planes * height * image_blocks(width))
        self.grid = ti.field(float, shape=4)
        self.lane = vectors(1)
        self.lane.from_numpy(np.arange(LAYOUT.lanes, dtype=np.float32)[None])
