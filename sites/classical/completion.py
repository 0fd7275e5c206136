"""The base class of reconstructors that fill in the k-space of each coil and then combine the coils."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.classical.reconstructor import Reconstructor
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Completion(Reconstructor):
    """Fills in the samples that were not measured, from k-space only. Measured samples stay unchanged."""

    needs_kspace: ClassVar[bool] = True

    @property
    def own_science(self) -> dict[str, str]:
        """See the base class. Candidates that left the missing samples zero could once be chosen."""
        return super().own_science | {"candidates": "that can work"}

    @abstractmethod
    def complete(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Full k-space (b, c, y, x) from measured k-space (b, c, y, x) and its mask (b, 1, y, x).

        The caller has divided the k-space by ``measurement.scale``.
        """

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The completed coil images, combined by the coil maps. A slice without signal stays zero.

        Raises:
            InputError: the samples are not Cartesian k-space.
        """
        from fedrecon.sites.imaging.coils import combine
        from fedrecon.sites.imaging.fourier import ifft2c
        from fedrecon.sites.imaging.operator import Cartesian

        operator = measurement.operator
        if not isinstance(operator, Cartesian):
            raise InputError(f"{type(self).__name__} fills in k-space, but these samples are not k-space")
        unit = measurement.scale[:, None, None]
        kspace = self.complete(measurement.kspace / unit[..., None], operator.mask)
        return combine(ifft2c(kspace), operator.maps) * unit
