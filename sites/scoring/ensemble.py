"""Geometric self-ensemble: the mean over turned and mirrored inputs, each result turned back.

Timofte et al., CVPR 2016; as in Lim et al., CVPR workshops 2017 (EDSR+).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


def self_ensemble(reconstruct: Callable[[Measurement], Tensor], measurement: Measurement) -> Tensor:
    """(b, y, x): the mean over all flips and, of square images, transpositions of a low-resolution measurement.

    Only the images are moved, so ``reconstruct`` must look at nothing else: a super-resolution network.
    """
    assert measurement.low is not None
    square = measurement.low.shape[-1] == measurement.low.shape[-2]
    total: Tensor | None = None
    count = 0
    for flips, transposed in product(((), (-1,), (-2,), (-2, -1)), (False, True) if square else (False,)):

        def there(image: Tensor, flips: tuple[int, ...] = flips, transposed: bool = transposed) -> Tensor:
            moved = image.flip(flips)
            return moved.mT if transposed else moved

        moved = replace(measurement, low=there(measurement.low), zero_filled=there(measurement.zero_filled))
        made = reconstruct(moved)
        back = (made.mT if transposed else made).flip(flips)
        total = back if total is None else total + back
        count += 1
    assert total is not None
    return total / count
