"""The comparison of gradients must itself be able to fail."""

import numpy as np
import pytest
from gradients import assert_grad_close, central_difference


def test_central_differences_of_a_known_function():
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(central_difference(lambda a: (a**3).sum(), x), 3 * x**2, atol=1e-8)
    np.testing.assert_allclose(central_difference(lambda a: (a**3).sum(axis=1), x), 3 * x**2, atol=1e-8)


def test_equal_gradients_pass_and_rounding_is_allowed(rng):
    g = rng.normal(size=(300, 3))
    assert_grad_close(g * (1 + 1e-8), g)


def zero_row(g):
    g[17] = 0


def zero_small_row(g):
    g[0] = 0


def zero_entry(g):
    g[17, 1] = 0


def scale_all(g):
    g *= 1 + 1e-5


def scale_row(g):
    g[0] *= 1.01


def swap_columns(g):
    g[:, :2] = g[:, 1::-1].copy()


def not_finite(g):
    g[3, 2] = np.nan


@pytest.mark.parametrize(
    "spoil", [zero_row, zero_small_row, zero_entry, scale_all, scale_row, swap_columns, not_finite]
)
def test_spoilt_gradients_fail(rng, spoil):
    expected = rng.normal(size=(300, 3))
    expected[0] *= 1e-2  # a row that values and vector hardly feel
    actual = expected.copy()
    spoil(actual)
    with pytest.raises(AssertionError):
        assert_grad_close(actual, expected, rtol=1e-6 if spoil is not zero_small_row else 1e-2)


def test_a_row_that_should_be_zero_and_is_not_fails(rng):
    expected = rng.normal(size=(300, 3))
    expected[5] = 0
    actual = expected.copy()
    actual[5] = 0.01
    with pytest.raises(AssertionError, match="small"):
        assert_grad_close(actual, expected, rtol=1e-2)


def test_an_expected_gradient_of_zero_is_refused():
    with pytest.raises(AssertionError, match="tests nothing"):
        assert_grad_close(np.zeros((3, 3)), np.zeros((3, 3)))
