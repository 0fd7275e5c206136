"""Conjugate gradients for (A^H A + weight) x = right, batched over slices. Each slice has its own step sizes.

Hestenes and Stiefel, J. Res. NBS 49:409, 1952.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedrecon.sites.classical.fista import dot, total

if TYPE_CHECKING:
    from fedrecon.sites.imaging.operator import LinearOperator


@torch.no_grad()
def solve(operator: LinearOperator, right: Tensor, weight: float | Tensor, iterations: int) -> Tensor:
    """The image after at most ``iterations`` iterations from zero, (b, y, x) complex64.

    Args:
        right: the right side, (b, y, x) complex64; the least squares of a measurement have A^H y.
        weight: a number, or one for each slice, (b, 1, 1).
    """
    residual = right
    image = torch.zeros_like(residual)
    direction, energy = residual, total(dot(residual, residual))
    # the smallest energy that complex64 can distinguish from zero; a slice that reaches it does not change any more
    floor = energy * torch.finfo(residual.dtype).eps ** 2
    for _ in range(iterations):
        product = operator.normal(direction) + weight * direction
        step = _ratio(energy, total(dot(direction, product)), energy > floor).to(right.real.dtype)[:, None, None]
        image = image + step * direction
        residual = residual - step * product
        last, energy = energy, total(dot(residual, residual))
        direction = residual + _ratio(energy, last, last > floor).to(right.real.dtype)[:, None, None] * direction
    return image


def _ratio(above: Tensor, below: Tensor, wanted: Tensor) -> Tensor:
    return torch.where(wanted & (below > 0), above / torch.where(below > 0, below, 1.0), 0.0)
