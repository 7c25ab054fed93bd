"""Transforms of images -> weighted samples of central slices: the CTF and shift of every view."""

from taigs.kernels.layout import at_most, cosine, exp
from taigs.runtime import ti

array = ti.types.ndarray(ndim=1)
LARGEST = 1e25  # of a sample: the sum of any number of them must stay finite


@ti.func
def ctf_value(c: ti.template(), kx, ky):
    """CTF at (kx, ky) in 1/A from 9 numbers, the phase's in turns; the formula and its source: imaging/ctf.py."""
    k2 = kx * kx + ky * ky
    gamma = c[0] * kx * kx + c[1] * kx * ky + c[2] * ky * ky + c[3] * k2 * k2 - c[4]
    value = cosine(gamma + 0.25) * c[6] * exp(-c[5] * k2)  # -sin(gamma)
    if c[7] > 0 and k2 > 0:
        value *= ti.exp(-0.5 * c[7] / (c[8] * (0.245 * k2**-0.8325 + 2.81)))
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
        c = ti.Vector([ctf[9 * v + j] for j in ti.static(range(9))])
        shift_x = shifts[2 * v] / n; shift_y = shifts[2 * v + 1] / n  # turns from one coefficient to the next
        for x in range(half):
            p = (v * n + row) * half + x
            inside = 4 * (x * x + y * y) <= n * n and 2 * x < n and -2 * y < n
            re = 0.0; im = 0.0; weight = 0.0
            if inside:
                value = 1.0
                if has_ctf:
                    value = ctf_value(c, x * frequency, y * frequency)
                weight = weights[v] * (0.5 if x == 0 else 1.0)
                turns = x * shift_x + y * shift_y
                cos = cosine(turns); sin = cosine(turns - 0.25)
                scale = weight if premultiplied else weight * value
                a = transforms[2 * p]; b = transforms[2 * p + 1]
                re = scale * (a * cos - b * sin)
                im = scale * (a * sin + b * cos)
                weight *= value * value
            ok = at_most(re, LARGEST) & at_most(im, LARGEST) & at_most(weight, LARGEST)
            slices[3 * p] = ti.select(ok, re, 0.0)
            slices[3 * p + 1] = ti.select(ok, im, 0.0)
            slices[3 * p + 2] = ti.select(ok, weight, 0.0)
