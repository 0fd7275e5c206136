"""The centred orthonormal transform: against the DFT sum, on odd and even sizes."""

import numpy as np
import pytest
import torch

from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy, ifft2c_numpy

SIZES = [(8, 8), (7, 5), (6, 9), (1, 4)]


def random_image(*shape):
    values = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    return (values[0] + 1j * values[1]).astype(np.complex64)


def matrix(n):
    """exp(-2 pi i k x / n) / sqrt(n) with k and x counted from n//2."""
    steps = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(steps, steps) / n) / np.sqrt(n)


@pytest.mark.parametrize("shape", SIZES)
def test_the_transform_is_the_centred_sum(shape):
    image = random_image(3, *shape)
    expected = matrix(shape[0]) @ image @ matrix(shape[1]).T
    np.testing.assert_allclose(fft2c(torch.from_numpy(image)).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(fft2c_numpy(image), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SIZES)
def test_the_inverse_undoes_it_and_energy_is_kept(shape):
    image = random_image(2, *shape)
    there = fft2c(torch.from_numpy(image))
    np.testing.assert_allclose(ifft2c(there).numpy(), image, atol=1e-5)
    np.testing.assert_allclose(ifft2c_numpy(fft2c_numpy(image)), image, atol=1e-5)
    assert np.linalg.norm(there.numpy()) == pytest.approx(np.linalg.norm(image), rel=1e-5)


@pytest.mark.parametrize("shape", SIZES)
def test_a_flat_image_is_one_sample_at_the_middle(shape):
    kspace = fft2c_numpy(np.ones(shape, dtype=np.float32))
    expected = np.zeros(shape)
    expected[shape[0] // 2, shape[1] // 2] = np.sqrt(shape[0] * shape[1])
    np.testing.assert_allclose(kspace, expected, atol=1e-5)


def test_single_precision_stays_single():
    image = random_image(4, 4)
    assert fft2c(torch.from_numpy(image)).dtype == torch.complex64
    assert fft2c_numpy(image).dtype == ifft2c_numpy(image).dtype == np.complex64
    assert fft2c_numpy(image.astype(np.complex128)).dtype == np.complex128
