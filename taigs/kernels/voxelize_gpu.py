"""Gaussians -> a slab of voxels on a GPU, and back: a team of threads takes a Gaussian, as in raster_gpu.py."""

from taigs.kernels.layout import LAYOUT, exp
from taigs.kernels.teams import full_blocks, team_sums
from taigs.kernels.voxelize import pull_back, support
from taigs.runtime import ti


@ti.kernel
def splat_voxels(voxels: ti.template(), n: int, z_first: int, z_last: int, height: int, blocks: int):
    """Density of the cloud on the planes z_first..z_last - 1 of the grid."""
    # inputs:  voxels.p (13, capacity)
    # outputs (added to; zeroed by the caller): voxels.slab (planes, height, blocks) vectors
    ti.loop_config(block_dim=LAYOUT.block)
    for k in range(full_blocks(n)):
        i = k // LAYOUT.team
        if i < n:
            z0, z1, y0, y1, k0, k1 = support(voxels, i, z_first, z_last, height, blocks)
            x = voxels.p[0][i]; y = voxels.p[1][i]; z = voxels.p[2][i]; peak = voxels.p[9][i]
            xx = voxels.p[3][i]; xy = voxels.p[4][i]; xz = voxels.p[5][i]
            yy = voxels.p[6][i]; yz = voxels.p[7][i]; zz = voxels.p[8][i]
            for step in range((k1 - k0 + 1) // LAYOUT.team):
                column = k0 + step * LAYOUT.team + k % LAYOUT.team
                dx = column - x
                for plane in range(z0, z1 + 1):
                    dz = plane - z
                    of_plane = (xx * dx + xz * dz) * dx + zz * dz * dz
                    p = ((plane - z_first) * height + y0) * blocks + column
                    for row in range(y0, y1 + 1):
                        dy = row - y
                        e = exp(of_plane + (xy * dy) * dx + dy * (yz * dz + yy * dy))
                        ti.atomic_add(voxels.slab[p][0], peak * e)
                        p += blocks


@ti.kernel
def splat_voxels_vjp(
    cloud: ti.template(), voxels: ti.template(), n: int, z_first: int, z_last: int, height: int, blocks: int
):  # fmt: skip
    """As voxelize_vjp, whose formulas hold."""
    # inputs:     voxels.p (13, capacity)
    # cotangents: voxels.slab (planes, height, blocks) vectors = dL/dvoxel
    # outputs (added to; zeroed by the caller): cloud.v_pos, cloud.v_cov, cloud.v_mass
    ti.loop_config(block_dim=LAYOUT.block)
    for k in range(full_blocks(n)):
        i = k // LAYOUT.team
        s = ti.Vector.zero(float, 10)  # s0, x y z, xx xy xz yy yz zz
        if i < n:
            z0, z1, y0, y1, k0, k1 = support(voxels, i, z_first, z_last, height, blocks)
            x = voxels.p[0][i]; y = voxels.p[1][i]; z = voxels.p[2][i]
            xx = voxels.p[3][i]; xy = voxels.p[4][i]; xz = voxels.p[5][i]
            yy = voxels.p[6][i]; yz = voxels.p[7][i]; zz = voxels.p[8][i]
            for step in range((k1 - k0 + 1) // LAYOUT.team):
                column = k0 + step * LAYOUT.team + k % LAYOUT.team
                dx = column - x
                for plane in range(z0, z1 + 1):
                    dz = plane - z
                    of_plane = (xx * dx + xz * dz) * dx + zz * dz * dz
                    p = ((plane - z_first) * height + y0) * blocks + column
                    w0 = 0.0; w1 = 0.0; w2 = 0.0
                    for row in range(y0, y1 + 1):
                        dy = row - y
                        w = voxels.slab[p][0] * exp(of_plane + (xy * dy) * dx + dy * (yz * dz + yy * dy))
                        w0 += w; w1 += w * dy; w2 += w * dy * dy
                        p += blocks
                    s += ti.Vector([
                        w0, w0 * dx, w1, w0 * dz,
                        w0 * dx * dx, w1 * dx, w0 * dx * dz, w2, w1 * dz, w0 * dz * dz,
                    ])  # fmt: skip
        team_sums(s, k)
        if i < n and k % LAYOUT.team == 0:
            pull_back(cloud, voxels, i, i, s)
