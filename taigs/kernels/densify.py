"""Score, prune, split and clone: parameters and Adam moments move together, in place.

A pruned Gaussian leaves its slot to the child of a split one, so a useless Gaussian is in effect
moved to where the residual asks for it; further children are appended. Masses are conserved by
splitting and cloning; pruning removes only masses below `mass_min` or outside the bounds.
"""

from taigs.kernels.covariance import valid
from taigs.kernels.layout import LAYOUT, chunk_of, share, slots, within
from taigs.runtime import ti

EMPTY, KEEP, SPLIT = 0, 1, 2
OFFSET = 0.6  # of sigma: two halves at +-0.6 sigma with sigma' = 0.8 sigma have the parent's mean and covariance
CLONE_OFFSET = 0.25  # of sigma: enough to let the two copies of a narrow Gaussian part
LARGEST_SQUARE = 1e30  # of a gradient that counts
NOWHERE = 1e9  # A: empty slots lie so far outside that no kernel ever draws them


@ti.kernel
def add_score(cloud: ti.template(), n_chunks: int):
    """score += |dL/dposition|: how strongly the residual pulls at a Gaussian."""
    # inputs:  cloud.v_raw (11, capacity);  outputs (added to): cloud.score (capacity)
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            first = chunk_of(cloud, task)
            for g in range(first, first + LAYOUT.chunk):
                x = cloud.v_raw[0][g]; y = cloud.v_raw[1][g]; z = cloud.v_raw[2][g]
                square = x * x + y * y + z * z
                counts = within(square, 0.0, LARGEST_SQUARE)
                cloud.score[g] = cloud.score[g] + ti.sqrt(ti.select(counts, square, 0.0))


@ti.kernel
def mark(
    cloud: ti.template(), n: int, split_above: float, mass_min: float, log_sigma_max: float,
    half_x: float, half_y: float, half_z: float,
):  # fmt: skip
    """Decide what happens to each Gaussian: emptied, kept, or split."""
    # inputs:  cloud.raw, cloud.mass (current), cloud.score; bounds in A
    # outputs (overwritten): cloud.action (capacity)
    for g in range(n):
        widest = ti.max(cloud.raw[3][g], cloud.raw[4][g], cloud.raw[5][g])
        action = KEEP
        if cloud.score[g] > split_above:
            action = SPLIT
        x = ti.abs(cloud.raw[0][g]); y = ti.abs(cloud.raw[1][g]); z = ti.abs(cloud.raw[2][g])
        outside = x > half_x or y > half_y or z > half_z
        if ti.abs(cloud.mass[g]) < mass_min or outside or widest > log_sigma_max or not valid(cloud, g):
            action = EMPTY
        cloud.action[g] = action


@ti.kernel
def assign(cloud: ti.template(), n: int, limit: int) -> int:
    """Give each split Gaussian a slot for its child: emptied slots first, then new ones up to `limit`.

    One thread, so that the result does not depend on their number. Returns the new count of slots.
    """
    # inputs:  cloud.action;  outputs (overwritten): cloud.child (capacity), -1 for none
    ti.loop_config(serialize=True)
    for _ in range(1):
        free = 0
        end = n
        for g in range(n):
            cloud.child[g] = -1
            if cloud.action[g] == SPLIT:
                while free < n and cloud.action[free] != EMPTY:
                    free += 1
                if free < n:
                    cloud.child[g] = free
                    free += 1
                elif end < limit:
                    cloud.child[g] = end
                    end += 1
        cloud.count[None] = end
    return cloud.count[None]


@ti.kernel
def empty_marked(cloud: ti.template(), n: int):
    """Clear the slots of pruned Gaussians."""
    for g in range(n):
        if cloud.action[g] == EMPTY:
            for j in ti.static(range(11)):
                cloud.raw[j][g] = 0.0
                cloud.moment1[j][g] = 0.0
                cloud.moment2[j][g] = 0.0
            for j in ti.static(range(3)):
                cloud.raw[j][g] = NOWHERE
            cloud.raw[6][g] = 1.0
            cloud.raw[10][g] = 0.0 if ti.static(cloud.signed) else -50.0


@ti.kernel
def split_marked(cloud: ti.template(), n: int, log_sigma_min: float):
    """Replace each split Gaussian by two of half its mass, displaced along its longest axis.

    Wide enough: split, which keeps mean and covariance. Otherwise: clone, two copies slightly apart.
    """
    # inputs:  cloud.child;  outputs (updated): cloud.raw, cloud.moment1, cloud.moment2 of parent and child
    for g in range(n):
        c = cloud.child[g]
        if c >= 0:
            axis = 0
            widest = cloud.raw[3][g]
            for j in ti.static((1, 2)):
                if cloud.raw[3 + j][g] > widest:
                    axis = j
                    widest = cloud.raw[3 + j][g]
            w = cloud.raw[6][g]; x = cloud.raw[7][g]; y = cloud.raw[8][g]; z = cloud.raw[9][g]
            s = 2.0 / (w * w + x * x + y * y + z * z)
            direction = ti.Vector([1 - s * (y * y + z * z), s * (x * y + w * z), s * (x * z - w * y)])
            if axis == 1:
                direction = ti.Vector([s * (x * y - w * z), 1 - s * (x * x + z * z), s * (y * z + w * x)])
            if axis == 2:
                direction = ti.Vector([s * (x * z + w * y), s * (y * z - w * x), 1 - s * (x * x + y * y)])
            narrower = ti.log(ti.sqrt(1.0 - OFFSET * OFFSET))
            offset = CLONE_OFFSET * ti.exp(widest)
            if widest + narrower >= log_sigma_min:
                offset = OFFSET * ti.exp(widest)
                for j in ti.static(range(3)):
                    if j == axis:
                        cloud.raw[3 + j][g] = widest + narrower
            raw = cloud.raw[10][g]
            if ti.static(cloud.signed):
                raw *= 0.5
            else:  # softplus(raw') = softplus(raw) / 2
                half = 0.5 * (ti.max(raw, 0.0) + ti.log(1.0 + ti.exp(-ti.abs(raw))))
                raw = half + ti.log(ti.max(1.0 - ti.exp(-half), 1e-20))
            cloud.raw[10][g] = raw
            for j in ti.static(range(11)):
                cloud.raw[j][c] = cloud.raw[j][g]
                cloud.moment1[j][c] = cloud.moment1[j][g]
                cloud.moment2[j][c] = cloud.moment2[j][g]
            for j in ti.static(range(3)):
                cloud.raw[j][c] = cloud.raw[j][g] + offset * direction[j]
                cloud.raw[j][g] = cloud.raw[j][g] - offset * direction[j]


@ti.kernel
def clear_scores(cloud: ti.template(), n: int):
    for g in range(n):
        cloud.score[g] = 0.0
