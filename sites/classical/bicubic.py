"""Bicubic interpolation of the low-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.classical.reconstructor import Reconstructor
from fedrecon.sites.papers import CUBIC_CONVOLUTION

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Bicubic(Reconstructor):
    """Cubic convolution with a = -1/2, on grids with aligned pixel centres. It has no parameters to tune."""

    paper: ClassVar[str] = CUBIC_CONVOLUTION
    needs_low: ClassVar[bool] = True

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The interpolated image."""
        from fedrecon.sites.imaging.resampling import bicubic_upsampled

        assert measurement.low is not None
        return bicubic_upsampled(measurement.low, measurement.factor)
