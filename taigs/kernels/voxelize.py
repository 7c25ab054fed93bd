"""Gaussians -> a slab of voxels on the CPU, and back; a GPU's form is in voxelize_gpu.py.

A task owns a few planes of the slab and adds every Gaussian that reaches them, so no two
tasks write one voxel; Gaussians come sorted by blocks of planes and rows, so that a task passes over its own
and finds their voxels in the cache. Rows run along x in vectors; along y and z a value follows from its
neighbour's by the recurrence of kernels/raster.py.
"""

from taigs.kernels.layout import (
    COLUMN,
    LAYOUT,
    MOST_BLOCKS,
    MOST_ROWS,
    MOST_TASKS,
    MOST_VECTORS,
    ROW,
    SUPPORT,
    at_most,
    bounded,
    chunk_of,
    exp,
    share,
    slots,
    within,
)
from taigs.kernels.project import CULLED, FAR, LARGEST_PEAK, LARGEST_RATIO, NARROW, TALL
from taigs.runtime import ti

TWO_PI_CUBED_ROOT = 15.749609945722419  # (2 pi)^(3/2)
FAINTEST, NARROWEST = 1e-30, 1e12  # 1/voxel^2: exponents of Gaussians that are drawn; products of three are finite


@ti.func
def block_of(cloud: ti.template(), voxels: ti.template(), g, depth, height):
    """Block of 8 planes and 8 rows in which the mean of a Gaussian lies, or the nearest one."""
    row_and_plane = ti.Vector([0, 0])
    for j, size in ti.static(((0, height), (1, depth))):
        x = ti.select(cloud.cov[0][g] > 0, (cloud.raw[1 + j][g] - voxels.grid[1 + j]) / voxels.grid[3], 0.0)
        row_and_plane[j] = ti.cast(ti.max(ti.min(x, size - 1.0), 0.0), ti.i32) >> 3
    return row_and_plane[1] * ((height + 7) // 8) + row_and_plane[0]


@ti.kernel
def sort_voxels(cloud: ti.template(), voxels: ti.template(), n: int, n_slots: int, depth: int, height: int):
    """Sort the Gaussians by the blocks of their means (a counting sort on one thread of the CPU)."""
    # inputs:  cloud.raw (position), cloud.cov; voxels.grid
    # outputs (overwritten): voxels.order (n_slots): the index of the Gaussian in each place, empty slots last;
    #          voxels.start: where each block ends; voxels.reach: planes that the largest half-width spans
    ti.loop_config(serialize=True)
    for _ in range(1):
        n_blocks = (depth + 7) // 8 * ((height + 7) // 8)
        largest = 0.0
        for b in range(n_blocks):
            voxels.start[b] = 0
        for g in range(n):
            b = block_of(cloud, voxels, g, depth, height)
            voxels.start[b] = voxels.start[b] + 1
            largest = ti.max(largest, cloud.cov[5][g])
        total = 0
        for b in range(n_blocks):
            total += voxels.start[b]
            voxels.start[b] = total - voxels.start[b]
        for g in range(n):
            b = block_of(cloud, voxels, g, depth, height)
            voxels.order[voxels.start[b]] = g
            voxels.start[b] = voxels.start[b] + 1
        for i in range(n, n_slots):
            voxels.order[i] = i
        reach = ti.static(voxels.cutoff) * ti.sqrt(largest) / voxels.grid[3]
        voxels.reach[None] = ti.cast(ti.min(reach, FAR), ti.i32) + 1


@ti.func
def in_order(voxels: ti.template(), i):
    """Index of the Gaussian in place i."""
    g = i
    if ti.static(LAYOUT.lanes > 1):
        g = voxels.order[i]
    return g


@ti.kernel
def prepare_voxels(cloud: ti.template(), voxels: ti.template(), n_chunks: int):
    """Exponent and peak of every Gaussian in voxel units of the grid, in the order of their blocks."""
    # inputs:  cloud.raw (position), cloud.cov, cloud.mass; voxels.order; voxels.grid: lower corner x y z, voxel size, A
    # outputs (overwritten): voxels.p (13, capacity): mean x y z, -Q/2 as xx xy xz yy yz zz, peak, half-widths x y z;
    #          Q = inverse covariance; density per voxel volume, so that the sum over voxels is the mass
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            first = chunk_of(cloud, task)
            lx = voxels.grid[0]; ly = voxels.grid[1]; lz = voxels.grid[2]
            per_voxel = 1.0 / voxels.grid[3]
            square = per_voxel * per_voxel
            cut = ti.static(voxels.cutoff)
            for i in range(first, first + LAYOUT.chunk):
                g = in_order(voxels, i)
                xx = cloud.cov[0][g] * square; xy = cloud.cov[1][g] * square; xz = cloud.cov[2][g] * square
                yy = cloud.cov[3][g] * square; yz = cloud.cov[4][g] * square; zz = cloud.cov[5][g] * square
                m0 = yy * zz - yz * yz; m1 = xz * yz - xy * zz; m2 = xy * yz - xz * yy
                inverse = 1.0 / (xx * m0 + xy * m1 + xz * m2)
                a = -0.5 * m0 * inverse
                b = -0.5 * (xx * zz - xz * xz) * inverse
                c = -0.5 * (xx * yy - xy * xy) * inverse
                peak = cloud.mass[g] * ti.sqrt(inverse) * (1.0 / TWO_PI_CUBED_ROOT)
                ok = at_most(peak, LARGEST_PEAK)
                for size in ti.static((-a, -b, -c)):
                    ok = ok & within(size, FAINTEST, NARROWEST)
                voxels.p[0][i] = ti.select(ok, (cloud.raw[0][g] - lx) * per_voxel, 0.0)
                voxels.p[1][i] = ti.select(ok, (cloud.raw[1][g] - ly) * per_voxel, 0.0)
                voxels.p[2][i] = ti.select(ok, (cloud.raw[2][g] - lz) * per_voxel, 0.0)
                voxels.p[3][i] = ti.select(ok, a, 0.0)
                voxels.p[4][i] = ti.select(ok, -m1 * inverse, 0.0)
                voxels.p[5][i] = ti.select(ok, -m2 * inverse, 0.0)
                voxels.p[6][i] = ti.select(ok, b, 0.0)
                voxels.p[7][i] = ti.select(ok, -(xy * xz - xx * yz) * inverse, 0.0)
                voxels.p[8][i] = ti.select(ok, c, 0.0)
                voxels.p[9][i] = ti.select(ok, peak, 0.0)
                voxels.p[10][i] = ti.select(ok, cut * ti.sqrt(xx), CULLED)
                voxels.p[11][i] = ti.select(ok, cut * ti.sqrt(yy), CULLED)
                voxels.p[12][i] = ti.select(ok, cut * ti.sqrt(zz), CULLED)


@ti.func
def range_of(mean, half, first, last):
    """Integer range within `half` of the mean, clipped to [first, last]; may be empty."""
    low = ti.cast(ti.ceil(ti.max(ti.min(mean - half, FAR), -FAR)), ti.i32)
    high = ti.cast(ti.floor(ti.max(ti.min(mean + half, FAR), -FAR)), ti.i32)
    return ti.max(low, first), ti.min(high, last)


@ti.func
def vector_range(mean, half, blocks):
    """Vectors of the aligned 8-voxel blocks that the Gaussian touches in x."""
    low, high = range_of(mean, half, -1000000, 1000000)
    per_support = ti.static(SUPPORT // LAYOUT.lanes)
    return ti.max((low >> 3) * per_support, 0), ti.min((high >> 3) * per_support + per_support - 1, blocks - 1)


@ti.func
def support(voxels: ti.template(), i, z_first, z_last, height, blocks):
    """First and last plane, row and vector of the Gaussian in place i, clipped to the slab (may be empty)."""
    z0, z1 = range_of(voxels.p[2][i], voxels.p[12][i], z_first, z_last - 1)
    y0, y1 = range_of(voxels.p[1][i], voxels.p[11][i], 0, height - 1)
    k0, k1 = vector_range(voxels.p[0][i], voxels.p[10][i], blocks)
    return z0, z1, y0, y1, k0, k1


@ti.func
def reaching(voxels: ti.template(), za, zb, depth, height):
    """First and last + 1 place, in the order of the blocks, of the Gaussians that may reach planes za..zb - 1."""
    rows = (height + 7) // 8
    reach = voxels.reach[None]
    low = ti.max(za - reach, 0) >> 3
    high = ti.min(zb - 1 + reach, depth - 1) >> 3
    first = 0
    if low > 0:
        first = voxels.start[low * rows - 1]
    return first, voxels.start[(high + 1) * rows - 1]


@ti.func
def recurrence_fails(p: ti.template(), i, dy, z0, z1, cutoff: ti.template()):
    """Whether the recurrence over planes and rows, begun at row dy and plane z0, would leave what float32 can hold.

    The exponent is concave along x and z: no value is smaller than those at the ends of the columns that matter.
    Columns beyond may underflow to 0, but no ratio may become infinite, or 0 times it would be no number.
    """
    xx = p[3][i]; xy = p[4][i]; xz = p[5][i]; yy = p[6][i]; yz = p[7][i]; zz = p[8][i]
    dz0 = z0 - p[2][i]; dz1 = z1 - p[2][i]; half = p[10][i]
    end = half * ti.static(max(1.0, 5.3 / cutoff))  # columns farther out (whole blocks are drawn) are below 1e-6
    least = 0.0
    for dz in ti.static((dz0, dz1)):
        plane = (yy * dy + yz * dz) * dy + zz * dz * dz + xx * end * end
        least = ti.min(least, plane - ti.abs(xy * dy + xz * dz) * end)
    far = half + SUPPORT
    ratio = ti.abs(xy) * far + ti.abs(yz) * ti.max(ti.abs(dz0), ti.abs(dz1)) - yy * (2 * ti.abs(dy) + 1)
    return least < -LARGEST_RATIO or ratio > LARGEST_RATIO or yy < NARROW or zz < NARROW or p[11][i] > TALL


@ti.kernel
def voxelize(
    voxels: ti.template(), n_tasks: int, z_first: int, z_last: int, depth: int, height: int, blocks: int
):  # fmt: skip
    """Density of the cloud on the planes z_first..z_last - 1 of the grid."""
    # inputs:  voxels.p (13, capacity); voxels.start, voxels.reach
    # outputs (added to; zeroed by the caller): voxels.slab (planes, height, blocks) vectors
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            za = z_first + task * (z_last - z_first) // n_tasks
            zb = z_first + (task + 1) * (z_last - z_first) // n_tasks
            first, last = reaching(voxels, za, zb, depth, height)
            lane = voxels.lane[0]
            for i in range(first, last):
                z0, z1 = range_of(voxels.p[2][i], voxels.p[12][i], za, zb - 1)
                if z0 <= z1:
                    y0, y1 = range_of(voxels.p[1][i], voxels.p[11][i], 0, height - 1)
                    rows = ti.max(y1 - y0 + 1, 0)
                    x = voxels.p[0][i]
                    k0, k1 = vector_range(x, voxels.p[10][i], blocks)
                    xx = voxels.p[3][i]; xy = voxels.p[4][i]; xz = voxels.p[5][i]
                    yy = voxels.p[6][i]; yz = voxels.p[7][i]; zz = voxels.p[8][i]
                    peak = voxels.p[9][i]
                    dy = y0 - voxels.p[1][i]; dz0 = z0 - voxels.p[2][i]
                    if recurrence_fails(voxels.p, i, dy, z0, z1, ti.static(voxels.cutoff)):
                        for kx in range(k0, k1 + 1):
                            dx = lane + (kx * LAYOUT.lanes - x)
                            for z in range(z0, z1 + 1):
                                dz = z - voxels.p[2][i]
                                ez = (xx * dx + xz * dz) * dx + zz * dz * dz
                                p = ((z - z_first) * height + y0) * blocks + kx
                                d = dy
                                for _ in range(rows):
                                    f = peak * exp(ez + (xy * d) * dx + d * (yz * dz + yy * d))
                                    voxels.slab[p] = voxels.slab[p] + f
                                    d += 1.0
                                    p += blocks
                    else:
                        qy = exp(2 * yy); qz = exp(2 * zz); qyz = exp(yz)
                        first_row = (yy * dy + yz * dz0) * dy + zz * dz0 * dz0
                        for kx in range(k0, k1 + 1):
                            dx = lane + (kx * LAYOUT.lanes - x)
                            f0 = peak * exp((xx * dx + (xy * dy + xz * dz0)) * dx + first_row)
                            up = exp(xz * dx + (yz * dy + zz * (2 * dz0 + 1)))  # of the first row, to the next plane
                            along = exp(xy * dx + (yz * dz0 + yy * (2 * dy + 1)))  # to the next row
                            p0 = ((z0 - z_first) * height + y0) * blocks + kx
                            for _z in range(z0, z1 + 1):
                                f = f0; r = along; p = bounded(p0, MOST_VECTORS)
                                for _ in range(bounded(rows, MOST_ROWS)):
                                    voxels.slab[p] = voxels.slab[p] + f
                                    f *= ti.abs(r)
                                    r *= qy
                                    p += bounded(blocks, MOST_BLOCKS)
                                f0 *= ti.abs(up)
                                up *= qz
                                along *= qyz
                                p0 += height * blocks


# As raster_vjp, one dimension up: with e = exp(d^T (-Q/2) d), P = peak and the ten sums s0 = sum r e, s1 = sum r e d,
# s2 = sum r e d d^T over the support, in voxel units (voxel size h, positions and covariances in A):
#   dL/dmean = P Q s1 / h;   dL/dS = P/2 (Q s2 Q - s0 Q) / h^2;   dL/dmass = s0 P / mass
@ti.kernel
def voxelize_vjp(
    cloud: ti.template(), voxels: ti.template(), n: int, n_chunks: int, z_first: int, z_last: int, height: int,
    blocks: int,
):  # fmt: skip
    # inputs:     voxels.p (13, capacity); voxels.order
    # cotangents: voxels.slab (planes, height, blocks) vectors = dL/dvoxel
    # outputs (added to; zeroed by the caller): cloud.v_pos, cloud.v_cov, cloud.v_mass
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            lane = voxels.lane[0]
            zero = ti.Vector([0.0] * LAYOUT.lanes)
            s = bounded(task, MOST_TASKS) * 10
            for i in range(task * LAYOUT.chunk, ti.min((task + 1) * LAYOUT.chunk, n)):
                z0, z1, y0, y1, k0, k1 = support(voxels, i, z_first, z_last, height, blocks)
                rows = ti.max(y1 - y0 + 1, 0)
                x = voxels.p[0][i]
                xx = voxels.p[3][i]; xy = voxels.p[4][i]; xz = voxels.p[5][i]
                yy = voxels.p[6][i]; yz = voxels.p[7][i]; zz = voxels.p[8][i]
                dy = y0 - voxels.p[1][i]; dz0 = z0 - voxels.p[2][i]
                for j in ti.static(range(10)):  # s0, x y z, xx xy xz yy yz zz; kept in memory, as in raster_vjp
                    voxels.sums[s + j] = zero
                per_row = recurrence_fails(voxels.p, i, dy, z0, z1, ti.static(voxels.cutoff))
                qy = exp(2 * yy); qz = exp(2 * zz); qyz = exp(yz)
                first_row = (yy * dy + yz * dz0) * dy + zz * dz0 * dz0
                for kx in range(k0, k1 + 1):
                    dx = lane + (kx * LAYOUT.lanes - x)
                    f0 = exp((xx * dx + (xy * dy + xz * dz0)) * dx + first_row)
                    up = exp(xz * dx + (yz * dy + zz * (2 * dz0 + 1)))
                    along = exp(xy * dx + (yz * dz0 + yy * (2 * dy + 1)))
                    for z in range(z0, z1 + 1):
                        dz = z - voxels.p[2][i]
                        p = ((z - z_first) * height + y0) * blocks + kx
                        w0 = zero; w1 = zero; w2 = zero
                        if per_row:
                            ez = (xx * dx + xz * dz) * dx + zz * dz * dz
                            d = dy
                            for _ in range(rows):
                                w0 += voxels.slab[p] * exp(ez + (xy * d) * dx + d * (yz * dz + yy * d))
                                w1 += w0
                                w2 += w1
                                p += blocks
                                d += 1.0
                        else:
                            f = f0; r = along; p = bounded(p, MOST_VECTORS)
                            for _ in range(bounded(rows, MOST_ROWS)):
                                w0 += voxels.slab[p] * f
                                w1 += w0
                                w2 += w1
                                f *= ti.abs(r)
                                r *= qy
                                p += bounded(blocks, MOST_BLOCKS)
                            f0 *= ti.abs(up)
                            up *= qz
                            along *= qyz
                        voxels.sums[s] = voxels.sums[s] + w0
                        voxels.sums[s + 1] = voxels.sums[s + 1] + w0 * dx
                        voxels.sums[s + 2] = voxels.sums[s + 2] + w1
                        voxels.sums[s + 3] = voxels.sums[s + 3] + w0 * dz
                        voxels.sums[s + 4] = voxels.sums[s + 4] + w0 * (dx * dx)
                        voxels.sums[s + 5] = voxels.sums[s + 5] + w1 * dx
                        voxels.sums[s + 6] = voxels.sums[s + 6] + w0 * (dx * dz)
                        voxels.sums[s + 7] = voxels.sums[s + 7] + w2
                        voxels.sums[s + 8] = voxels.sums[s + 8] + w1 * dz
                        voxels.sums[s + 9] = voxels.sums[s + 9] + w0 * (dz * dz)
                t = ti.Vector([voxels.sums[s + j].sum() for j in range(10)])
                last = dy + rows  # from sums of sums along y, as in raster_vjp
                t[7] = last * last * t[0] - (2 * last + 1) * t[2] + 2 * t[7]
                t[2] = last * t[0] - t[2]
                t[5] = last * t[1] - t[5]
                t[8] = last * t[3] - t[8]
                pull_back(cloud, voxels, i, in_order(voxels, i), t)


@ti.func
def pull_back(cloud: ti.template(), voxels: ti.template(), i, g, t: ti.template()):
    """Add the gradient of Gaussian g, in place i, from its sums."""
    per_voxel = 1.0 / voxels.grid[3]
    xx = voxels.p[3][i]; xy = voxels.p[4][i]; xz = voxels.p[5][i]
    yy = voxels.p[6][i]; yz = voxels.p[7][i]; zz = voxels.p[8][i]; peak = voxels.p[9][i]
    s1 = ti.Vector([t[1], t[2], t[3]])
    s2 = ti.Matrix([[t[4], t[5], t[6]], [t[5], t[7], t[8]], [t[6], t[8], t[9]]])
    Q = ti.Matrix([[-2 * xx, -xy, -xz], [-xy, -2 * yy, -yz], [-xz, -yz, -2 * zz]])
    v_mean = (Q @ s1) * (peak * per_voxel)
    v_cov = (Q @ s2 @ Q - Q * t[0]) * (0.5 * peak * per_voxel * per_voxel)
    for j in ti.static(range(3)):
        cloud.v_pos[j][g] = cloud.v_pos[j][g] + v_mean[j]
    for j in ti.static(range(6)):
        a = ti.static(ROW[j]); b = ti.static(COLUMN[j])
        cloud.v_cov[j][g] = cloud.v_cov[j][g] + v_cov[a, b]
    root = ti.sqrt(ti.max(Q.determinant(), 0.0))
    cloud.v_mass[g] = cloud.v_mass[g] + t[0] * root * (1.0 / TWO_PI_CUBED_ROOT)
