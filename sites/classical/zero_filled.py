"""The zero-filled image A^H y: it assumes nothing about the samples that were not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrecon.sites.classical.reconstructor import Reconstructor

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class ZeroFilled(Reconstructor):
    """The image of the measured samples, with zeros for the missing samples. It has no parameters to tune."""

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The zero-filled image itself."""
        return measurement.zero_filled
