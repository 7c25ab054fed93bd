"""Fast Fourier transforms of sizes 2^a 3^b 5^c, along any axis: one pass over the array for each factor of the size.

Stockham's form: every pass reads one array and writes another, sorted, so that no reordering is left. Complex
arrays are flat, (Re, Im) for each entry. Two rows of a real array are the Re and Im of one complex row.
"""

import math

from taigs.kernels.layout import LAYOUT
from taigs.runtime import ti

array = ti.types.ndarray(ndim=1)
RADICES = (5, 4, 3, 2)


def _root(radix, k):
    """(cos, sin) of 2 pi k / radix; those that are 0, 1 or -1 exactly so."""
    values = math.cos(math.tau * k / radix), math.sin(math.tau * k / radix)
    return tuple(float(round(v)) if abs(v - round(v)) < 1e-15 else v for v in values)


ROOTS = {radix: [_root(radix, k) for k in range(radix)] for radix in RADICES}


def factors(n):
    """Radices of the passes of a transform of n points, or None if it has other prime factors than 2, 3 and 5."""
    found = []
    for radix in RADICES:
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return found if n == 1 else None


def passes(n):
    """(radix, m, s, step) of each pass along contiguous points: see `transform` and `one_pass`."""
    found, m, s = [], n, 1
    for radix in factors(n):
        m //= radix
        found.append((radix, m, s, n // (radix * m)))
        s *= radix
    return found


# With w_n = exp(-2 pi i / n), n = r m, entry j = p + m a (p < m, a < r) and frequency k + r g (k < r, g < m):
#   X[k + r g] = sum_p w_m^(p g) y[p, k],   y[p, k] = w_n^(p k) sum_a w_r^(a k) x[a, p]
# A pass makes y of x; then X is left, r transforms of m points over p, side by side: for the next pass they
# are s = r times as many neighbours, as the axes behind the transformed one are from the start.
# The inverse is the conjugate of the transform of the conjugate, which is also the adjoint.
@ti.kernel
def transform(values: array, other: array, table: array, n: ti.template(), n_outer: int, s: int, sign: float):
    """Transform of n points along the middle axis; sign: 1 forward, -1 inverse (not divided by n).

    All passes are loops of one kernel: a launch from Python takes as long as a pass.
    """
    # inputs:  values (n_outer, n, s) of (Re, Im); table (n) of (cos, sin) of 2 pi k / n
    # outputs (overwritten): values and other: the result is in values if the number of passes is even
    for j in ti.static(range(len(passes(n)))):
        for task in range(n_outer * ti.static(n // passes(n)[j][0]) * s):
            radix, m, done, step = ti.static(passes(n)[j])
            if ti.static(j % 2 == 0):
                one_pass(values, table, other, task, radix, m, done * s, step, sign)
            else:
                one_pass(other, table, values, task, radix, m, done * s, step, sign)


@ti.func
def one_pass(
    source: ti.template(), table: ti.template(), result: ti.template(), task,
    radix: ti.template(), m: ti.template(), s, step: ti.template(), sign,
):  # fmt: skip
    """One entry of every of the `radix` parts, of (n_outer, radix, m, s), to (n_outer, m, radix, s)."""
    outer = task // (m * s)
    p = task // s - outer * m
    q = task - (outer * m + p) * s
    re = ti.Vector.zero(float, radix)
    im = ti.Vector.zero(float, radix)
    for a in ti.static(range(radix)):
        i = ((outer * radix + a) * m + p) * s + q
        re[a] = source[2 * i]
        im[a] = source[2 * i + 1] * sign
    for k in ti.static(range(radix)):
        x = re[0]; y = im[0]
        for a in ti.static(range(1, radix)):
            c, d = ti.static(ROOTS[radix][a * k % radix])
            if ti.static(c != 0):
                x += c * re[a]; y += c * im[a]
            if ti.static(d != 0):
                x += d * im[a]; y -= d * re[a]
        i = ((outer * m + p) * radix + k) * s + q
        t = 2 * step * p * k
        result[2 * i] = table[t] * x + table[t + 1] * y
        result[2 * i + 1] = sign * (table[t] * y - table[t + 1] * x)


@ti.kernel
def pack_rows(vectors: ti.template(), packed: array, n_rows: int, width: int, blocks: int):
    """Rows 0, 1 as Re and Im of row 0, rows 2, 3 of row 1 ...; a last one without a partner with 0."""
    # inputs:  vectors (n_rows, blocks) pixel vectors
    # outputs (overwritten): packed ((n_rows + 1) // 2, width) of (Re, Im)
    for i in range((n_rows + 1) // 2 * blocks):
        pair = i // blocks
        column = i - pair * blocks
        first = (2 * pair) * blocks + column
        both = 2 * pair + 1 < n_rows
        for lane in ti.static(range(LAYOUT.lanes)):
            x = column * LAYOUT.lanes + lane
            if x < width:
                p = 2 * (pair * width + x)
                packed[p] = vectors[first][lane]
                packed[p + 1] = vectors[first + blocks][lane] if both else 0.0


@ti.kernel
def unpack_rows(packed: array, vectors: ti.template(), n_rows: int, width: int, blocks: int, scale: float):
    """The inverse of `pack_rows`, times `scale`; zeros beyond the width."""
    # inputs:  packed ((n_rows + 1) // 2, width) of (Re, Im)
    # outputs (overwritten): vectors (n_rows, blocks) pixel vectors
    for i in range(n_rows * blocks):
        row = i // blocks
        column = i - row * blocks
        for lane in ti.static(range(LAYOUT.lanes)):
            x = column * LAYOUT.lanes + lane
            vectors[i][lane] = packed[2 * (row // 2 * width + x) + row % 2] * scale if x < width else 0.0


# Rows a, b and z = a + i b: with Z' the conjugate of Z at the mate of k, A = (Z + Z') / 2 and B = (Z - Z') / 2i.
@ti.kernel
def split_rows(packed: array, spectra: array, n_rows: int, width: int):
    """Transforms of pairs of rows -> those of the rows, k = 0 ... width // 2."""
    # inputs:  packed ((n_rows + 1) // 2, width) of (Re, Im)
    # outputs (overwritten): spectra (n_rows, width // 2 + 1) of (Re, Im)
    half = width // 2 + 1
    for i in range(n_rows * half):
        row = i // half
        k = i - row * half
        z = 2 * (row // 2 * width + k)
        mate = 2 * (row // 2 * width + (width - k if k > 0 else 0))
        if row % 2 == 0:
            spectra[2 * i] = 0.5 * (packed[z] + packed[mate])
            spectra[2 * i + 1] = 0.5 * (packed[z + 1] - packed[mate + 1])
        else:
            spectra[2 * i] = 0.5 * (packed[z + 1] + packed[mate + 1])
            spectra[2 * i + 1] = 0.5 * (packed[mate] - packed[z])


@ti.kernel
def join_rows(spectra: array, packed: array, n_rows: int, width: int):
    """The inverse of `split_rows`: Z = A + i B; of what is its own mate only the real part counts."""
    # inputs:  spectra (n_rows, width // 2 + 1) of (Re, Im)
    # outputs (overwritten): packed ((n_rows + 1) // 2, width) of (Re, Im)
    half = width // 2 + 1
    for i in range((n_rows + 1) // 2 * width):
        pair = i // width
        k = i - pair * width
        mate = width - k
        sign = 0.0 if k == 0 or k == mate else 1.0 if k < mate else -1.0
        a = 2 * (2 * pair * half + ti.min(k, mate))
        re = spectra[a]
        im = sign * spectra[a + 1]
        if 2 * pair + 1 < n_rows:
            b = a + 2 * half
            re -= sign * spectra[b + 1]
            im += spectra[b]
        packed[2 * i] = re
        packed[2 * i + 1] = im
