"""What a reconstructor that fills in k-space has in common: coil by coil, and then the coils are combined."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.classical.reconstructor import Reconstructor
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Completion(Reconstructor):
    """Fills in what was not measured; measured samples stay as they are. Nothing but k-space is looked at."""

    needs_kspace: ClassVar[bool] = True

    @abstractmethod
    def complete(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Full k-space from measured k-space (b, c, y, x), of a magnitude near 1, and its mask (b, 1, y, x)."""

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The completed coil images, combined by the coil maps; a slice without signal stays zero.

        Raises:
            InputError: the samples are no k-space.
        """
        from fedrecon.sites.imaging.coils import combine
        from fedrecon.sites.imaging.fourier import ifft2c
        from fedrecon.sites.imaging.operator import Cartesian

        operator = measurement.operator
        if not isinstance(operator, Cartesian):
            raise InputError(f"{type(self).__name__} fills in k-space, and these samples are none")
        unit = measurement.scale[:, None, None]
        kspace = self.complete(measurement.kspace / unit[..., None], operator.mask)
        return combine(ifft2c(kspace), operator.maps) * unit
