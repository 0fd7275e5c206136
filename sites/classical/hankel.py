"""Completion of k-space under the condition that its block Hankel matrix has low rank.

A row of this matrix is one window of all coils. Shin et al., MRM 72:959, 2014 (SAKE): alternating projections on
matrices of the given rank, on Hankel matrices, and on the measured samples. Here the windows are periodic, as in the
discrete Fourier transform (Ongie and Jacob, IEEE TCI 3:535, 2017). So the matrix, which is kernel^2 times as large as
the data, is never formed. Its Gram matrix holds correlations of the coil images. Projecting the windows and averaging
them is one matrix over the coils at each pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrecon.sites.imaging.fourier import fft2c, ifft2c

_NUMBERS = 2**24
"""Largest number of complex numbers in memory at a time, of the matrices over the coils at each pixel: 128 MiB."""


@torch.no_grad()
def complete(kspace: Tensor, mask: Tensor, kernel: int, rank: int, iterations: int) -> Tensor:
    """Fills in k-space so that its windows lie in a space of ``rank`` dimensions.

    If ``rank`` is not below the number of dimensions of a window (coils x kernel^2), the condition says nothing about
    the missing samples, and they stay zero.

    Args:
        kspace: measured k-space (b, c, y, x), zero where ``mask`` is False.
        mask: True at measured samples, (b, 1, y, x).
        kernel: side of the window; on a smaller grid, the side of the grid.
        rank: the rank.
        iterations: number of iterations.

    Returns:
        (b, c, y, x); the measured samples are unchanged.
    """
    kernel = min(kernel, *kspace.shape[-2:])
    if rank >= kspace.shape[1] * kernel**2:
        return kspace
    together = max(1, _NUMBERS // (kspace.shape[1] * kspace[0].numel()))
    parts = zip(torch.split(kspace, together), torch.split(mask, together), strict=True)
    return torch.cat([_complete(part, known, kernel, rank, iterations) for part, known in parts])


def _complete(kspace: Tensor, mask: Tensor, kernel: int, rank: int, iterations: int) -> Tensor:
    waves_y, waves_x = (_waves(n, kernel).to(kspace) for n in kspace.shape[-2:])
    found = kspace
    for _ in range(iterations):
        images = ifft2c(found)
        products = images[:, :, None] * images[:, None].conj()
        _, vectors = torch.linalg.eigh(gram(waves_y.mH @ products @ waves_x.conj()))
        basis = vectors[..., -rank:]
        at_pixels = waves_y @ averages(basis @ basis.mH, kernel) @ waves_x.mT
        projected = (at_pixels * images[:, None]).sum(dim=2)
        found = torch.where(mask, kspace, fft2c(projected))
    return found


def _waves(length: int, kernel: int) -> Tensor:
    """exp(2 pi i r l / length) at pixels r, counted from the middle, for lags l: (length, 2 kernel - 1)."""
    pixels = torch.arange(length, dtype=torch.float64) - length // 2
    lags = torch.arange(1 - kernel, kernel, dtype=torch.float64)
    angles = 2 * torch.pi / length * torch.outer(pixels, lags)
    return torch.polar(torch.ones_like(angles), angles)


def gram(correlations: Tensor) -> Tensor:
    """The Gram matrix sum_p v_p v_p^H of the windows v_p, from the correlations of the coils.

    An entry depends only on the distance between two samples.

    Args:
        correlations: sum_p k_c(p + l) conj(k_d(p)) at lags l, (b, c, c, 2 kernel - 1, 2 kernel - 1); lag zero is in the
            middle.

    Returns:
        (b, c kernel^2, c kernel^2).
    """
    b, c = correlations.shape[:2]
    kernel = (correlations.shape[-1] + 1) // 2
    positions = torch.arange(kernel, device=correlations.device)
    lag = positions[:, None] - positions + kernel - 1
    blocks = correlations[..., lag[:, None, :, None], lag[None, :, None, :]]  # (b, c, d, i, j, i', j')
    return blocks.permute(0, 1, 3, 4, 2, 5, 6).reshape(b, c * kernel**2, c * kernel**2)


def averages(projector: Tensor, kernel: int) -> Tensor:
    """The contribution of the sample at each lag to a sample, if all windows are projected and averaged.

    This is the adjoint of :func:`gram`, divided by kernel^2.

    Args:
        projector: the projection of a window, (b, c kernel^2, c kernel^2).

    Returns:
        (b, c, c, 2 kernel - 1, 2 kernel - 1).
    """
    c = projector.shape[-1] // kernel**2
    blocks = projector.view(len(projector), c, kernel, kernel, c, kernel, kernel)
    lags = projector.new_zeros(len(projector), c, c, 2 * kernel - 1, 2 * kernel - 1)
    for i in range(kernel):
        for j in range(kernel):
            # the sample at (i, j) of a window depends on the sample at (u, v): lag (i - u, j - v), zero in the middle
            lags[..., i : i + kernel, j : j + kernel] += blocks[:, :, i, j].flip(-1, -2)
    return lags / kernel**2
