"""The centred, orthonormal Fourier transform between image and k-space: F x = fftshift(fftn(ifftshift(x))).

DC sits at N//2 on both sides, for even and for odd N; complex64 stays complex64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PLANE = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """Image (..., y, x) to k-space (..., y, x), complex. The energy stays the same."""
    shifted = torch.fft.ifftshift(image, dim=_PLANE)
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=_PLANE)  # type: ignore[no-any-return]


def ifft2c(kspace: Tensor) -> Tensor:
    """K-space (..., y, x) to image (..., y, x), complex; inverse and adjoint of :func:`fft2c`."""
    shifted = torch.fft.ifftshift(kspace, dim=_PLANE)
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=_PLANE)  # type: ignore[no-any-return]


def fft2c_numpy(image: NDArray[Any]) -> NDArray[Any]:
    """:func:`fft2c` for numpy. Single precision gives complex64."""
    shifted = np.fft.ifftshift(image, axes=_PLANE)
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=_PLANE)
    return kspace.astype(_complex_like(image), copy=False)


def ifft2c_numpy(kspace: NDArray[Any]) -> NDArray[Any]:
    """:func:`ifft2c` for numpy. Single precision gives complex64."""
    shifted = np.fft.ifftshift(kspace, axes=_PLANE)
    image = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=_PLANE)
    return image.astype(_complex_like(kspace), copy=False)


def _complex_like(array: NDArray[Any]) -> type[np.complex64] | type[np.complex128]:
    # numpy before 2.0 computes every FFT in double precision and returns complex128
    return np.complex64 if array.dtype in (np.float32, np.complex64) else np.complex128
