"""GRAPPA for any sampling mask: the measured samples in a window around a missing sample predict it, over all coils.

Griswold et al., MRM 47:1202, 2002: the weights are fitted to the fully sampled centre. Here any samples of the window
(kernel) may be missing. One Gram matrix of the calibration windows holds the normal equations of every pattern of
measured neighbours. So each further pattern costs one small linear system, and no further pass over the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_NUMBERS = 2**23
"""Largest number of complex numbers in memory at a time: of the stacked systems, or of the weights at each sample."""


class Group(NamedTuple):
    """Missing samples with the same number of measured samples in their windows, so that their systems stack.

    Attributes:
        slices: the slice of each system, (u,).
        neighbours: the positions of the measured samples in the window of each system, (u, count).
        points: the rows of the missing samples, (p,).
        which: the system of each missing sample, (p,).
    """

    slices: Tensor
    neighbours: Tensor
    points: Tensor
    which: Tensor


@torch.no_grad()
def complete(kspace: Tensor, mask: Tensor, kernel: tuple[int, int], weight: float) -> Tensor:
    """Fills in the missing samples of k-space.

    A missing sample stays zero if its window holds no measured sample. All missing samples of a slice stay zero if no
    window of the slice is measured completely.

    Args:
        kspace: measured k-space (b, c, y, x), zero where ``mask`` is False.
        mask: True at measured samples, (b, 1, y, x).
        kernel: sides (y, x) of the window, both odd.
        weight: weight of the Tikhonov regularisation, in units of the mean eigenvalue of the Gram matrix.

    Returns:
        (b, c, y, x); the measured samples are unchanged.
    """
    border = (kernel[1] // 2, kernel[1] // 2, kernel[0] // 2, kernel[0] // 2)
    padded, measured = F.pad(kspace, border), F.pad(mask[:, 0], border)
    near = _windows(measured, kernel)
    gram = torch.stack([_gram(*one, kernel) for one in zip(padded, near.all(-1), strict=True)])
    b, y, x = torch.nonzero(~mask[:, 0]).unbind(1)
    width = padded.shape[-1]
    offsets = (torch.arange(kernel[0])[:, None] * width + torch.arange(kernel[1])).flatten().to(kspace.device)
    samples, result = padded.flatten(-2), kspace.clone()
    for group in _groups(b, near[b, y, x], kspace.shape[1]):
        weights = _weights(gram, group, near.shape[-1], weight).to(kspace.dtype)
        together = max(1, _NUMBERS // weights[0].numel())
        parts = zip(torch.split(group.points, together), torch.split(group.which, together), strict=True)
        for points, which in parts:
            at = b[points], y[points], x[points]
            positions = (at[1] * width + at[2])[:, None] + offsets[group.neighbours[which]]
            values = samples[at[0][:, None], :, positions].flatten(1)  # (points, neighbours coils)
            result[at[0], :, at[1], at[2]] = (values[:, None] @ weights[which])[:, 0]
    return result


def _windows(values: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The window of n values around each sample: padded values (..., ., .) to (..., y, x, n)."""
    return values.unfold(-2, kernel[0], 1).unfold(-2, kernel[1], 1).flatten(-2)


def _gram(padded: Tensor, whole: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The Gram matrix V^H V, (n c, n c), coils fastest. V holds the completely measured windows of one slice.

    It is in double precision, because V^H V squares the condition number of V.

    Args:
        whole: True where the window around a sample was measured completely, (y, x).
    """
    y, x = torch.nonzero(whole).unbind(1)
    rows, columns = (torch.arange(n, device=y.device) for n in kernel)
    chosen = padded[:, (y[:, None] + rows)[:, :, None], (x[:, None] + columns)[:, None, :]]  # (c, windows, ., .)
    matrix = chosen.to(torch.complex128).permute(1, 2, 3, 0).flatten(1)
    return matrix.mH @ matrix


def _groups(slices: Tensor, near: Tensor, n_coils: int) -> Iterator[Group]:
    """All groups of missing samples, from their slice numbers (p,) and the measured samples of their windows (p, n)."""
    bits = torch.arange(near.shape[-1], device=near.device)
    codes, code = torch.unique((near.long() << bits).sum(-1), return_inverse=True)
    patterns = (codes[:, None] >> bits) & 1
    count = patterns.sum(-1)
    n_slices = int(slices.max()) + 1 if len(slices) else 1
    # one number for (count, slice, pattern): after sorting, systems of the same size are adjacent
    keys, system = torch.unique((count[code] * n_slices + slices) * len(codes) + code, return_inverse=True)
    order = torch.argsort(system, stable=True)
    ends = torch.bincount(system, minlength=len(keys)).cumsum(0).tolist()
    pattern, slices = keys % len(codes), keys // len(codes) % n_slices
    first = 0
    different, sizes = torch.unique_consecutive(count[pattern], return_counts=True)
    for n, n_systems in zip(different.tolist(), sizes.tolist(), strict=True):
        together = max(1, _NUMBERS // max(1, n * n_coils) ** 2)
        for start in range(first, first + n_systems, together) if n else ():
            stop = min(start + together, first + n_systems)
            points = order[ends[start - 1] if start else 0 : ends[stop - 1]]
            neighbours = torch.nonzero(patterns[pattern[start:stop]])[:, 1].view(-1, n)
            yield Group(slices[start:stop], neighbours, points, system[points] - start)
        first += n_systems


def _weights(gram: Tensor, group: Group, n: int, weight: float) -> Tensor:
    """The weights of each system, (u, neighbours coils, coils): they predict the middle of a window from neighbours."""
    n_coils = gram.shape[-1] // n
    coils = torch.arange(n_coils, device=gram.device)
    rows = (group.neighbours[:, :, None] * n_coils + coils).flatten(1)
    slices = group.slices[:, None, None]
    power = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
    ridge = weight * torch.where(power > 0, power, 1.0)[group.slices]
    system = gram[slices, rows[:, :, None], rows[:, None, :]]
    system.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None])
    wanted = gram[slices, rows[:, :, None], n // 2 * n_coils + coils]
    return torch.cholesky_solve(wanted, torch.linalg.cholesky(system))
