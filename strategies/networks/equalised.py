"""Layers with equalised learning rate (Karras et al., ICLR 2018). Each image of a batch may have its own weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dense(nn.Module):
    """A linear layer with equalised learning rate: its weights have unit variance and are scaled when they are used.

    Args:
        gain: factor on the scale of the weights.
        rate: multiplier of the learning rate.
    """

    def __init__(self, n_in: int, n_out: int, gain: float, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / rate)
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.scale, self.rate = gain * rate / n_in**0.5, rate

    def forward(self, x: Tensor) -> Tensor:
        """(b, n_out) from (b, n_in)."""
        return torch.add(matrix(x, self.weight) * self.scale, self.bias, alpha=self.rate)


class Convolution(nn.Module):
    """A convolution with equalised learning rate. Weights (b, o, i, k, k) convolve each image with its own kernels."""

    def __init__(self, n_in: int, n_out: int, kernel: int, gain: float, bias: bool, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.scale, self.stride = gain / (n_in * kernel**2) ** 0.5, stride

    def forward(self, x: Tensor, padding: int | None = None) -> Tensor:
        """(b, n_out, y, x) from (b, n_in, y, x), padded with zeros. By default the padding keeps the size."""
        padding = self.weight.shape[-1] // 2 if padding is None else padding
        weight = self.weight * self.scale
        if weight.dim() == 4:
            x = F.conv2d(x, weight, stride=self.stride, padding=padding)
        else:
            one = F.conv2d(
                x.reshape(1, -1, *x.shape[2:]), weight.flatten(0, 1), stride=self.stride, padding=padding, groups=len(x)
            )
            x = one.view(len(x), -1, *one.shape[2:])
        return x if self.bias is None else x + channelwise(self.bias)


def matrix(x: Tensor, weight: Tensor) -> Tensor:
    """(b, o): the product of x (b, i) with one weight (o, i), or with a weight for each row (b, o, i)."""
    if weight.dim() == 2:
        return x @ weight.mT
    return torch.bmm(weight, x.unsqueeze(-1)).squeeze(-1)


def channelwise(values: Tensor) -> Tensor:
    """(c,) or (b, c) to (1, c, 1, 1) or (b, c, 1, 1), so that it can be added to images (b, c, y, x)."""
    return values.reshape(-1, values.shape[-1], 1, 1)


def doubled(x: Tensor) -> Tensor:
    """Twice the size by bilinear interpolation: (b, c, y, x) to (b, c, 2 y, 2 x).

    The result equals that of ``F.interpolate`` up to rounding. The gradient of ``F.interpolate`` is not deterministic
    on a GPU.
    """
    return _doubled_along(_doubled_along(x, 2), 3)


def _doubled_along(x: Tensor, axis: int) -> Tensor:
    n = x.shape[axis]
    before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, n - 1)], dim=axis)
    after = torch.cat([x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)], dim=axis)
    near = 0.75 * x
    return torch.stack([near + 0.25 * before, near + 0.25 * after], dim=axis + 1).flatten(axis, axis + 1)
