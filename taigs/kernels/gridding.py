"""Images -> Fourier volume: weighted central slices added to a padded grid (the W and B of the volume objective).

The grid holds the half z >= 0 of Fourier space, (planes, size, size) cells of (Re B, Im B, W), y and x in the
order of an FFT; a sample with z < 0 goes to its Friedel mate. On the CPU a task owns a range of planes and
walks only the part of each slice that reaches them, so that no two tasks write one cell and the sums do not
depend on the number of threads; on a GPU a task is a row of a slice and adds atomically.
"""

from taigs.kernels.layout import LAYOUT, at_most, share, slots
from taigs.runtime import ti

array = ti.types.ndarray(ndim=1)
LARGEST = 1e25  # of a sample: the sum of any number of them must stay finite
SPREAD = 13  # a prime, for tasks in an order that mixes low and high planes
LARGEST_ENTRY = 1e3  # of a rotation, with room for a magnification


@ti.func
def ctf_value(ctf: ti.template(), v, kx, ky):
    """CTF of view v at (kx, ky) in 1/A, from 9 numbers a view; the formula and its source: imaging/ctf.py."""
    i = 9 * v
    k2 = kx * kx + ky * ky
    gamma = ctf[i] * kx * kx + ctf[i + 1] * kx * ky + ctf[i + 2] * ky * ky + ctf[i + 3] * k2 * k2 - ctf[i + 4]
    value = -ti.sin(gamma) * ctf[i + 6] * ti.exp(-ctf[i + 5] * k2)
    if ctf[i + 7] > 0 and k2 > 0:
        value *= ti.exp(-0.5 * ctf[i + 7] / (ctf[i + 8] * (0.245 * k2**-0.8325 + 2.81)))
    return value


@ti.kernel
def weight_slices(
    transforms: array, shifts: array, ctf: array, weights: array, slices: array,
    n_views: int, n: int, frequency: float, has_ctf: int, premultiplied: int,
):  # fmt: skip
    """Samples of the slices and their weights: what one image adds to B and W, before gridding."""
    # inputs:  transforms (V, n, n/2+1) of (Re, Im): FFT with the image's centre at index 0; shifts (V, 2) pixels;
    #          ctf (V, 9); weights (V); frequency = 1 / (n pixel size)
    # outputs (overwritten): slices (V, n, n/2+1) of (Re, Im, weight) = (w ctf F, w ctf^2), F moved to the centre;
    #          zero beyond the circle of n/2, at Nyquist and where they are no numbers, and half of the column
    #          kx = 0, which holds both mates
    half = n // 2 + 1
    for v, row in ti.ndrange(n_views, n):
        y = row if 2 * row < n else row - n
        for x in range(half):
            p = (v * n + row) * half + x
            inside = 4 * (x * x + y * y) <= n * n and 2 * x < n and -2 * y < n
            re = 0.0; im = 0.0; weight = 0.0
            if inside:
                c = 1.0
                if has_ctf:
                    c = ctf_value(ctf, v, x * frequency, y * frequency)
                weight = weights[v] * (0.5 if x == 0 else 1.0)
                phase = 6.283185307179586 / n * (x * shifts[2 * v] + y * shifts[2 * v + 1])
                cosine = ti.cos(phase); sine = ti.sin(phase)
                scale = weight if premultiplied else weight * c
                a = transforms[2 * p]; b = transforms[2 * p + 1]
                re = scale * (a * cosine - b * sine)
                im = scale * (a * sine + b * cosine)
                weight *= c * c
            ok = at_most(re, LARGEST) & at_most(im, LARGEST) & at_most(weight, LARGEST)
            slices[3 * p] = ti.select(ok, re, 0.0)
            slices[3 * p + 1] = ti.select(ok, im, 0.0)
            slices[3 * p + 2] = ti.select(ok, weight, 0.0)


@ti.func
def columns_between(low, high, z0, dz, half):
    """Range of x in [0, half) where z0 + x dz lies in [low, high], a column wider on either side; may be empty."""
    first = 0
    last = half - 1
    if ti.abs(dz) > 1e-6:
        a = (low - z0) / dz; b = (high - z0) / dz
        first = ti.max(first, ti.cast(ti.floor(ti.max(ti.min(a, b), -1.0)), ti.i32) - 1)
        last = ti.min(last, ti.cast(ti.ceil(ti.min(ti.max(a, b), half)), ti.i32) + 1)
    elif z0 < low - 1 or z0 > high + 1:
        last = -1
    return first, last


@ti.kernel
def insert_slices(
    slices: array, matrices: array, grid: array,
    n_views: int, n: int, padding: float, size: int, planes: int, n_tasks: int,
):  # fmt: skip
    """grid += slices, each sample shared among the eight cells around it (trilinear)."""
    # inputs:  slices (V, n, n/2+1) of (Re, Im, weight); matrices (V, 2, 3) rows x, y of the rotation volume -> image;
    #          padding = size / n
    # outputs (added to): grid (planes, size, size) of (Re B, Im B, W)
    half = n // 2 + 1
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            first_plane = 0; end_plane = planes; v_first = 0; v_end = n_views; row_first = 0; row_end = n
            if ti.static(LAYOUT.lanes > 1):
                # Low planes have the most samples, and a thread takes tasks that follow one another.
                part = task if n_tasks % SPREAD == 0 else task * SPREAD % n_tasks
                first_plane = part * planes // n_tasks; end_plane = (part + 1) * planes // n_tasks
            else:
                v_first = task // n; v_end = v_first + 1; row_first = task % n; row_end = row_first + 1
            for v in range(v_first, v_end):
                i = 6 * v
                ok = True
                for j in ti.static(range(6)):
                    ok = ok & at_most(matrices[i + j], LARGEST_ENTRY)
                if not ok:
                    continue
                ax = padding * matrices[i]; ay = padding * matrices[i + 1]; az = padding * matrices[i + 2]
                bx = padding * matrices[i + 3]; by = padding * matrices[i + 4]; bz = padding * matrices[i + 5]
                for row in range(row_first, row_end):
                    y = row if 2 * row < n else row - n
                    low = ti.max(first_plane - 1.0, 0.0)
                    for side in range(2):
                        sign = 1 - 2 * side
                        x0, x1 = columns_between(low, end_plane * 1.0, sign * y * bz, sign * az, half)
                        for x in range(x0, x1 + 1):
                            p = 3 * ((v * n + row) * half + x)
                            weight = slices[p + 2]
                            z = x * az + y * bz
                            if weight > 0 and (z >= 0) == (side == 0):
                                add_sample(
                                    grid, slices[p], sign * slices[p + 1], weight,
                                    sign * (x * ax + y * bx), sign * (x * ay + y * by), sign * z,
                                    size, first_plane, end_plane,
                                )  # fmt: skip


@ti.func
def index_of(frequency, size):
    """Place of a frequency of at most size / 2 + 1 in the order of an FFT."""
    return ti.select(frequency < 0, frequency + size, frequency)


@ti.func
def add_sample(grid: ti.template(), re, im, weight, x, y, z, size, first_plane, end_plane):
    x0 = ti.floor(x); y0 = ti.floor(y); z0 = ti.floor(z)
    fx = x - x0; fy = y - y0; fz = z - z0
    xi = ti.cast(x0, ti.i32); yi = ti.cast(y0, ti.i32); zi = ti.cast(z0, ti.i32)
    for dz in ti.static(range(2)):
        if first_plane <= zi + dz < end_plane:
            of_plane = fz if dz else 1 - fz
            for dy in ti.static(range(2)):
                of_line = of_plane * (fy if dy else 1 - fy)
                line = ((zi + dz) * size + index_of(yi + dy, size)) * size
                for dx in ti.static(range(2)):
                    fraction = of_line * (fx if dx else 1 - fx)
                    cell = 3 * (line + index_of(xi + dx, size))
                    if ti.static(LAYOUT.lanes > 1):
                        grid[cell] = grid[cell] + fraction * re
                        grid[cell + 1] = grid[cell + 1] + fraction * im
                        grid[cell + 2] = grid[cell + 2] + fraction * weight
                    else:
                        ti.atomic_add(grid[cell], fraction * re)
                        ti.atomic_add(grid[cell + 1], fraction * im)
                        ti.atomic_add(grid[cell + 2], fraction * weight)
