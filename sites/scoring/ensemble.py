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
    """The mean image (b, y, x) over all flips of a low-resolution measurement, and over transpositions if it is square.

    Only ``low`` and ``zero_filled`` of the measurement are flipped and transposed. So ``reconstruct`` must read nothing
    else: it must be a super-resolution network.
    """
    assert measurement.low is not None
    square = measurement.low.shape[-1] == measurement.low.shape[-2]
    total: Tensor | None = None
    count = 0
    for flips, transposed in product(((), (-1,), (-2,), (-2, -1)), (False, True) if square else (False,)):

        def turned(image: Tensor, flips: tuple[int, ...] = flips, transposed: bool = transposed) -> Tensor:
            moved = image.flip(flips)
            return moved.mT if transposed else moved

        image = reconstruct(
            replace(measurement, low=turned(measurement.low), zero_filled=turned(measurement.zero_filled))
        )
        back = (image.mT if transposed else image).flip(flips)
        total = back if total is None else total + back
        count += 1
    assert total is not None
    return total / count
