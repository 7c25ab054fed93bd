"""What a device can do: copies and, of a GPU, the arithmetic and the accesses to memory that drawing asks of it."""

from measure import timed

from taigs.kernels.layout import SUPPORT
from taigs.runtime import ti

array = ti.types.ndarray(ndim=1)


@ti.kernel
def copy(source: array, target: array, n: int):
    for i in range(n):
        target[i] = source[i]


@ti.kernel
def multiply_and_add(values: array, n: int, times: int):
    for i in range(n):
        a = values[i]
        b = a + 0.1
        c = a + 0.2
        d = a + 0.3
        for _ in range(times):  # a chain that no compiler can shorten
            a = a * b + 0.3
            b = b * c + 0.2
            c = c * d + 0.1
            d = d * a - 0.1
        values[i] = a + b + c + d


@ti.kernel
def add_anywhere(values: array, n: int, times: int, n_blocks: int):
    for i in range(n):
        block = i // SUPPORT
        for _ in range(times):
            block = (block * 1664525 + 1013904223) & (n_blocks - 1)
            ti.atomic_add(values[block * SUPPORT + i % SUPPORT], 1.0)


@ti.kernel
def read_anywhere(values: array, n: int, times: int, n_blocks: int):
    for i in range(n):
        block = i // SUPPORT
        total = 0.0
        for _ in range(times):
            block = (block * 1664525 + 1013904223) & (n_blocks - 1)
            total += values[block * SUPPORT + i % SUPPORT]
        if total < 0:  # never so: what is read must be used
            values[0] = total


def limits(table, is_cpu):
    """Add what the running device can do; of a CPU the copy alone, since one lane would do the rest."""
    n = 1 << 27
    arrays = [ti.ndarray(float, n) for _ in range(2)]
    seconds = timed(lambda: copy(*arrays, n), repeats=3)[0]
    table.add("copy, read and written", 8e-9 * n / seconds, "GB/s")
    if is_cpu:
        return
    n, times = 1 << 20, 4096
    seconds = timed(lambda: multiply_and_add(arrays[0], n, times), repeats=3)[0]
    table.add("multiply and add", 8e-9 * n * times / seconds, "GFLOP/s")
    times, n_blocks = 256, 1 << 18  # 8 MB: 32 images of 256 x 256
    for work, what in ((add_anywhere, "atomic additions"), (read_anywhere, "reads")):
        seconds = timed(lambda work=work: work(arrays[0], n, times, n_blocks), repeats=3)[0]
        table.add(f"{what} of 8 neighbours, anywhere in 8 MB", 1e-9 * n * times / seconds, "10^9/s")
