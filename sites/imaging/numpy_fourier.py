"""The transforms of :mod:`fedrecon.sites.imaging.fourier` for NumPy. Labels and checks of data need no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLANE = (-2, -1)
ORDINARY = 40
"""Largest exponent of two, up or down, of images whose squares float32 holds."""


def fft2c_numpy(image: NDArray[Any]) -> NDArray[Any]:
    """Image (..., y, x) to k-space (..., y, x). Single precision gives complex64."""
    shifted = np.fft.ifftshift(image, axes=_PLANE)
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=_PLANE)
    return kspace.astype(_complex_like(image), copy=False)


def ifft2c_numpy(kspace: NDArray[Any]) -> NDArray[Any]:
    """K-space (..., y, x) to image (..., y, x). Single precision gives complex64."""
    shifted = np.fft.ifftshift(kspace, axes=_PLANE)
    image = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=_PLANE)
    return image.astype(_complex_like(kspace), copy=False)


def root_sum_of_squares(kspace: NDArray[Any]) -> NDArray[np.float32]:
    """Root sum of squares (slices, y, x) of the coil images of k-space (slices, coils, y, x); modulus for one coil.

    Float32 cannot hold the squares of extreme values. Such a slice is scaled by a power of two first.
    """
    image = np.empty((len(kspace), *kspace.shape[-2:]), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are named by check_volume
        for number, one in enumerate(kspace):
            coils = np.abs(ifft2c_numpy(one))
            _, exponent = np.frexp(coils.max())
            exponent = exponent if abs(exponent) > ORDINARY else 0
            image[number] = np.ldexp(np.sqrt((np.ldexp(coils, -exponent) ** 2).sum(axis=0)), exponent)
    return image


def _complex_like(array: NDArray[Any]) -> type[np.complex64] | type[np.complex128]:
    # numpy before 2.0 computes every FFT in double precision and returns complex128
    return np.complex64 if array.dtype in (np.float32, np.complex64) else np.complex128
