"""2D ellipses -> images on the CPU, and back; a GPU's form is in raster_gpu.py.

The support of an ellipse is the rows within `ry` of its mean times the aligned 8-pixel blocks that
its width `rx` touches: the same set of pixels in both forms, so that backends agree to rounding.
"""

from taigs.kernels.layout import (
    LAYOUT,
    MOST_BLOCKS,
    MOST_ROWS,
    MOST_VECTORS,
    SUPPORT,
    bounded,
    chunk_of,
    exp,
    share,
    slots,
)
from taigs.runtime import ti


@ti.func
def support(ellipses: ti.template(), i, height, blocks):
    """First and last row, first and last vector of ellipse i, clipped to the image (may be empty)."""
    x = ellipses.x[i]; y = ellipses.y[i]; rx = ellipses.rx[i]; ry = ellipses.ry[i]
    per_support = ti.static(SUPPORT // LAYOUT.lanes)
    y0 = ti.cast(ti.ceil(y - ry), ti.i32)
    y1 = ti.cast(ti.floor(y + ry), ti.i32)
    x0 = ti.cast(ti.ceil(x - rx), ti.i32) >> 3
    x1 = ti.cast(ti.floor(x + rx), ti.i32) >> 3
    return (
        ti.max(y0, 0),
        ti.min(y1, height - 1),
        ti.max(x0 * per_support, 0),
        ti.min(x1 * per_support + (per_support - 1), blocks - 1),
    )


@ti.kernel
def raster(
    ellipses: ti.template(), images: ti.template(), n_chunks: int, n_views: int, n_parts: int, height: int,
    blocks: int,
):  # fmt: skip
    """Sum of all ellipses of a view; one private image per (part of the cloud, view), no atomics."""
    # inputs:  ellipses (index view * capacity + g)
    # outputs (overwritten): images.parts (n_parts * n_views, height, blocks) vectors
    for k in range(slots(n_parts * n_views)):
        begin, end = share(k, n_parts * n_views)
        for task in range(begin, end):
            part = task // n_views
            view = task - part * n_views
            base = task * height * blocks
            lane = images.lane[0]
            zero = ti.Vector([0.0] * LAYOUT.lanes)
            for i in range(base, base + height * blocks):
                images.parts[i] = zero
            o = view * ti.static(ellipses.capacity)
            for i in range(
                o + part * n_chunks // n_parts * LAYOUT.chunk,
                o + (part + 1) * n_chunks // n_parts * LAYOUT.chunk,
            ):
                y0, y1, k0, k1 = support(ellipses, i, height, blocks)
                rows = ti.max(y1 - y0 + 1, 0)
                x = ellipses.x[i]; a = ellipses.a[i]; b = ellipses.b[i]; c = ellipses.c[i]
                peak = ellipses.peak[i]; q = ellipses.q[i]
                dy = y0 - ellipses.y[i]
                if q < 0:
                    for kx in range(k0, k1 + 1):
                        dx = lane + (kx * LAYOUT.lanes - x)
                        p = base + y0 * blocks + kx
                        d = dy
                        for _ in range(rows):
                            images.parts[p] = images.parts[p] + peak * exp((a * dx + b * d) * dx + c * d * d)
                            d += 1.0
                            p += blocks
                else:
                    # f(y+1) = r(y) f(y), r(y+1) = q r(y): one exponential a column, not one a pixel. r is positive:
                    # abs, since LLVM does not vectorise a product of two numbers that both change in the loop.
                    bdy = b * dy; cdy2 = c * dy * dy; across = ellipses.across[i]
                    ratio = exp(b * (lane + (k0 * LAYOUT.lanes - x)) + c * (2 * dy + 1))
                    for kx in range(k0, k1 + 1):
                        dx = lane + (kx * LAYOUT.lanes - x)
                        f = peak * exp((a * dx + bdy) * dx + cdy2)
                        r = ratio
                        p = bounded(base + y0 * blocks + kx, MOST_VECTORS)
                        for _ in range(bounded(rows, MOST_ROWS)):
                            images.parts[p] = images.parts[p] + f
                            f *= ti.abs(r)
                            r *= q
                            p += bounded(blocks, MOST_BLOCKS)
                        ratio *= across


# With g = exp(a dx^2 + b dx dy + c dy^2), Q = C^-1 = [[-2a, -b], [-b, -2c]], P = peak = mass / (2 pi |C|^1/2), and
# s0 = sum r g, s1 = sum r g d, s2 = sum r g d d^T over the support, r = dL/dimage:
#   dL/dmean = P Q s1;   dL/dC = P/2 (Q s2 Q - s0 Q)   (s0 Q: the peak falls as |C| grows);   dL/dmass = s0 P / mass
# s1 and s2 are taken about the mean. Powers of dx are applied once a column; those of dy follow from sums of sums:
# with w_m the term m rows before the end, sum m w_m and sum m (m + 1) / 2 w_m need additions only, and d = last - m.
@ti.kernel
def raster_vjp(
    ellipses: ti.template(), images: ti.template(), n_chunks: int, n_views: int, height: int, blocks: int
):
    # inputs:     ellipses (index view * capacity + g)
    # cotangents: images.residual (n_views, height, blocks) vectors
    # outputs (overwritten): ellipses.v_x v_y (mean), v_xx v_xy v_yy (entries of dL/dC), v_mass
    for k in range(slots(n_chunks * n_views)):
        begin, end = share(k, n_chunks * n_views)
        for task in range(begin, end):
            view = task // n_chunks
            first = view * ti.static(ellipses.capacity) + chunk_of(ellipses, task - view * n_chunks)
            base = view * height * blocks
            lane = images.lane[0]
            zero = ti.Vector([0.0] * LAYOUT.lanes)
            s = task * 6
            for i in range(first, first + LAYOUT.chunk):
                y0, y1, k0, k1 = support(ellipses, i, height, blocks)
                rows = ti.max(y1 - y0 + 1, 0)
                x = ellipses.x[i]; a = ellipses.a[i]; b = ellipses.b[i]; c = ellipses.c[i]; q = ellipses.q[i]
                dy = y0 - ellipses.y[i]
                # Sums kept in memory: LLVM vectorises from stores, registers would be summed lane by lane.
                for j in ti.static(range(6)):
                    images.sums[s + j] = zero
                bdy = b * dy; cdy2 = c * dy * dy; across = ellipses.across[i]
                ratio = exp(b * (lane + (k0 * LAYOUT.lanes - x)) + c * (2 * dy + 1))
                for kx in range(k0, k1 + 1):
                    dx = lane + (kx * LAYOUT.lanes - x)
                    p = base + y0 * blocks + kx
                    w0 = zero; w1 = zero; w2 = zero
                    if q < 0:
                        d = dy
                        for _ in range(rows):
                            w0 += images.residual[p] * exp((a * dx + b * d) * dx + c * d * d)
                            w1 += w0
                            w2 += w1
                            p += blocks
                            d += 1.0
                    else:
                        f = exp((a * dx + bdy) * dx + cdy2)
                        r = ratio
                        p = bounded(p, MOST_VECTORS)
                        for _ in range(bounded(rows, MOST_ROWS)):
                            w0 += images.residual[p] * f
                            w1 += w0
                            w2 += w1
                            f *= ti.abs(r)
                            r *= q
                            p += bounded(blocks, MOST_BLOCKS)
                        ratio *= across
                    images.sums[s] = images.sums[s] + w0
                    images.sums[s + 1] = images.sums[s + 1] + w0 * dx
                    images.sums[s + 2] = images.sums[s + 2] + w1
                    images.sums[s + 3] = images.sums[s + 3] + w0 * (dx * dx)
                    images.sums[s + 4] = images.sums[s + 4] + w1 * dx
                    images.sums[s + 5] = images.sums[s + 5] + w2
                s0 = images.sums[s].sum(); sx = images.sums[s + 1].sum(); t0 = images.sums[s + 2].sum()
                last = dy + rows
                ellipses.v_mass[i] = s0
                ellipses.v_x[i] = sx
                ellipses.v_y[i] = last * s0 - t0
                ellipses.v_xx[i] = images.sums[s + 3].sum()
                ellipses.v_xy[i] = last * sx - images.sums[s + 4].sum()
                ellipses.v_yy[i] = last * last * s0 - (2 * last + 1) * t0 + 2 * images.sums[s + 5].sum()
            for i in range(first, first + LAYOUT.chunk):
                pull_back(
                    ellipses, i, ellipses.v_mass[i], ellipses.v_x[i], ellipses.v_y[i],
                    ellipses.v_xx[i], ellipses.v_xy[i], ellipses.v_yy[i],
                )  # fmt: skip


@ti.func
def pull_back(ellipses: ti.template(), i, s0, sx, sy, sxx, sxy, syy):
    """The gradient of an ellipse from its sums."""
    qx = -2.0 * ellipses.a[i]; qz = -ellipses.b[i]; qy = -2.0 * ellipses.c[i]
    peak = ellipses.peak[i]
    txx = qx * sxx + qz * sxy; txy = qx * sxy + qz * syy  # Q s2
    tyx = qz * sxx + qy * sxy; tyy = qz * sxy + qy * syy
    ellipses.v_x[i] = peak * (qx * sx + qz * sy)
    ellipses.v_y[i] = peak * (qz * sx + qy * sy)
    ellipses.v_xx[i] = 0.5 * peak * (txx * qx + txy * qz - s0 * qx)
    ellipses.v_xy[i] = 0.5 * peak * (txx * qz + txy * qy - s0 * qz)
    ellipses.v_yy[i] = 0.5 * peak * (tyx * qz + tyy * qy - s0 * qy)
    # P / mass = sqrt(|Q|) / (2 pi), defined for mass 0 too
    ellipses.v_mass[i] = s0 * ti.sqrt(ti.max(qx * qy - qz * qz, 0.0)) * 0.15915494309189535
