"""Differentiable augmentations of the images that a discriminator sees (Karras et al., NeurIPS 2020).

Each kind of change happens with a given probability, drawn separately for each image. The kinds are those that suit MR
slices: mirror, rotation, scale, shift, brightness.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TURN = math.pi / 12
"""Largest rotation, in radians."""
SCALE = 0.1
"""Standard deviation of log2 of the scale."""
SHIFT = 0.125
"""Largest shift, as a fraction of half the image."""
BRIGHTNESS = 0.3
"""Standard deviation of log2 of the brightness."""


def augmented(images: Tensor, probability: float, draws: torch.Generator, empty: float) -> Tensor:
    """The augmented images, (b, channels, n, n) as before.

    Args:
        images: the images, (b, channels, n, n).
        probability: the probability of each change; 0 changes nothing.
        draws: a CPU generator; it advances by the same amount for every probability.
        empty: the value of air. Pixels from outside the image get this value. Brightness scales the difference to it.
    """
    count = len(images)

    def some(values: Tensor, neutral: float) -> Tensor:
        return torch.where(torch.rand(count, generator=draws) < probability, values, neutral)

    def uniform() -> Tensor:
        return 2 * torch.rand(count, generator=draws) - 1

    def factor(deviation: float) -> Tensor:
        return torch.exp2(deviation * torch.randn(count, generator=draws))

    mirror = some(torch.sign(uniform()), 1.0)
    turn = some(TURN * uniform(), 0.0)
    scale = some(factor(SCALE), 1.0)
    shift = torch.stack([some(SHIFT * uniform(), 0.0), some(SHIFT * uniform(), 0.0)], dim=1)
    brightness = some(factor(BRIGHTNESS), 1.0)
    if probability == 0:
        return images
    rows = torch.stack([turn.cos() * mirror, -turn.sin(), turn.sin() * mirror, turn.cos()], dim=1).view(-1, 2, 2)
    affine = torch.cat([rows * scale[:, None, None], shift[:, :, None]], dim=2).to(images.device)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images - empty, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved * brightness.to(images.device)[:, None, None, None] + empty
