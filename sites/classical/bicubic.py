"""Bicubic interpolation of the low-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.classical.reconstructor import Reconstructor

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Bicubic(Reconstructor):
    """Cubic convolution with a = -1/2, on grids with aligned pixel centres. It has no parameters to tune."""

    paper: ClassVar[str] = (
        "Keys R. Cubic convolution interpolation for digital image processing. IEEE Trans. Acoust. Speech Signal "
        "Process. 29(6):1153-1160, 1981."
    )
    needs_low: ClassVar[bool] = True

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The interpolated image."""
        from fedrecon.sites.imaging.resampling import bicubic_upsampled

        assert measurement.low is not None
        return bicubic_upsampled(measurement.low, measurement.factor)
