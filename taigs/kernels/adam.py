"""One Adam step (Kingma & Ba 2015) for all parameter groups of a cloud."""

from taigs.kernels.layout import LAYOUT, at_most, chunk_of, share, slots
from taigs.runtime import ti

EPSILON = 1e-15
LARGEST = 1e18  # of a gradient, whose square must be finite in float32


@ti.kernel
def adam(
    cloud: ti.template(), n_chunks: int, beta1: float, beta2: float, correction1: float, correction2: float,
    rate_position: float, rate_log_sigma: float, rate_quaternion: float, rate_mass: float,
    log_sigma_min: float, log_sigma_max: float,
):  # fmt: skip
    """raw -= rate m^ / (sqrt(v^) + eps), then log sigma is kept within its bounds.

    A parameter and its moments stay as they are where the gradient, or what would come of it, is no number: one
    such gradient would stay in the moments for good.
    """
    # inputs:  cloud.v_raw (11, capacity); correction = 1 / (1 - beta^step); rates in the parameter's unit per step
    # outputs (updated): cloud.raw, cloud.moment1, cloud.moment2 (11, capacity)
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            first = chunk_of(cloud, task)
            count = cloud.count[None]  # loads the root of the fields once, outside the vectorised loops
            for j in ti.static(range(11)):
                rate = rate_position if j < 3 else rate_log_sigma if j < 6 else rate_quaternion if j < 10 else rate_mass
                rate = ti.select(count < 0, 0.0, rate)  # never so: what is loaded must be used
                for g in range(first, first + LAYOUT.chunk):
                    v = cloud.v_raw[j][g]
                    old = cloud.raw[j][g]
                    m1 = beta1 * cloud.moment1[j][g] + (1 - beta1) * v
                    m2 = beta2 * cloud.moment2[j][g] + (1 - beta2) * v * v
                    new = old - rate * m1 * correction1 / (ti.sqrt(m2 * correction2) + EPSILON)
                    ok = at_most(v, LARGEST) & at_most(new, LARGEST)
                    cloud.moment1[j][g] = ti.select(ok, m1, cloud.moment1[j][g])
                    cloud.moment2[j][g] = ti.select(ok, m2, cloud.moment2[j][g])
                    if ti.static(3 <= j < 6):
                        new = ti.min(ti.max(new, log_sigma_min), log_sigma_max)
                    cloud.raw[j][g] = ti.select(ok, new, old)


@ti.kernel
def gradient_size(cloud: ti.template(), n_chunks: int) -> float:
    """Sum of |dL/draw|: not finite if any part of the gradient is not, whatever the order of the sum."""
    # inputs:  cloud.v_raw (11, capacity)
    total = 0.0
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            first = chunk_of(cloud, task)
            size = 0.0
            for j in ti.static(range(11)):
                for g in range(first, first + LAYOUT.chunk):
                    size += ti.abs(cloud.v_raw[j][g])
            total += size
    return total
