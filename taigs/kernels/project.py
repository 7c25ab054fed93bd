"""3D Gaussians -> 2D ellipses under a batch of views (exact for a parallel beam), and back.

A view is M (2, 3) = projection / pixel size and t (2,): the ellipse has mean M mu + t and covariance
M S M^T + blur, in pixels, and the mass of the Gaussian, since a line integral keeps it.
"""

from taigs.kernels.layout import COLUMN, LAYOUT, ROW, SUPPORT, at_most, chunk_of, exp, share, slots, within
from taigs.runtime import ti

TWO_PI = 6.283185307179586
FAINTEST, NARROWEST = 1e-30, 1e15  # 1/pixel^2: exponents of ellipses that are drawn
LARGEST_PEAK = 1e30  # the sum of any number of Gaussians must stay finite
LARGEST_VIEW = 1e9  # pixel per A, and pixels
CULLED = -1.0  # pixels: the half-widths of an ellipse that is not drawn
NARROW = -4.0  # c below this (sigma_y given x < 0.35 px): rows differ too much for the recurrence
TALL = 20.0  # px: the recurrence's error grows with the square of the number of rows
LARGEST_RATIO = 80.0  # the logarithm of what float32 holds, with room
FAR = 1e6  # pixels, of means and half-widths: the ends of an ellipse must be integers


@ti.func
def load_view(views: ti.template(), b):
    """M as a (2, 3) matrix and t; zero and far outside if they are no numbers: then nothing is drawn."""
    ok = True
    for j in ti.static(range(8)):
        ok = ok & at_most(views.table[b, j], LARGEST_VIEW)
    M = ti.Matrix([[ti.select(ok, views.table[b, i * 3 + j], 0.0) for j in range(3)] for i in range(2)])
    return M, ti.select(ok, views.table[b, 6], -LARGEST_VIEW), ti.select(ok, views.table[b, 7], -LARGEST_VIEW)


def safe_correlation(cutoff):
    """Largest correlation at which the first row of every column that matters is above float32's underflow.

    Solves t^2 + c^2 - 2 rho t c < L (1 - rho^2) at equality, for a column at t sigma and the row at c = -cutoff.
    """
    log_min = 2 * 86.0  # twice -log of the smallest float32
    t = max(cutoff, 5.3)  # columns beyond (whole blocks are drawn) are below 1e-6 of the peak
    root = t * t * cutoff * cutoff + log_min * (log_min - t * t - cutoff * cutoff)
    return max(0.0, (root**0.5 - t * cutoff) / log_min)


@ti.func
def recurrence_fails(a, b, c, cxx, cyy, cut: ti.template()):
    """Whether rows must be drawn by exponentials, of an ellipse of variances cxx and cyy (GPUs do so with all).

    The recurrence over rows starts at the first one, whose value underflows float32 for strongly correlated or very
    narrow ellipses, and it drifts in tall ones; nor may the ratio of the first rows overflow anywhere.
    """
    bound = ti.static(safe_correlation(cut) ** 2)
    half_width = cut * ti.sqrt(cxx); half_height = cut * ti.sqrt(cyy)
    ratio = ti.abs(b) * (half_width + SUPPORT) - c * (2 * half_height + 1)
    return (b * b > bound * 4.0 * a * c) | (c < NARROW) | (half_height > TALL) | (ratio > LARGEST_RATIO)


@ti.kernel
def project(cloud: ti.template(), views: ti.template(), ellipses: ti.template(), n_chunks: int, n_views: int):
    """Exponent a dx^2 + b dx dy + c dy^2 and peak of every ellipse, and half-widths of its support."""
    # inputs:  cloud.raw (position), cloud.cov (6, capacity), cloud.mass; views.table (B, 8)
    # outputs (overwritten), index view * capacity + g: ellipses.a b c peak, x y (mean), rx ry (cut-off half-widths),
    #          on the CPU q = exp(2 c), the ratio of ratios of successive rows, or -1 where these may not be used;
    #          across = exp(8 b), the factor of that ratio from one vector of pixels to the next
    for k in range(slots(n_chunks * n_views)):
        begin, end = share(k, n_chunks * n_views)
        for task in range(begin, end):
            view = task // n_chunks
            first = chunk_of(cloud, task - view * n_chunks)
            o = view * ti.static(ellipses.capacity) + ellipses.zero[None]
            M, tx, ty = load_view(views, view)
            blur = views.blur[None]
            cut = ti.static(ellipses.cutoff)
            for g in range(first, first + LAYOUT.chunk):
                s0 = cloud.cov[0][g]; s1 = cloud.cov[1][g]; s2 = cloud.cov[2][g]
                s3 = cloud.cov[3][g]; s4 = cloud.cov[4][g]; s5 = cloud.cov[5][g]
                u0 = s0 * M[0, 0] + s1 * M[0, 1] + s2 * M[0, 2]
                u1 = s1 * M[0, 0] + s3 * M[0, 1] + s4 * M[0, 2]
                u2 = s2 * M[0, 0] + s4 * M[0, 1] + s5 * M[0, 2]
                v0 = s0 * M[1, 0] + s1 * M[1, 1] + s2 * M[1, 2]
                v1 = s1 * M[1, 0] + s3 * M[1, 1] + s4 * M[1, 2]
                v2 = s2 * M[1, 0] + s4 * M[1, 1] + s5 * M[1, 2]
                cxx = M[0, 0] * u0 + M[0, 1] * u1 + M[0, 2] * u2 + blur
                cxy = M[1, 0] * u0 + M[1, 1] * u1 + M[1, 2] * u2
                cyy = M[1, 0] * v0 + M[1, 1] * v1 + M[1, 2] * v2 + blur
                inverse = 1.0 / (cxx * cyy - cxy * cxy)
                a = -0.5 * cyy * inverse
                c = -0.5 * cxx * inverse
                peak = cloud.mass[g] * ti.sqrt(inverse) * (1.0 / TWO_PI)
                ok = within(-a, FAINTEST, NARROWEST) & within(-c, FAINTEST, NARROWEST) & at_most(peak, LARGEST_PEAK)
                ellipses.rx[o + g] = ti.select(ok, ti.min(cut * ti.sqrt(cxx), FAR), CULLED)
                ellipses.ry[o + g] = ti.select(ok, ti.min(cut * ti.sqrt(cyy), FAR), CULLED)
                ellipses.a[o + g] = ti.select(ok, a, 0.0)
                ellipses.b[o + g] = ti.select(ok, cxy * inverse, 0.0)
                ellipses.c[o + g] = ti.select(ok, c, 0.0)
                ellipses.peak[o + g] = ti.select(ok, peak, 0.0)
                if ti.static(LAYOUT.lanes > 1):
                    b = ti.select(ok, cxy * inverse, 0.0)
                    per_row = recurrence_fails(ti.select(ok, a, 0.0), b, ti.select(ok, c, 0.0), cxx, cyy, cut)
                    ellipses.q[o + g] = ti.select(per_row, -1.0, exp(2.0 * ti.select(ok, c, 0.0)))
                    ellipses.across[o + g] = exp(LAYOUT.lanes * b)
            for g in range(first, first + LAYOUT.chunk):
                ok = ellipses.c[o + g] < 0
                x = cloud.raw[0][g]; y = cloud.raw[1][g]; z = cloud.raw[2][g]
                u = M[0, 0] * x + M[0, 1] * y + M[0, 2] * z + tx
                v = M[1, 0] * x + M[1, 1] * y + M[1, 2] * z + ty
                ellipses.x[o + g] = ti.select(ok, ti.max(ti.min(u, FAR), -FAR), 0.0)
                ellipses.y[o + g] = ti.select(ok, ti.max(ti.min(v, FAR), -FAR), 0.0)


# mean = M mu + t:      dL/dmu = M^T v_mean,            dL/dM = v_mean mu^T,  dL/dt = v_mean
# C = M S M^T:          dL/dS  = M^T v_C M,             dL/dM = 2 v_C M S     (v_C symmetric)
# mass of the ellipse = mass of the Gaussian.
# Sums over views are taken by the task that owns the Gaussian; sums over Gaussians chunk by chunk.
@ti.kernel
def project_vjp(
    cloud: ti.template(), views: ti.template(), ellipses: ti.template(), n_chunks: int, n_views: int,
    with_pose: ti.template(),
):  # fmt: skip
    # inputs:     cloud.raw, cloud.cov; views.table (B, 8)
    # cotangents: ellipses.v_x v_y v_xx v_xy v_yy v_mass, index view * capacity + g
    # outputs (overwritten): cloud.v_pos (3, capacity), cloud.v_cov (6, capacity), cloud.v_mass;
    #          with_pose: views.v_parts (B, n_chunks, 8), the chunk's share of dL/dM (6) and dL/dt (2)
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            first = chunk_of(cloud, task)
            for g in range(first, first + LAYOUT.chunk):
                for j in ti.static(range(3)):
                    cloud.v_pos[j][g] = 0.0
                for j in ti.static(range(6)):
                    cloud.v_cov[j][g] = 0.0
                cloud.v_mass[g] = 0.0
            for view in range(n_views):
                o = view * ti.static(ellipses.capacity) + ellipses.zero[None]
                M, _, _ = load_view(views, view)
                for g in range(first, first + LAYOUT.chunk):
                    vx = ellipses.v_x[o + g]; vy = ellipses.v_y[o + g]
                    for j in ti.static(range(3)):
                        cloud.v_pos[j][g] = cloud.v_pos[j][g] + M[0, j] * vx + M[1, j] * vy
                    cloud.v_mass[g] = cloud.v_mass[g] + ellipses.v_mass[o + g]
                for g in range(first, first + LAYOUT.chunk):
                    xx = ellipses.v_xx[o + g]; xy = ellipses.v_xy[o + g]; yy = ellipses.v_yy[o + g]
                    for i in ti.static(range(6)):
                        a = ti.static(ROW[i]); b = ti.static(COLUMN[i])
                        cloud.v_cov[i][g] = cloud.v_cov[i][g] + (
                            M[0, a] * (xx * M[0, b] + xy * M[1, b]) + M[1, a] * (xy * M[0, b] + yy * M[1, b])
                        )
                if ti.static(with_pose):
                    pose_share(cloud, views, ellipses, view, task, o, first, M)


@ti.func
def pose_share(
    cloud: ti.template(), views: ti.template(), ellipses: ti.template(), view, block, o, first, M: ti.template()
):
    """One chunk's part of dL/dM and dL/dt of one view."""
    d = ti.Matrix.zero(float, 2, 3)
    tx = 0.0; ty = 0.0
    for g in range(first, first + LAYOUT.chunk):
        s0 = cloud.cov[0][g]; s1 = cloud.cov[1][g]; s2 = cloud.cov[2][g]
        s3 = cloud.cov[3][g]; s4 = cloud.cov[4][g]; s5 = cloud.cov[5][g]
        vx = ellipses.v_x[o + g]; vy = ellipses.v_y[o + g]
        xx = 2 * ellipses.v_xx[o + g]; xy = 2 * ellipses.v_xy[o + g]; yy = 2 * ellipses.v_yy[o + g]
        MS = M @ ti.Matrix([[s0, s1, s2], [s1, s3, s4], [s2, s4, s5]])
        for j in ti.static(range(3)):
            x = ti.select(s0 > 0, cloud.raw[j][g], 0.0)
            d[0, j] += vx * x + xx * MS[0, j] + xy * MS[1, j]
            d[1, j] += vy * x + xy * MS[0, j] + yy * MS[1, j]
        tx += vx
        ty += vy
    for j in ti.static(range(3)):
        views.v_parts[view, block, j] = d[0, j]
        views.v_parts[view, block, 3 + j] = d[1, j]
    views.v_parts[view, block, 6] = tx
    views.v_parts[view, block, 7] = ty
