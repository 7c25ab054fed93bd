"""taigs.imaging.fourier: cropping in Fourier space, and shells."""

import numpy as np
import pytest

from taigs.errors import InputError
from taigs.imaging.fourier import CroppedImages, fourier_crop, shell_indices

SIZES = [(16, 12), (16, 11), (15, 12), (15, 11), (16, 15), (15, 14), (9, 2), (8, 1)]


def cropped_by_definition(image, n):
    """Full transforms in NumPy, pixel by pixel of the frequencies kept."""
    size = len(image)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))
    kept = np.zeros((n, n), complex)
    for y in range(-((n - 1) // 2), (n + 1) // 2):
        for x in range(-((n - 1) // 2), (n + 1) // 2):
            kept[n // 2 + y, n // 2 + x] = spectrum[size // 2 + y, size // 2 + x]
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kept))) * (n / size) ** 2


def padded(image, size):
    """What is adjoint to cropping to an odd or even box: the frequencies kept, put back among zeros."""
    n = len(image)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))
    if n % 2 == 0:
        spectrum[0], spectrum[:, 0] = 0, 0
    whole = np.zeros((size, size), complex)
    first = size // 2 - n // 2
    whole[first : first + n, first : first + n] = spectrum
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(whole)))


@pytest.mark.parametrize("size, n", SIZES)
def test_cropping_is_what_its_definition_says(rng, size, n):
    images = rng.normal(size=(3, size, size))
    for image, cropped in zip(images, fourier_crop(images, n), strict=True):
        expected = cropped_by_definition(image, n)
        assert np.abs(expected.imag).max() < 1e-14
        np.testing.assert_allclose(cropped, expected.real, atol=1e-14)


@pytest.mark.parametrize("size, n", SIZES)
def test_cropping_and_padding_are_adjoint(rng, size, n):
    x, y = rng.normal(size=(size, size)), rng.normal(size=(n, n))
    forward, backward = np.vdot(fourier_crop(x, n), y), np.vdot(x, padded(y, size).real)
    assert forward == pytest.approx(backward, rel=1e-12)


@pytest.mark.parametrize("size, n", SIZES)
def test_the_mean_is_kept(rng, size, n):
    image = rng.normal(size=(size, size)) + 3
    assert fourier_crop(image, n).mean() == pytest.approx(image.mean())


@pytest.mark.parametrize("size, n", [(64, 32), (64, 31), (63, 32), (63, 31)])
def test_the_centre_stays_the_centre_and_values_keep_their_scale(size, n):
    def blob(size, scale):
        x = (np.arange(size) - size // 2) / scale
        return np.exp(-((x[:, None] - 5) ** 2 + (x[None] + 3) ** 2) / (2 * 4**2))

    np.testing.assert_allclose(fourier_crop(blob(size, 1.0), n), blob(n, n / size), atol=2e-4)


def test_single_precision_stays_and_the_full_box_changes_nothing(rng):
    images = rng.normal(size=(2, 8, 8)).astype(np.float32)
    assert fourier_crop(images, 6).dtype == np.float32
    assert fourier_crop(images, 8) is images


@pytest.mark.parametrize("shape, n", [((8, 8), 9), ((8, 8), 0), ((8, 9), 4)])
def test_what_cannot_be_cropped_is_refused(shape, n):
    with pytest.raises(InputError, match=f"cropped to {n} pixels; expected square"):
        fourier_crop(np.zeros(shape), n)


def test_shells_are_rounded_distances():
    shells = shell_indices(6)
    assert shells.shape == (6, 4) and shells.dtype.kind == "i"
    assert shells[0].tolist() == [0, 1, 2, 3] and shells[3].tolist() == [3, 3, 4, 4]
    np.testing.assert_array_equal(shells[1], shells[5])
    assert shell_indices(5).shape == (5, 3)


class Counted:
    """Images that remember how many were asked for at a time."""

    def __init__(self, images):
        self.images, self.shape, self.asked = images, images.shape, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.asked.append(np.size(index))
        return self.images[index]


def test_images_are_cropped_when_indexed_and_few_at_a_time(rng, monkeypatch):
    source = Counted(rng.normal(size=(10, 16, 16)).astype(np.float32))
    images = CroppedImages(source, 12)
    assert images.shape == (10, 12, 12) and len(images) == 10 and not source.asked
    np.testing.assert_array_equal(images[-1], fourier_crop(source.images[-1], 12))
    assert source.asked == [1]
    monkeypatch.setattr("taigs.imaging.fourier.BATCH_PIXELS", 3 * 16 * 16)
    everything = fourier_crop(source.images, 12)
    np.testing.assert_allclose(images[:], everything, rtol=1e-6)
    assert source.asked == [1, 3, 3, 3, 1]
    np.testing.assert_allclose(images[[7, 2]], everything[[7, 2]], rtol=1e-6)
    np.testing.assert_allclose(images[np.arange(10) > 7], everything[8:], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(images), everything, rtol=1e-6)
    assert images[[]].shape == (0, 12, 12)


def test_a_box_larger_than_the_images_is_refused_at_once():
    with pytest.raises(InputError, match="cropped to 17 pixels"):
        CroppedImages(np.zeros((1, 16, 16)), 17)
