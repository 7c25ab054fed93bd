"""2D ellipses -> images on a GPU, and back: a team of threads takes an ellipse.

A thread has every eighth column, so that the team reads and adds to eight neighbours in memory at a time: adding by
atomics then takes half the time of lists of ellipses for each tile of the image (measured with CUDA).
"""

from taigs.kernels.layout import LAYOUT, exp
from taigs.kernels.raster import pull_back, support
from taigs.kernels.teams import full_blocks, team_sums
from taigs.runtime import ti


@ti.kernel
def splat(ellipses: ti.template(), images: ti.template(), n: int, n_views: int, height: int, blocks: int):
    """Sum of all ellipses of a view."""
    # inputs:  ellipses (index view * capacity + g)
    # outputs (added to; zeroed by the caller): images.parts (n_views, height, blocks) vectors
    ti.loop_config(block_dim=LAYOUT.block)
    for k in range(full_blocks(n * n_views)):
        view = k // LAYOUT.team // n
        if view < n_views:
            i = view * ti.static(ellipses.capacity) + k // LAYOUT.team - view * n
            y0, y1, k0, k1 = support(ellipses, i, height, blocks)
            x = ellipses.x[i]; y = ellipses.y[i]; peak = ellipses.peak[i]
            a = ellipses.a[i]; b = ellipses.b[i]; c = ellipses.c[i]
            for step in range((k1 - k0 + 1) // LAYOUT.team):
                column = k0 + step * LAYOUT.team + k % LAYOUT.team
                dx = column - x
                p = (view * height + y0) * blocks + column
                for row in range(y0, y1 + 1):
                    dy = row - y
                    ti.atomic_add(images.parts[p][0], peak * exp((a * dx + b * dy) * dx + c * dy * dy))
                    p += blocks


@ti.kernel
def splat_vjp(ellipses: ti.template(), images: ti.template(), n: int, n_views: int, height: int, blocks: int):
    """As raster_vjp, whose formulas hold."""
    # inputs:     ellipses (index view * capacity + g)
    # cotangents: images.residual (n_views, height, blocks) vectors
    # outputs (overwritten): ellipses.v_x v_y (mean), v_xx v_xy v_yy (entries of dL/dC), v_mass
    ti.loop_config(block_dim=LAYOUT.block)
    for k in range(full_blocks(n * n_views)):
        view = k // LAYOUT.team // n
        i = view * ti.static(ellipses.capacity) + k // LAYOUT.team - view * n
        s = ti.Vector.zero(float, 6)  # s0, x y, xx xy yy
        if view < n_views:
            y0, y1, k0, k1 = support(ellipses, i, height, blocks)
            x = ellipses.x[i]; y = ellipses.y[i]
            a = ellipses.a[i]; b = ellipses.b[i]; c = ellipses.c[i]
            for step in range((k1 - k0 + 1) // LAYOUT.team):
                column = k0 + step * LAYOUT.team + k % LAYOUT.team
                dx = column - x
                p = (view * height + y0) * blocks + column
                w0 = 0.0; w1 = 0.0; w2 = 0.0
                for row in range(y0, y1 + 1):
                    dy = row - y
                    w = images.residual[p][0] * exp((a * dx + b * dy) * dx + c * dy * dy)
                    w0 += w; w1 += w * dy; w2 += w * dy * dy
                    p += blocks
                s += ti.Vector([w0, w0 * dx, w1, w0 * dx * dx, w1 * dx, w2])
        team_sums(s, k)
        if view < n_views and k % LAYOUT.team == 0:
            pull_back(ellipses, i, s[0], s[1], s[2], s[3], s[4], s[5])
