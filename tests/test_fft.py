"""Transforms in device memory against SciPy's, and as linear maps."""

import numpy as np
import pytest
from scipy import fft

from taigs import runtime
from taigs.device import float_type
from taigs.device_fft import DeviceFFT, RealFFT, factors, next_size
from taigs.errors import InputError, ResourceError
from taigs.kernels import transfer
from taigs.kernels.fields import image_blocks, vectors
from taigs.kernels.layout import LAYOUT
from taigs.runtime import ti

SIZES = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 25, 27, 30, 48, 60, 64, 100, 125, 128)
ROOM = 4096  # vectors
SHAPES = [(3, 4, 5), (5, 6, 10), (1, 5, 12), (3, 9, 2), (3, 3, 1), (16, 12, 10)]


def complex_transform(x, sign):
    """Along the middle axis of (n_outer, n, s)."""
    n_outer, n, s = x.shape
    device = DeviceFFT((n,), x.size)
    device.values.from_numpy(np.stack([x.real, x.imag], axis=-1).astype(float_type()).reshape(-1))
    device.along(n, n_outer, s, sign)
    return device.values.to_numpy().astype(np.float64).view(np.complex128).reshape(x.shape)


class Rows:
    """A real array (nz, ny, nx) in a field of vectors."""

    def __init__(self, field, shape):
        self.field, self.shape, self.blocks = field, shape, image_blocks(shape[2])
        self.padded = (*shape[:2], self.blocks * LAYOUT.lanes)
        self.count = int(np.prod(self.padded)) // LAYOUT.lanes

    def write(self, x, padding):
        """Also NaN into all of the field behind the array."""
        padded = np.full(self.padded, padding, float_type())
        padded[..., : self.shape[2]] = x
        whole = np.full(ROOM * LAYOUT.lanes, np.nan, float_type())
        whole[: padded.size] = padded.reshape(-1)
        transfer.load_vectors(self.field, whole, ROOM)

    def read(self):
        out = np.empty(self.padded, float_type())
        transfer.store_vectors(self.field, out.reshape(-1), self.count)
        return out


@pytest.fixture
def rows(renderers):
    """Rows of one field for all tests: kernels are compiled for a field."""

    def get(shape):
        key = ("rows", runtime.generation())
        if key not in renderers:
            tree = ti.FieldsBuilder()
            renderers[key] = vectors(tree, ROOM)
            tree.finalize()
        return Rows(renderers[key], shape)

    return get


def spectra_of(device):
    """(n_rows, half)"""
    values = device.values.to_numpy()[: 2 * device.shape[0] * device.shape[1] * device.half]
    return values.astype(np.float64).view(np.complex128).reshape(-1, device.half)


def assert_close(actual, expected, tolerance):
    assert np.linalg.norm(actual - expected) < tolerance * np.linalg.norm(expected)


def random_complex(rng, shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


class Transforms:
    """What holds on every backend, to its `tolerance`; a class for each, since tests are ordered by their fixtures."""

    @pytest.mark.parametrize("n", SIZES)
    def test_transforms_along_an_axis_equal_those_of_scipy(self, rng, n):
        """Of one array, and of odd numbers of them before and behind the axis."""
        for n_outer, s in ((1, 1), (3, 7)):
            x = random_complex(rng, (n_outer, n, s))
            assert_close(complex_transform(x, 1), fft.fft(x, axis=1), self.tolerance)
            assert_close(complex_transform(x, -1), n * fft.ifft(x, axis=1), self.tolerance)

    @pytest.mark.parametrize("n", [6, 25, 48])
    def test_the_inverse_is_the_adjoint(self, rng, n):
        x, y = random_complex(rng, (3, n, 2)), random_complex(rng, (3, n, 2))
        forward = np.vdot(y, complex_transform(x, 1))
        assert abs(np.vdot(complex_transform(y, -1), x) - forward) < 10 * self.tolerance * abs(forward)

    @pytest.mark.parametrize("n_axes", [2, 3])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_real_transforms_of_images_and_volumes_equal_those_of_scipy(self, rows, rng, shape, n_axes):
        """Whatever stands in the columns beyond the width."""
        if n_axes == 2:
            shape = (7, *shape[1:])  # a number of images need not be a size
        x, rows = rng.normal(size=shape), rows(shape)
        rows.write(x, padding=5.0)
        device = RealFFT(shape, n_axes)
        device.forward(rows.field, rows.blocks)
        expected = fft.rfftn(x, axes=(0, 1, 2)[-n_axes:])
        assert_close(spectra_of(device), expected.reshape(-1, device.half), self.tolerance)

    @pytest.mark.parametrize("n_axes", [2, 3])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_inverse_real_transforms_equal_those_of_scipy(self, rows, rng, shape, n_axes):
        """Also where a column is no transform of anything real; and zeros are written beyond the width."""
        rows, device = rows(shape), RealFFT(shape, n_axes)
        axes = (0, 1, 2)[-n_axes:]
        x = random_complex(rng, (*shape[:2], device.half))
        values = np.zeros(device.values.shape, float_type())
        values[: 2 * x.size] = x.view(np.float64).reshape(-1)
        device.values.from_numpy(values)
        rows.write(np.zeros(shape), padding=5.0)
        device.inverse(rows.field, rows.blocks, 0.5)
        expected = 0.5 * np.prod(shape[-n_axes:]) * fft.irfftn(x, s=shape[-n_axes:], axes=axes)
        assert_close(rows.read()[..., : shape[2]], expected, self.tolerance)
        assert not rows.read()[..., shape[2] :].any()

    def test_there_and_back_is_the_same_array(self, rows, rng):
        shape = (10, 12, 15)
        x, rows, device = rng.normal(size=shape), rows(shape), RealFFT(shape, 3)
        rows.write(x, padding=0.0)
        device.forward(rows.field, rows.blocks)
        device.inverse(rows.field, rows.blocks, 1 / x.size)
        assert_close(rows.read()[..., :15], x, self.tolerance)


class TestOnTheCpu(Transforms):
    tolerance = 1e-12

    @pytest.fixture(autouse=True)
    def backend(self, cpu64):
        pass


class TestOnTheCpuInFloat32(Transforms):
    tolerance = 1e-5

    @pytest.fixture(autouse=True)
    def backend(self, cpu32):
        pass


@pytest.mark.vulkan
class TestOnVulkan(Transforms):
    tolerance = 1e-5

    @pytest.fixture(autouse=True)
    def backend(self, vulkan):
        pass


@pytest.mark.parametrize("n, better", [(7, 8), (22, 24), (121, 128)])
def test_sizes_with_other_factors_are_refused_with_a_better_one(cpu64, n, better):
    with pytest.raises(InputError, match=f"a transform of {n} points; expected a product of 2, 3 and 5; try {better}"):
        RealFFT((n, n, n), 3)


def test_the_factors_of_a_size_multiply_to_it():
    assert all(np.prod(factors(n), dtype=int) == n for n in SIZES)
    assert factors(7) is None and factors(22) is None
    assert [next_size(n) for n in (1, 7, 22, 480)] == [2, 8, 24, 480]


def test_transforms_that_are_too_large_are_refused_before_memory_is_taken(cpu64):
    with pytest.raises(ResourceError, match=r"fewer than 2\^31"):
        RealFFT((1280, 1280, 1350), 3)
