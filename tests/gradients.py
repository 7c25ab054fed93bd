"""Gradients by central differences, and a comparison in which no part of a gradient can hide."""

import numpy as np


def central_difference(f, x, eps=1e-6):
    """Gradient of f at x, entry by entry; f may return one number, or a number for each row of x.

    In the second case row i of x may only act on result i: all rows then move at once.
    """
    x = np.array(x, np.float64)
    per_row = np.ndim(f(x)) == 1
    gradient = np.empty_like(x)
    for entry in np.ndindex(x.shape[1:] if per_row else x.shape):
        where = (slice(None), *entry) if per_row else entry
        kept = x[where].copy()
        x[where] = kept + eps
        above = f(x)
        x[where] = kept - eps
        gradient[where] = (above - f(x)) / (2 * eps)
        x[where] = kept
    return gradient


def assert_grad_close(actual, expected, rtol=1e-6, row_rtol=None, name="gradient"):
    """Compare two gradients of N rows as values, as vectors and row by row.

    Values: to 10 rtol of the largest. Vector: relative L2 below rtol, cosine above 1 - max(rtol^2, 1e-10).
    Rows: the projection of each actual row onto the expected one is 1 to row_rtol (default 100 rtol);
    rows below 1e-3 of the largest must only be as small.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}; expected {expected.shape}"
    assert np.isfinite(actual).all(), f"{name}: not finite"
    a, e = (v.reshape(len(v), -1) for v in (actual, expected))
    norm = np.linalg.norm(e)
    assert norm > 0, f"{name}: the expected gradient is zero, which tests nothing"

    worst = np.abs(a - e).max() / np.abs(e).max()
    assert worst < 10 * rtol, f"{name}: a value is wrong by {worst:.2e} of the largest"
    error = np.linalg.norm(a - e) / norm
    assert error < rtol, f"{name}: relative L2 error {error:.2e}"
    cosine = np.vdot(a, e) / (norm * np.linalg.norm(a))
    assert cosine > 1 - max(rtol**2, 1e-10), f"{name}: 1 - cosine = {1 - cosine:.2e}"

    lengths = np.linalg.norm(e, axis=1)
    small = lengths < 1e-3 * lengths.max()
    leak = np.linalg.norm(a[small], axis=1).max(initial=0) / lengths.max()
    assert leak < 2e-3, f"{name}: a row that should be small is {leak:.2e} of the largest"
    ratios = (a * e).sum(axis=1)[~small] / lengths[~small] ** 2
    off = np.abs(ratios - 1).max()
    row = np.flatnonzero(~small)[np.abs(ratios - 1).argmax()]
    assert off < (row_rtol or 100 * rtol), f"{name}: row {row} is off by {off:.2e}"
