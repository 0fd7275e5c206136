"""Bicubic downsampling, which is usual in the super-resolution literature."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.imaging.degradations.resampled import Resampled
from fedrecon.sites.papers import CUBIC_CONVOLUTION

if TYPE_CHECKING:
    from torch import Tensor


class Bicubic(Resampled):
    """Cubic convolution with a kernel ``scale`` times as wide, as in MATLAB's imresize; no scanner does it."""

    paper: ClassVar[str] = CUBIC_CONVOLUTION

    def matrix(self, length: int) -> Tensor:
        """The matrix of bicubic downsampling, (length / scale, length)."""
        from fedrecon.sites.imaging.resampling import bicubic

        return bicubic(length, length // self.scale)
