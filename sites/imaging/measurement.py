"""What a reconstruction gets: the measured k-space of a batch of slices, and what comes with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrecon.sites.imaging.coils import combine
from fedrecon.sites.imaging.fourier import ifft2c
from fedrecon.sites.imaging.operator import Cartesian


@dataclass(frozen=True)
class Measurement:
    """A batch of undersampled slices.

    Attributes:
        kspace: (b, c, y, x) complex64, zero where not measured. operator: the mask and coil maps.
        zero_filled: A^H k, (b, y, x) complex64. scale: max |zero_filled| of each slice, (b,) float32, from
        measured data alone; 1 where nothing was measured. target: the fully sampled combined image, (b, y,
        x) complex64; in training only. reference: the magnitude image that scores compare with, (b, y, x)
        float32.
    """

    kspace: Tensor
    operator: Cartesian
    zero_filled: Tensor
    scale: Tensor
    target: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True)
class Images:
    """What a network is built for.

    Attributes:
        complex_valued: some site's images carry phase.
        size: the largest matrix (y, x) of all sites.
        n_coils: the largest number of coils.
        sites: the names of the sites.
    """

    complex_valued: bool
    size: tuple[int, int]
    n_coils: int
    sites: tuple[str, ...]


def measure(
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    reference: Tensor | None = None,
    with_target: bool = False,
) -> Measurement:
    """Undersamples fully sampled k-space.

    Args:
        kspace: (b, c, y, x) complex64, every sample.
        mask: (b, 1, y, x) bool.
        maps: (b, c, y, x) complex64, sum_c |S_c|^2 = 1.
        reference: passed on, (b, y, x) float32.
        with_target: also combine the fully sampled coil images by the same maps.
    """
    operator = Cartesian(mask, maps)
    measured = mask * kspace
    zero_filled = combine(ifft2c(measured), maps)
    peak = zero_filled.abs().amax(dim=(-2, -1))
    return Measurement(
        kspace=measured,
        operator=operator,
        zero_filled=zero_filled,
        scale=torch.where(peak > 0, peak, torch.ones_like(peak)),
        target=combine(ifft2c(kspace), maps) if with_target else None,
        reference=reference,
    )
