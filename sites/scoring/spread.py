"""Compares the spread that a method tells of its image with the error that the image has: sums of a slice's pixels.

The error is the difference of magnitudes to the noise-free truth where the shard has it (a phantom), else to the
measured reference, whose noise is then a part of the error. Only pixels inside the object count: air has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fedrecon.sites.data.volume import central
from fedrecon.sites.score_columns import NOMINAL

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.training.batches import Slice, Slices

Spread = Callable[["Measurement", "Sequence[Slice]"], "Tensor"]
"""Gives the spread (b, y, x) float32 of a measurement's slices."""

OBJECT = 0.05
"""The share of its volume's maximum above which a pixel belongs to the object."""


def compared(slices: Slices, items: Sequence[Slice], image: Tensor, spread: Tensor) -> list[dict[str, Any]]:
    """The values of :data:`fedrecon.sites.score_columns.SPREADS` of each slice.

    Args:
        image: magnitude, (b, y, x).
        spread: the standard deviation of each pixel, (b, y, x) float32.
    """
    truth = slices.true_images(items)
    reference = slices.reference(items) if truth is None else truth
    assert reference is not None
    reference, image, spread = (central(one, items[0].volume.crop).double() for one in (reference, image, spread))
    maximum = torch.tensor([one.volume.maximum for one in items], device=image.device, dtype=image.dtype)
    inside = reference > OBJECT * maximum[:, None, None]
    error = (image - reference).abs()

    def total(values: Tensor) -> list[Any]:
        return (values * inside).sum(dim=(1, 2)).tolist()  # type: ignore[no-any-return]

    columns = {
        "object_pixels": inside.sum(dim=(1, 2)).tolist(),
        **{name: total(error <= k * spread) for k, name in enumerate(NOMINAL, start=1)},
        "object_squared_error": total(error.square()),
        "object_squared_spread": total(spread.square()),
        "against": ["measured" if truth is None else "truth"] * len(items),
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
