"""The orthonormal wavelets of Daubechies on a periodic grid of any size, and the penalty weight * |W x|_1.

Daubechies I. Orthonormal bases of compactly supported wavelets. Comm. Pure Appl. Math. 41:909-996, 1988; the
pyramid of Mallat, IEEE TPAMI 11(7), 1989.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrecon.sites.classical.fista import real_part, total


@dataclass(frozen=True)
class Sparsity:
    """The penalty weight * |W x|_1 of complex (or ``real``) images: the sum of the magnitudes of the coefficients.

    Attributes:
        weight: weight of the penalty.
        moments: number of vanishing moments of the wavelet.
        levels: largest number of levels of the transform.
        real: whether only real images are allowed.
    """

    weight: float
    moments: int
    levels: int
    real: bool = False

    def value(self, image: Tensor) -> Tensor:
        """The penalty of each image, (b,)."""
        return self.weight * total(forward(image, self.moments, self.levels).abs())

    def proximal(self, image: Tensor, warm: Tensor | None) -> tuple[Tensor, None]:
        """W^H soft(W image). It is exact, because W is orthonormal. W is also real, so real images stay real."""
        del warm
        coefficients = forward(real_part(image) if self.real else image, self.moments, self.levels)
        return backward(soft(coefficients, self.weight), self.moments, self.levels), None


def soft(values: Tensor, threshold: float) -> Tensor:
    """argmin_c 1/2 |c - value|^2 + threshold |c|: the magnitudes shrink by the threshold, the phases stay the same."""
    length = values.abs()
    return values * ((length - threshold).clamp_min(0) / length.clamp_min(torch.finfo(length.dtype).tiny))


def forward(image: Tensor, moments: int, levels: int) -> Tensor:
    """W x, (..., y, x). Each level splits the corner of averages; the coefficients lie as in Mallat's figure."""
    result = image.clone()
    for y, x in corners(image.shape[-2], image.shape[-1], moments, levels):
        rows, columns = (_moved(n, moments, image.dtype, image.device) for n in (y, x))
        result[..., :y, :x] = rows @ result[..., :y, :x] @ columns.mT
    return result


def backward(coefficients: Tensor, moments: int, levels: int) -> Tensor:
    """W^H c, the inverse of :func:`forward`."""
    result = coefficients.clone()
    for y, x in reversed(corners(coefficients.shape[-2], coefficients.shape[-1], moments, levels)):
        rows, columns = (_moved(n, moments, coefficients.dtype, coefficients.device) for n in (y, x))
        result[..., :y, :x] = rows.mT @ result[..., :y, :x] @ columns
    return result


def corners(y: int, x: int, moments: int, levels: int) -> list[tuple[int, int]]:
    """The sizes (y, x) that are split, largest first. None is smaller than the filter, which would overlap itself."""
    found: list[tuple[int, int]] = []
    while len(found) < levels and min(y, x) >= 2 * moments:
        found.append((y, x))
        y, x = (y + 1) // 2, (x + 1) // 2
    return found


@lru_cache(maxsize=64)
def analysis(length: int, moments: int) -> Tensor:
    """One level of the transform along an axis: an orthonormal matrix (length, length), averages above details.

    The last sample of an odd length has no partner: it is an average by itself, which keeps the matrix orthonormal.
    """
    low = lowpass(moments)
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    half = length // 2
    matrix = np.zeros((length, length))
    for filtered, first in ((low, 0), (high, length - half)):
        for tap, value in enumerate(filtered):
            rows = np.arange(half)
            # added, not set: a filter that is longer than the axis overlaps itself
            np.add.at(matrix, (first + rows, (2 * rows + tap) % (2 * half)), value)
    if length % 2:
        matrix[half, length - 1] = 1.0
    return torch.from_numpy(matrix)


@lru_cache(maxsize=16)
def lowpass(moments: int) -> NDArray[np.float64]:
    """The 2 N taps of the filter with N = ``moments`` vanishing moments and extremal phase; their sum is sqrt(2).

    |H|^2 = cos^2N(w/2) P(sin^2(w/2)) with P(u) = sum_k C(N - 1 + k, k) u^k. With u = (2 - z - 1/z) / 4, every root of P
    gives a pair z, 1/z. The root inside the unit circle is taken (Daubechies 1988, section 4).
    """
    roots = np.roots([comb(moments - 1 + k, k) for k in reversed(range(moments))])
    middle = 1 - 2 * roots  # (z + 1/z) / 2
    z = middle + np.sqrt(middle**2 - 1 + 0j)
    inside = np.where(np.abs(z) < 1, z, 1 / z)
    taps: NDArray[np.float64] = np.real(np.poly(np.concatenate([np.full(moments, -1.0), inside])))
    taps *= np.sqrt(2) / taps.sum()
    return taps


@lru_cache(maxsize=64)
def _moved(length: int, moments: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return analysis(length, moments).to(dtype=dtype, device=device)
