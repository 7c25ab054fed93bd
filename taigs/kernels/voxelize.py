"""Gaussians -> a slab of voxels, and back.

On the CPU a task owns a few planes of the slab and adds every Gaussian that reaches them, so no two
tasks write one voxel; on a GPU a task is a Gaussian and adds atomically. Rows run along x in
vectors; along y the value follows from its neighbour's by the recurrence of kernels/raster.py.
"""

from taigs.kernels.layout import COLUMN, LAYOUT, ROW, SUPPORT, at_most, exp, within
from taigs.kernels.project import CULLED, LARGEST_PEAK
from taigs.kernels.raster import FAR, NARROW, TALL, safe_correlation
from taigs.runtime import ti

TWO_PI_CUBED_ROOT = 15.749609945722419  # (2 pi)^(3/2)
FAINTEST, NARROWEST = 1e-30, 1e12  # 1/voxel^2: exponents of Gaussians that are drawn; products of three are finite


@ti.kernel
def prepare_voxels(cloud: ti.template(), voxels: ti.template(), n_chunks: int):
    """Exponent and peak of every Gaussian in voxel units of the grid."""
    # inputs:  cloud.raw (position), cloud.cov, cloud.mass; voxels.grid: lower corner x y z (A), voxel size (A)
    # outputs (overwritten): voxels.p (13, capacity): mean x y z, -Q/2 as xx xy xz yy yz zz, peak, half-widths x y z;
    #          Q = inverse covariance; density per voxel volume, so that the sum over voxels is the mass
    for k in range(LAYOUT.stride * n_chunks):
        if k % LAYOUT.stride == 0:
            first = k // LAYOUT.stride * LAYOUT.chunk
            lx = voxels.grid[0]; ly = voxels.grid[1]; lz = voxels.grid[2]
            per_voxel = 1.0 / voxels.grid[3]
            square = per_voxel * per_voxel
            cut = ti.static(voxels.cutoff)
            for g in range(first, first + LAYOUT.chunk):
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
                voxels.p[3][g] = ti.select(ok, a, 0.0)
                voxels.p[4][g] = ti.select(ok, -m1 * inverse, 0.0)
                voxels.p[5][g] = ti.select(ok, -m2 * inverse, 0.0)
                voxels.p[6][g] = ti.select(ok, b, 0.0)
                voxels.p[7][g] = ti.select(ok, -(xy * xz - xx * yz) * inverse, 0.0)
                voxels.p[8][g] = ti.select(ok, c, 0.0)
                voxels.p[9][g] = ti.select(ok, peak, 0.0)
                voxels.p[10][g] = ti.select(ok, cut * ti.sqrt(xx), CULLED)
                voxels.p[11][g] = ti.select(ok, cut * ti.sqrt(yy), CULLED)
                voxels.p[12][g] = ti.select(ok, cut * ti.sqrt(zz), CULLED)
            for g in range(first, first + LAYOUT.chunk):
                ok = voxels.p[3][g] < 0
                voxels.p[0][g] = ti.select(ok, (cloud.raw[0][g] - lx) * per_voxel, 0.0)
                voxels.p[1][g] = ti.select(ok, (cloud.raw[1][g] - ly) * per_voxel, 0.0)
                voxels.p[2][g] = ti.select(ok, (cloud.raw[2][g] - lz) * per_voxel, 0.0)


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
def recurrence_fails(p: ti.template(), g, cutoff: ti.template()):
    """As needs_exp_per_row of the rasteriser, for y against x and z: the first row may underflow float32."""
    answer = True
    if ti.static(LAYOUT.lanes > 1):
        xx = p[3][g]; xy = p[4][g]; xz = p[5][g]; yy = p[6][g]; yz = p[7][g]; zz = p[8][g]
        # Rest of the exponent after maximising over x and z: 1 - (multiple correlation of y)^2 = det / (yy det_xz)
        det = 8 * (xx * (yy * zz - 0.25 * yz * yz) - 0.5 * xy * (0.5 * xy * zz - 0.25 * yz * xz)
                   + 0.5 * xz * (0.25 * xy * yz - 0.5 * yy * xz))  # fmt: skip
        rest = det / (8 * yy * (xx * zz - 0.25 * xz * xz))
        bound = ti.static(1.0 - safe_correlation(cutoff) ** 2)
        answer = rest < bound or yy < NARROW or p[11][g] > TALL
    return answer


@ti.kernel
def voxelize(voxels: ti.template(), n: int, n_tasks: int, z_first: int, z_last: int, height: int, blocks: int):
    """Density of the cloud on the planes z_first..z_last - 1 of the grid."""
    # inputs:  voxels.p (13, capacity)
    # outputs (added to; zeroed by the caller): voxels.slab (planes, height, blocks) vectors
    ti.loop_config(block_dim=LAYOUT.atomic_block)
    for k in range(LAYOUT.stride * n_tasks):
        if k % LAYOUT.stride == 0:
            task = k // LAYOUT.stride
            planes = z_last - z_first
            za = z_first; zb = z_last; ga = 0; gb = n
            if ti.static(LAYOUT.lanes > 1):
                za = z_first + task * planes // n_tasks; zb = z_first + (task + 1) * planes // n_tasks
            else:
                ga = task; gb = task + 1
            lane = voxels.lane[0]
            for g in range(ga, gb):
                z0, z1 = range_of(voxels.p[2][g], voxels.p[12][g], za, zb - 1)
                if z0 <= z1:
                    y0, y1 = range_of(voxels.p[1][g], voxels.p[11][g], 0, height - 1)
                    x = voxels.p[0][g]
                    k0, k1 = vector_range(x, voxels.p[10][g], blocks)
                    xx = voxels.p[3][g]; xy = voxels.p[4][g]; xz = voxels.p[5][g]
                    yy = voxels.p[6][g]; yz = voxels.p[7][g]; zz = voxels.p[8][g]
                    peak = voxels.p[9][g]
                    per_row = recurrence_fails(voxels.p, g, ti.static(voxels.cutoff))
                    dy = y0 - voxels.p[1][g]
                    qy = exp(2 * yy)
                    for kx in range(k0, k1 + 1):
                        dx = lane + (kx * LAYOUT.lanes - x)
                        ex = xx * dx * dx
                        for z in range(z0, z1 + 1):
                            dz = z - voxels.p[2][g]
                            ez = ex + (xz * dz) * dx + zz * dz * dz
                            p = ((z - z_first) * height + y0) * blocks + kx
                            if per_row:
                                d = dy
                                for _ in range(y0, y1 + 1):
                                    voxel_add(voxels, p, peak * exp(ez + (xy * d) * dx + d * (yz * dz + yy * d)))
                                    d += 1.0
                                    p += blocks
                            else:
                                f = peak * exp(ez + (xy * dy) * dx + dy * (yz * dz + yy * dy))
                                r = exp(xy * dx + (yz * dz + yy * (2 * dy + 1)))
                                qq = 1.0
                                for _ in range(y0, y1 + 1):
                                    voxel_add(voxels, p, f)
                                    f *= r * qq
                                    qq *= qy
                                    p += blocks


@ti.func
def voxel_add(voxels: ti.template(), p, f):
    if ti.static(LAYOUT.lanes > 1):
        voxels.slab[p] = voxels.slab[p] + f  # the task owns the plane
    else:
        ti.atomic_add(voxels.slab[p], f)


# As raster_vjp, one dimension up: with e = exp(d^T (-Q/2) d), P = peak and the ten sums s0 = sum r e, s1 = sum r e d,
# s2 = sum r e d d^T over the support, in voxel units (voxel size h, positions and covariances in A):
#   dL/dmean = P Q s1 / h;   dL/dS = P/2 (Q s2 Q - s0 Q) / h^2;   dL/dmass = s0 P / mass
@ti.kernel
def voxelize_vjp(
    cloud: ti.template(), voxels: ti.template(), n_chunks: int, z_first: int, z_last: int, height: int, blocks: int
):  # fmt: skip
    # inputs:     voxels.p (13, capacity)
    # cotangents: voxels.slab (planes, height, blocks) vectors = dL/dvoxel
    # outputs (added to; zeroed by the caller): cloud.v_pos, cloud.v_cov, cloud.v_mass
    for k in range(LAYOUT.stride * n_chunks):
        if k % LAYOUT.stride == 0:
            first = k // LAYOUT.stride * LAYOUT.chunk
            lane = voxels.lane[0]
            per_voxel = 1.0 / voxels.grid[3]
            for g in range(first, first + LAYOUT.chunk):
                z0, z1 = range_of(voxels.p[2][g], voxels.p[12][g], z_first, z_last - 1)
                y0, y1 = range_of(voxels.p[1][g], voxels.p[11][g], 0, height - 1)
                x = voxels.p[0][g]; y = voxels.p[1][g]; zm = voxels.p[2][g]
                k0, k1 = vector_range(x, voxels.p[10][g], blocks)
                xx = voxels.p[3][g]; xy = voxels.p[4][g]; xz = voxels.p[5][g]
                yy = voxels.p[6][g]; yz = voxels.p[7][g]; zz = voxels.p[8][g]
                s0 = 0.0; s1 = ti.Vector.zero(float, 3); s2 = ti.Matrix.zero(float, 3, 3)
                for kx in range(k0, k1 + 1):
                    dx = lane + (kx * LAYOUT.lanes - x)
                    for z in range(z0, z1 + 1):
                        dz = z - zm
                        ez = xx * dx * dx + (xz * dz) * dx + zz * dz * dz
                        p = ((z - z_first) * height + y0) * blocks + kx
                        w0 = lane * 0.0; w1 = lane * 0.0; w2 = lane * 0.0
                        d = y0 - y
                        for _ in range(y0, y1 + 1):
                            w = voxels.slab[p] * exp(ez + (xy * d) * dx + d * (yz * dz + yy * d))
                            w0 += w
                            w1 += w * d
                            w2 += w * (d * d)
                            d += 1.0
                            p += blocks
                        t0 = w0.sum(); t1 = w1.sum(); tx = (w0 * dx).sum()
                        s0 += t0
                        s1 += ti.Vector([tx, t1, t0 * dz])
                        s2[0, 0] += (w0 * dx * dx).sum(); s2[0, 1] += (w1 * dx).sum(); s2[0, 2] += tx * dz
                        s2[1, 1] += w2.sum(); s2[1, 2] += t1 * dz; s2[2, 2] += t0 * dz * dz
                s2[1, 0] = s2[0, 1]; s2[2, 0] = s2[0, 2]; s2[2, 1] = s2[1, 2]
                Q = ti.Matrix([[-2 * xx, -xy, -xz], [-xy, -2 * yy, -yz], [-xz, -yz, -2 * zz]])
                peak = voxels.p[9][g]
                v_mean = (Q @ s1) * (peak * per_voxel)
                v_cov = (Q @ s2 @ Q - Q * s0) * (0.5 * peak * per_voxel * per_voxel)
                for j in ti.static(range(3)):
                    cloud.v_pos[j][g] = cloud.v_pos[j][g] + v_mean[j]
                for j in ti.static(range(6)):
                    a = ti.static(ROW[j]); b = ti.static(COLUMN[j])
                    cloud.v_cov[j][g] = cloud.v_cov[j][g] + v_cov[a, b]
                root = ti.sqrt(ti.max(Q.determinant(), 0.0))
                cloud.v_mass[g] = cloud.v_mass[g] + s0 * root * (1.0 / TWO_PI_CUBED_ROOT)
