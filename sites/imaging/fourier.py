"""The centred, orthonormal Fourier transform between image and k-space: F x = fftshift(fftn(ifftshift(x))).

DC sits at N//2 on both sides, for even and for odd N; complex64 stays complex64. The same for NumPy, which loads no
torch, is in :mod:`fedrecon.sites.imaging.numpy_fourier`.
"""

from __future__ import annotations

import torch
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
