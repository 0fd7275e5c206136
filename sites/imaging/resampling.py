"""Resampling between a high-resolution grid and a grid that is ``scale`` times coarser, over the same field of view.

Pixel i of the coarse grid covers pixels ``scale i`` to ``scale i + scale - 1`` of the fine grid. Their centres are
aligned, as in every image format. But k-space counts from pixel N//2. So a step through k-space needs a linear phase;
without it an image moves by (scale - 1) / 2 fine pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.masks.mask import centred


def low_resolution(kspace: Tensor, scale: int) -> Tensor:
    """The image of the central part of k-space (..., y, x) on its own grid, (..., y / scale, x / scale) complex.

    It has the intensity of the full image: a constant image gives the same constant.
    """
    y, x = kspace.shape[-2:]
    box = kspace[..., centred(y, y // scale), centred(x, x // scale)]
    return ifft2c(box * _shift(y, x, scale).to(kspace)) / scale


def zero_padded(low: Tensor, scale: int) -> Tensor:
    """Sinc interpolation: an image (..., y, x) with zeros added around its k-space, (..., scale y, scale x) complex."""
    y, x = low.shape[-2] * scale, low.shape[-1] * scale
    kspace = torch.zeros(*low.shape[:-2], y, x, dtype=torch.complex64, device=low.device)
    box = fft2c(low.to(torch.complex64)) * _shift(y, x, scale).to(kspace).conj() * scale
    kspace[..., centred(y, y // scale), centred(x, x // scale)] = box
    return ifft2c(kspace)


def bicubic_upsampled(low: Tensor, scale: int) -> Tensor:
    """Cubic convolution (Keys 1981, a = -1/2): (..., y, x) to (..., scale y, scale x), real or complex."""
    rows, columns = (bicubic(n, scale * n).to(low) for n in low.shape[-2:])  # in the dtype of ``low``
    return rows @ low @ columns.mT


@lru_cache(maxsize=32)
def bicubic(length: int, wanted: int) -> Tensor:
    """(wanted, length): cubic resampling of an axis. Its kernel is wider if the axis shrinks, as in imresize."""
    # with antialias torch takes a = -1/2 and widens the kernel if the axis shrinks; without it, a = -3/4
    eye = torch.eye(length)[None, None]
    return F.interpolate(eye, (wanted, length), mode="bicubic", align_corners=False, antialias=True)[0, 0]


@lru_cache(maxsize=32)
def blurred(length: int, scale: int, deviation: float) -> Tensor:
    """(length / scale, length): Gaussian weights around each coarse centre; each row sums to 1.

    Args:
        deviation: standard deviation of the Gaussian, in fine pixels.
    """
    centres = torch.arange(length // scale, dtype=torch.float64) * scale + (scale - 1) / 2
    distance = torch.arange(length, dtype=torch.float64) - centres[:, None]
    weights = torch.exp(-0.5 * (distance / deviation) ** 2)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


@lru_cache(maxsize=32)
def _shift(y: int, x: int, scale: int) -> Tensor:
    """The phase of the box (y / scale, x / scale) that moves samples from k-space's origin to the coarse centres."""
    waves = []
    for length in (y, x):
        n = length // scale
        pixels = (scale - 1) / 2 - length // 2 + scale * (n // 2)
        angles = 2 * torch.pi * pixels / length * (torch.arange(n, dtype=torch.float64) - n // 2)
        waves.append(torch.polar(torch.ones_like(angles), angles))
    return torch.outer(*waves)
