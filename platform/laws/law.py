"""A law, and what the laws of all kinds share: differences in words, and a drawn measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrecon.sites.imaging.coils import rss
from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.measurement import Measurement, measure


@dataclass(frozen=True)
class Law:
    """A law.

    Attributes:
        wants: what the contract wants, as a sentence.
        broken: a function of the plug-in under test. It returns what was found instead; empty if the law holds.
    """

    wants: str
    broken: Callable[[Any], str]


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: float = 0.0) -> str:
    """The largest difference of arrays by name, in words; empty if there is none above the tolerance."""
    if found.keys() != wanted.keys():
        return f"there are {', '.join(sorted(found)) or 'none'} instead of {', '.join(sorted(wanted)) or 'none'}"
    largest, words = tolerance, ""
    for name, one in found.items():
        a, b = np.asarray(one), np.asarray(wanted[name])
        if a.shape != b.shape:
            return f"{name} has the shape {a.shape} instead of {b.shape}"
        apart = np.abs(a.astype(np.complex128) - b.astype(np.complex128))
        if not np.isfinite(apart).all():
            return f"{name} holds NaN or infinity"
        if apart.size and apart.max() > largest:
            largest = float(apart.max())
            words = f"the largest difference is {largest:.3g}, in {name}, where {(apart > tolerance).sum()} of "
            words += f"{apart.size} values differ"
    return words


def drawn(coils: int = 1, size: tuple[int, int] = (32, 32), batch: int = 2, factor: float = 1.0) -> Measurement:
    """Random slices under random masks; all data times ``factor``."""
    draws = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 1, *size, dtype=torch.complex64, generator=draws)
    maps = torch.randn(batch, coils, *size, dtype=torch.complex64, generator=draws)
    maps = maps / rss(maps).unsqueeze(1)
    mask = torch.rand(batch, 1, *size, generator=draws) < 0.5
    return measure(factor * fft2c(maps * image), mask, maps, with_target=True)


def picked(one: Measurement, chosen: slice) -> Measurement:
    """Some slices of a measurement."""
    operator: Any = one.operator
    return measure(one.kspace[chosen], operator.mask[chosen], operator.maps[chosen], with_target=True)


def numbers(image: torch.Tensor) -> NDArray[Any]:
    """The values of a tensor."""
    values: NDArray[Any] = image.detach().numpy()
    return values


def not_an_image(image: Any, shape: tuple[int, ...]) -> str:
    """Why this is no complex64 image of this shape (b, y, x); empty if it is one."""
    if not isinstance(image, torch.Tensor):
        return f"it returns {type(image).__name__} instead of a tensor"
    if tuple(image.shape) != shape or image.dtype != torch.complex64:
        return f"it returns {image.dtype} of shape {tuple(image.shape)} instead of torch.complex64 of shape {shape}"
    return "" if image.isfinite().all() else "its image holds NaN or infinity"
