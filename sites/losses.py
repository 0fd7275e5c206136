"""Losses between a reconstruction and the fully sampled image: one function and one registry line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


def l1(image: Tensor, batch: Measurement) -> Tensor:
    """Mean absolute error of the magnitude image, (b, y, x), in units of each slice's own scale."""
    return ((image.abs() - _reference(batch)).abs() / batch.scale[:, None, None]).mean()


def mse(image: Tensor, batch: Measurement) -> Tensor:
    """Mean squared error of the magnitude image, in units of each slice's own scale."""
    return (((image.abs() - _reference(batch)) / batch.scale[:, None, None]) ** 2).mean()


def complex_l1(image: Tensor, batch: Measurement) -> Tensor:
    """Mean absolute error over real and imaginary parts against the combined fully sampled image."""
    import torch

    if batch.target is None:
        raise ValueError("complex_l1 needs the fully sampled complex image")
    error = torch.view_as_real(image - batch.target).abs().sum(-1)
    return (error / batch.scale[:, None, None]).mean()


def _reference(batch: Measurement) -> Tensor:
    if batch.reference is None:
        raise ValueError("training needs a reference image")
    return batch.reference


LOSSES: dict[str, Callable[[Tensor, Measurement], Tensor]] = {
    "l1": l1,
    "mse": mse,
    "complex_l1": complex_l1,
}
