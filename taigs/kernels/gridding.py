"""Images -> Fourier volume: weighted central slices added to a padded grid (the W and B of the volume objective).

The grid holds the half z >= 0 of Fourier space, (planes, size, size) cells of (Re B, Im B, W), y and x in the
order of an FFT; a sample with z < 0 goes to its Friedel mate. On a GPU a task is a row of a slice and adds
atomically. On the CPU the samples of every slice are first put in the order of their planes; then a task owns a
plane, which fits a cache where the grid does not, and takes its samples in the order of the views: no two tasks
write one cell, and the sums do not depend on the number of threads.
"""

from taigs.kernels.layout import at_most, share, slots
from taigs.runtime import ti

array = ti.types.ndarray(ndim=1)
integers = ti.types.ndarray(dtype=ti.i32, ndim=1)
LARGEST_ENTRY = 1e3  # of a rotation, with room for a magnification
SPREAD = 13  # a prime, for planes in an order that mixes those with many samples and those with few


@ti.func
def load_rotation(matrices: ti.template(), v, padding):
    """Rows x and y of the rotation of view v, in cells of the grid; and whether they are numbers."""
    ok = True
    for j in ti.static(range(6)):
        ok = ok & at_most(matrices[6 * v + j], LARGEST_ENTRY)
    return padding * ti.Matrix([[matrices[6 * v + 3 * i + j] for j in range(3)] for i in range(2)]), ok


@ti.func
def place(R: ti.template(), x, y):
    """Cell of the sample (x, y) of a slice."""
    return x * R[0, 0] + y * R[1, 0], x * R[0, 1] + y * R[1, 1], x * R[0, 2] + y * R[1, 2]


@ti.func
def holds(u, v, w, size, planes):
    """Whether a place, or its mate, lies in the grid."""
    return (ti.abs(u) <= size // 2) & (ti.abs(v) <= size // 2) & (ti.abs(w) < planes)


@ti.func
def index_of(frequency, size):
    """Place of a frequency of at most size / 2 + 1 in the order of an FFT."""
    return ti.select(frequency < 0, frequency + size, frequency)


@ti.kernel
def insert_slices(
    slices: array, matrices: array, grid: array,
    n_views: int, n: int, padding: float, size: int, planes: int,
):  # fmt: skip
    """grid += slices, each sample shared among the eight cells around it (trilinear): the form of GPUs."""
    # inputs:  slices (V, n, n/2+1) of (Re, Im, weight); matrices (V, 2, 3) rows x, y of the rotation volume -> image;
    #          padding = size / n
    # outputs (added to): grid (planes, size, size) of (Re B, Im B, W)
    half = n // 2 + 1
    for v, row in ti.ndrange(n_views, n):
        y = row if 2 * row < n else row - n
        R, ok = load_rotation(matrices, v, padding)
        for x in range(half):
            p = 3 * ((v * n + row) * half + x)
            a, b, c = place(R, x, y)
            if ok and slices[p + 2] > 0 and holds(a, b, c, size, planes):
                sign = 1.0 if c >= 0 else -1.0
                add_sample(
                    grid, ti.Vector([slices[p], sign * slices[p + 1], slices[p + 2]]), sign * a, sign * b, sign * c,
                    size, planes,
                )  # fmt: skip


@ti.func
def add_sample(grid: ti.template(), sample: ti.template(), x, y, z, size, planes):
    x0 = ti.floor(x); y0 = ti.floor(y); z0 = ti.floor(z)
    fx = x - x0; fy = y - y0; fz = z - z0
    xi = ti.cast(x0, ti.i32); yi = ti.cast(y0, ti.i32); zi = ti.cast(z0, ti.i32)
    for dz, dy, dx in ti.static(ti.ndrange(2, 2, 2)):
        if zi + dz < planes:
            fraction = (fz if dz else 1 - fz) * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
            cell = 3 * (((zi + dz) * size + index_of(yi + dy, size)) * size + index_of(xi + dx, size))
            for j in ti.static(range(3)):
                ti.atomic_add(grid[cell + j], fraction * sample[j])


@ti.kernel
def sort_samples(
    slices: array, matrices: array, samples: array, places: integers, starts: integers,
    n_views: int, n: int, padding: float, size: int, planes: int,
):  # fmt: skip
    """Samples of every slice by the plane z at or below them (counting sort), mates already taken."""
    # inputs:  as insert_slices'
    # outputs (overwritten): samples (V, n (n/2+1)) of (Re, Im, weight); places, likewise, of x + n and y + n in 16 bits
    #          each; starts (V, planes + 2): plane z has the samples from starts[z] up to starts[z + 1] of its view
    half = n // 2 + 1
    for k in range(slots(n_views)):
        begin, end = share(k, n_views)
        for v in range(begin, end):
            first = v * (planes + 2)
            for j in range(first, first + planes + 2):
                starts[j] = 0
            R, ok = load_rotation(matrices, v, padding)
            for step in range(2 if ok else 0):  # count, then move
                for row in range(n):
                    y = row if 2 * row < n else row - n
                    for x in range(half):
                        p = 3 * ((v * n + row) * half + x)
                        a, b, c = place(R, x, y)
                        if slices[p + 2] > 0 and holds(a, b, c, size, planes):
                            plane = first + ti.cast(ti.abs(c), ti.i32)
                            if step == 0:
                                starts[plane + 2] = starts[plane + 2] + 1
                            else:
                                i = v * n * half + starts[plane + 1]
                                starts[plane + 1] = starts[plane + 1] + 1
                                sign = 1 if c >= 0 else -1
                                places[i] = (sign * x + n) << 16 | (sign * y + n)
                                samples[3 * i] = slices[p]
                                samples[3 * i + 1] = sign * slices[p + 1]
                                samples[3 * i + 2] = slices[p + 2]
                if step == 0:
                    for j in range(first + 2, first + planes + 2):
                        starts[j] = starts[j] + starts[j - 1]


@ti.kernel
def insert_samples(
    samples: array, places: integers, starts: integers, matrices: array, grid: array,
    n_views: int, n: int, padding: float, size: int, planes: int,
):  # fmt: skip
    """grid += sorted samples, as insert_slices does: the form of the CPU."""
    # inputs:  what sort_samples leaves; matrices and the sizes given to it
    # outputs (added to): grid (planes, size, size) of (Re B, Im B, W)
    for k in range(slots(planes)):
        begin, end = share(k, planes)
        for task in range(begin, end):
            plane = task if planes % SPREAD == 0 else task * SPREAD % planes
            for v in range(n_views):
                R, _ = load_rotation(matrices, v, padding)
                first = v * (planes + 2) + plane
                base = v * n * (n // 2 + 1)
                for i in range(base + starts[ti.max(first - 1, v * (planes + 2))], base + starts[first + 1]):
                    x, y, z = place(R, (places[i] >> 16) - n, (places[i] & 0xFFFF) - n)
                    x0 = ti.floor(x); y0 = ti.floor(y)
                    fx = x - x0; fy = y - y0; fz = ti.max(1 - ti.abs(z - plane), 0.0)
                    xi = ti.cast(x0, ti.i32); yi = ti.cast(y0, ti.i32)
                    for dy in ti.static(range(2)):
                        line = (plane * size + index_of(yi + dy, size)) * size
                        of_line = fz * (fy if dy else 1 - fy)
                        add_pair(
                            grid, 3 * (line + index_of(xi, size)), 3 * (line + index_of(xi + 1, size)),
                            of_line * (1 - fx), of_line * fx, samples[3 * i], samples[3 * i + 1], samples[3 * i + 2],
                        )  # fmt: skip


@ti.func
def add_pair(grid: ti.template(), here, there, f, g, re, im, weight):
    """Shares f and g of a sample for two cells, which are neighbours except around frequency 0."""
    if there == here + 3:  # all is read before it is written: LLVM makes vectors of it
        old = ti.Vector([grid[here + j] for j in ti.static(range(6))])
        new = old + ti.Vector([f * re, f * im, f * weight, g * re, g * im, g * weight])
        for j in ti.static(range(6)):
            grid[here + j] = new[j]
    else:
        for j, value in ti.static(enumerate((re, im, weight))):
            grid[here + j] = grid[here + j] + f * value
            grid[there + j] = grid[there + j] + g * value
