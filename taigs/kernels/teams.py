"""Teams: eight threads of a GPU that draw a Gaussian together, each its own columns."""

from taigs.kernels.layout import LAYOUT
from taigs.runtime import ti


@ti.func
def full_blocks(n):
    """Iterations of a loop over n teams: all threads of a block must come to `team_sums`, or none."""
    return (n * LAYOUT.team + LAYOUT.block - 1) // LAYOUT.block * LAYOUT.block


@ti.func
def team_sums(values: ti.template(), k):
    """Add what all threads of the team hold to the values of its first; k is the thread's iteration."""
    if ti.static(LAYOUT.team > 1):
        n = ti.static(values.n)
        shared = ti.simt.block.SharedArray((n * LAYOUT.block,), ti.cfg.default_fp)
        thread = k % LAYOUT.block
        for j in ti.static(range(n)):
            shared[j * LAYOUT.block + thread] = values[j]
        ti.simt.block.sync()
        if k % LAYOUT.team == 0:
            for j in ti.static(range(n)):
                for other in ti.static(range(1, LAYOUT.team)):
                    values[j] += shared[j * LAYOUT.block + thread + other]
        ti.simt.block.sync()  # before the next iteration writes
