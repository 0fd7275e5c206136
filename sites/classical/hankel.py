"""Completion of k-space whose block Hankel matrix, one window of all coils a row, has low rank.

Shin et al., MRM 72:959, 2014 (SAKE): alternating projections on matrices of the rank, on Hankel matrices, and on what
was measured. Windows go round the border, as the discrete Fourier transform does (Ongie and Jacob, IEEE TCI 3:535,
2017), so the matrix, kernel^2 times the data, is never formed: its Gram matrix holds correlations of coil images, and
to project windows and to average them is one matrix over the coils at each pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrecon.sites.imaging.fourier import fft2c, ifft2c

_NUMBERS = 2**24
"""Complex numbers of the matrices over the coils at each pixel that are held at a time: 128 MiB."""


@torch.no_grad()
def complete(kspace: Tensor, mask: Tensor, kernel: int, rank: int, iterations: int) -> Tensor:
    """K-space (b, c, y, x), zero where ``mask`` (b, 1, y, x) is False, with windows in a space of ``rank`` dimensions.

    The window is ``kernel`` x ``kernel``, smaller on smaller grids; where ``rank`` is all the dimensions that it has,
    nothing is known of what was not measured, and it stays zero.
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
    """sum_p v_p v_p^H of the windows v_p, from sum_p k_c(p + l) conj(k_d(p)) at lags l, zero in the middle.

    (b, c, c, 2 kernel - 1, 2 kernel - 1) to (b, c kernel^2, c kernel^2): an entry depends on the distance alone.
    """
    b, c = correlations.shape[:2]
    kernel = (correlations.shape[-1] + 1) // 2
    places = torch.arange(kernel, device=correlations.device)
    lag = places[:, None] - places + kernel - 1
    blocks = correlations[..., lag[:, None, :, None], lag[None, :, None, :]]  # (b, c, d, i, j, i', j')
    return blocks.permute(0, 1, 3, 4, 2, 5, 6).reshape(b, c * kernel**2, c * kernel**2)


def averages(projector: Tensor, kernel: int) -> Tensor:
    """What a sample gets from the one at each lag by projecting its windows and averaging: the adjoint of ``gram``.

    (b, c kernel^2, c kernel^2) to (b, c, c, 2 kernel - 1, 2 kernel - 1).
    """
    c = projector.shape[-1] // kernel**2
    blocks = projector.view(len(projector), c, kernel, kernel, c, kernel, kernel)
    lags = projector.new_zeros(len(projector), c, c, 2 * kernel - 1, 2 * kernel - 1)
    for i in range(kernel):
        for j in range(kernel):
            # the sample at (i, j) of a window from the one at (u, v): lag (i - u, j - v), zero in the middle
            lags[..., i : i + kernel, j : j + kernel] += blocks[:, :, i, j].flip(-1, -2)
    return lags / kernel**2
