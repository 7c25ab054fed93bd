"""Model images against measured ones: sums for gain and offset, weighted residual, loss.

loss = 1/2 sum_v w_v sum_pixels (gain_v model + offset_v - target)^2
"""

from taigs.kernels.layout import LAYOUT, share, slots
from taigs.runtime import ti


@ti.func
def inside(images: ti.template(), column, width):
    """1 for the lanes of a vector that lie in the image, 0 beyond its last column."""
    return ti.select(images.lane[0] + column * LAYOUT.lanes < width - 0.5, 1.0, 0.0)


@ti.kernel
def collect(images: ti.template(), n_views: int, n_parts: int, height: int, width: int, blocks: int):
    """Add the private images into the first, and take the sums from which gain and offset follow."""
    # inputs:  images.parts, images.target
    # outputs (overwritten): images.parts (first n_views images), images.statistics (n_views * strips, 6):
    #          sums over pixels of model, model^2, model * target, target, target^2
    for k in range(slots(n_views * LAYOUT.strips)):
        begin, end = share(k, n_views * LAYOUT.strips)
        for task in range(begin, end):
            view = task // LAYOUT.strips
            strip = task - view * LAYOUT.strips
            size = height * blocks
            zero = ti.Vector([0.0] * LAYOUT.lanes)
            first = strip * height // LAYOUT.strips
            last = (strip + 1) * height // LAYOUT.strips
            for p in range(1, n_parts):
                for i in range(view * size + first * blocks, view * size + last * blocks):
                    images.parts[i] = images.parts[i] + images.parts[i + p * n_views * size]
            s = task * 5  # kept in memory, as in raster_vjp
            for j in ti.static(range(5)):
                images.sums[s + j] = zero
            for row in range(first, last):
                s1 = zero; s2 = zero; s3 = zero; s4 = zero; s5 = zero
                for column in range(blocks):
                    i = view * size + row * blocks + column
                    m = inside(images, column, width)
                    v = images.parts[i] * m
                    t = images.target[i] * m
                    s1 += v
                    s2 += v * v
                    s3 += v * t
                    s4 += t
                    s5 += t * t
                for j, part in ti.static(enumerate((s1, s2, s3, s4, s5))):
                    images.sums[s + j] = images.sums[s + j] + part
            for j in ti.static(range(5)):
                images.statistics[task, j] = images.sums[s + j].sum()


@ti.kernel
def residual(images: ti.template(), n_views: int, height: int, width: int, blocks: int):
    """dL/dmodel = w gain (gain model + offset - target), and the loss in column 5 of the statistics."""
    # inputs:  images.parts (summed), images.target, images.scale (n_views, 3): gain, offset, weight
    # outputs (overwritten): images.residual; images.statistics[:, 5]
    for k in range(slots(n_views * LAYOUT.strips)):
        begin, end = share(k, n_views * LAYOUT.strips)
        for task in range(begin, end):
            view = task // LAYOUT.strips
            strip = task - view * LAYOUT.strips
            gain = images.scale[view, 0]; offset = images.scale[view, 1]; weight = images.scale[view, 2]
            loss = ti.Vector([0.0] * LAYOUT.lanes)
            for row in range(strip * height // LAYOUT.strips, (strip + 1) * height // LAYOUT.strips):
                for column in range(blocks):
                    i = view * height * blocks + row * blocks + column
                    d = (gain * images.parts[i] + offset - images.target[i]) * inside(images, column, width)
                    images.residual[i] = d * (weight * gain)
                    loss += d * d
            images.statistics[task, 5] = 0.5 * weight * loss.sum()
