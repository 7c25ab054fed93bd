"""A quadratic form in the transforms of real arrays: the likelihood of images, or of all of them in one volume."""

from taigs.runtime import ti

array = ti.types.ndarray(ndim=1)


# L = scale sum_k (1/2 W |T|^2 - Re conj(B) T) over all k, T = factor F V of real arrays V of n points. Since L is real
# and F^H F = n, dL/dV = factor scale n F^-1 (W T - B): the inverse that is not divided by n, of W T - B.
# Of the mates k and -k only k is stored, except where kx is 0 or nx / 2, its own mate: the others count twice.
@ti.kernel
def compare_spectra(
    spectra: array, terms: array, partial: array, n: int, width: int, factor: float, n_parts: int,
):  # fmt: skip
    """W T - B, and the two sums of the form in parts: sum W |T|^2, sum Re conj(B) T."""
    # inputs:  spectra (n) of (Re, Im) of F V, rows of width // 2 + 1; terms (n) of (Re B, Im B, W)
    # outputs (overwritten): spectra = W T - B; partial (n_parts, 2): the sums over every n_parts-th entry, for a sum
    #          of many numbers in float32, in an order that does not depend on threads
    half = width // 2 + 1
    for part in range(n_parts):
        square = 0.0
        cross = 0.0
        for j in range((n - part + n_parts - 1) // n_parts):
            i = part + j * n_parts
            kx = i % half
            mates = 1.0 if kx == 0 or 2 * kx == width else 2.0
            re = factor * spectra[2 * i]; im = factor * spectra[2 * i + 1]
            b_re = terms[3 * i]; b_im = terms[3 * i + 1]; w = terms[3 * i + 2]
            square += mates * w * (re * re + im * im)
            cross += mates * (b_re * re + b_im * im)
            spectra[2 * i] = w * re - b_re
            spectra[2 * i + 1] = w * im - b_im
        partial[2 * part] = square
        partial[2 * part + 1] = cross


@ti.kernel
def scale_terms(terms: array, factors: array, n: int, period: int):
    """Terms of every image times those of the noise, say."""
    # inputs:  factors (period)
    # outputs (updated): terms (n // period, period) of (Re B, Im B, W)
    for i in range(n):
        for j in ti.static(range(3)):
            terms[3 * i + j] = terms[3 * i + j] * factors[i % period]
