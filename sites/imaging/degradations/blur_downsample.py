"""A Gaussian blur, followed by sampling at the coarse pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedrecon.sites.imaging.degradations.resampled import Resampled

if TYPE_CHECKING:
    from torch import Tensor


class BlurDownsample(Resampled):
    """A Gaussian point spread, sampled at the centres of the coarse pixels.

    Attributes:
        deviation: standard deviation of the Gaussian, in COARSE pixels; 0.5 has a full width at half maximum of 1.2
            coarse pixels.
    """

    deviation: float = Field(0.5, gt=0, le=2)

    def matrix(self, length: int) -> Tensor:
        """The matrix of blur and sampling, (length / scale, length)."""
        from fedrecon.sites.imaging.resampling import blurred

        return blurred(length, self.scale, self.deviation * self.scale)
