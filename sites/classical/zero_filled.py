"""The zero-filled image A^H y: what k-space gives when nothing is assumed about what was not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrecon.sites.classical.reconstructor import Reconstructor

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class ZeroFilled(Reconstructor):
    """The image of the measured samples, with zeros for the others: no parameters, nothing to tune."""

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The zero-filled image itself."""
        return measurement.zero_filled
