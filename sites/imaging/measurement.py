"""The input of a reconstruction: the measured samples of a batch of slices, the operator, and the zero-filled image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrecon.sites.imaging.coils import combine, estimate_maps, rss
from fedrecon.sites.imaging.fourier import ifft2c
from fedrecon.sites.imaging.operator import Cartesian, LinearOperator
from fedrecon.sites.imaging.resampling import low_resolution


@dataclass(frozen=True)
class Held:
    """Measured samples that no network gets: the loss ``ssdu`` compares them.

    Attributes:
        operator: the operator of these samples alone.
        kspace: the samples, (b, c, y, x) complex64, zero elsewhere.
    """

    operator: LinearOperator
    kspace: Tensor


@dataclass(frozen=True)
class Measurement:
    """A batch of slices, undersampled or of low resolution.

    Attributes:
        kspace: the measured k-space, (b, c, y, x) complex64, zero at samples that were not measured. If the operator is
            not Cartesian: its samples.
        operator: the operator that made the samples.
        zero_filled: the image of k-space with zeros for the samples that were not measured, (b, y, x) complex64.
        scale: the maximum of ``abs(zero_filled)`` of each slice, (b,) float32, from measured data only; 1 if it
            is 0.
        target: the fully sampled combined image, (b, y, x) complex64; only in training.
        reference: the magnitude image with which scores compare, (b, y, x) float32.
        low: in super-resolution, the low-resolution image, (b, y / s, x / s) complex64. Its pixels are centred on
            blocks of s x s (see ``resampling``).
        held: further measured samples, for the loss ``ssdu`` alone; then there is no ``target`` and no ``reference``.
        noise: the standard deviation of the noise in the real and in the imaginary part of each sample, (b,) float32;
            None where it is not known.
    """

    kspace: Tensor
    operator: LinearOperator
    zero_filled: Tensor
    scale: Tensor
    target: Tensor | None = None
    reference: Tensor | None = None
    low: Tensor | None = None
    held: Held | None = None
    noise: Tensor | None = None

    @property
    def back_projected(self) -> Tensor:
        """A^H of the samples, (b, y, x) complex64. For Cartesian k-space this is the zero-filled image."""
        return self.zero_filled if isinstance(self.operator, Cartesian) else self.operator.adjoint(self.kspace)

    def repeated(self, times: int) -> Measurement:
        """The whole batch, ``times`` times after each other, without ``held``."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        tensors = {name: one for name, one in own.items() if isinstance(one, Tensor)}
        many = {name: one.repeat(times, *[1] * (one.ndim - 1)) for name, one in tensors.items()}
        return replace(self, operator=self.operator.repeated(times), held=None, **many)

    @property
    def factor(self) -> int:
        """How many times coarser the grid of ``low`` is than that of the images; 1 without ``low``."""
        return 1 if self.low is None else self.zero_filled.shape[-1] // self.low.shape[-1]


@dataclass(frozen=True)
class Images:
    """The kind of images for which a network is built.

    Attributes:
        complex_valued: whether the images of at least one site carry phase.
        size: the largest matrix (y, x) of all sites.
        n_coils: the largest number of coils of all sites.
        sites: the names of the sites.
        scale: the scale of super-resolution; 1 in other tasks.
    """

    complex_valued: bool
    size: tuple[int, int]
    n_coils: int
    sites: tuple[str, ...]
    scale: int = 1


def measure(
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    reference: Tensor | None = None,
    with_target: bool = False,
) -> Measurement:
    """Undersamples fully sampled k-space.

    Args:
        kspace: fully sampled k-space, (b, c, y, x) complex64.
        mask: the sampling masks, (b, 1, y, x) bool.
        maps: the coil maps, (b, c, y, x) complex64; their squared magnitudes sum to 1 over the coils.
        reference: the reference image of the measurement, (b, y, x) float32.
        with_target: whether the measurement gets its ``target``: the fully sampled coil images, combined by the same
            maps.
    """
    operator = Cartesian(mask, maps)
    measured = mask * kspace
    zero_filled = combine(ifft2c(measured), maps)
    return Measurement(
        kspace=measured,
        operator=operator,
        zero_filled=zero_filled,
        scale=peak(zero_filled),
        target=combine(ifft2c(kspace), maps) if with_target else None,
        reference=reference,
    )


def samples_of(kspace: Tensor) -> Tensor:
    """Which samples of k-space (b, c, y, x) are not zero in some coil: (b, y, x) bool."""
    return (kspace != 0).any(dim=1)


def as_measured(
    kspace: Tensor, sampled: NDArray[np.bool_], phase: bool, boxes: Sequence[tuple[int, int]]
) -> Measurement:
    """The measurement of undersampled k-space as it is. Each slice has the coil maps of its own calibration box.

    Args:
        kspace: (b, c, y, x) complex64.
        sampled: which samples were measured, (b, y, x).
        phase: whether the images carry phase.
        boxes: the calibration box (y, x) of each slice: see :func:`fedrecon.sites.imaging.masks.mask.slice_boxes`.
    """
    maps = [estimate_maps(one[None], box, phase=phase) for one, box in zip(kspace, boxes, strict=True)]
    return measure(kspace, torch.from_numpy(np.ascontiguousarray(sampled[:, None])).to(kspace.device), torch.cat(maps))


def peak(image: Tensor) -> Tensor:
    """The maximum of ``abs(image)`` of each slice, (b,) float32; 1 for a slice that is zero."""
    largest = image.abs().amax(dim=(-2, -1))
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def combined_low(kspace: Tensor, maps: Tensor, scale: int) -> Tensor:
    """The low-resolution image of fully sampled k-space (b, c, y, x): (b, y / scale, x / scale) complex64.

    Its coil images are combined by low-resolution maps: the means of the maps over each of its pixels, scaled to unit
    length again.
    """
    b, c, y, x = maps.shape
    blocks = maps.view(b, c, y // scale, scale, x // scale, scale).mean(dim=(3, 5))
    length = rss(blocks).unsqueeze(1)
    return combine(low_resolution(kspace, scale), blocks / length.clamp_min(1e-12))
