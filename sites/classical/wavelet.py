"""Compressed sensing with wavelets: min_x 1/2 |A x - y|^2 + weight * |W x|_1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from fedrecon.sites.classical.reconstructor import Reconstructor
from fedrecon.sites.papers import SPARSE_MRI

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Wavelet(Reconstructor):
    """Orthonormal Daubechies wavelets, solved by monotone FISTA for all slices of a batch together.

    The data is divided by ``measurement.scale`` first, so ``weight`` has no unit.

    Attributes:
        weight: weight of the penalty.
        iterations: number of iterations of FISTA.
        moments: number of vanishing moments; 1 is the Haar wavelet.
        levels: largest number of levels. No level splits a side that is shorter than the filter.
        real: whether only real images are allowed, as in :class:`fedrecon.sites.classical.tv.TotalVariation`.
    """

    paper: ClassVar[str] = SPARSE_MRI

    weight: float = Field(default=0.004, ge=0.0, le=1e9)
    iterations: int = Field(default=60, ge=1, le=10**5)
    moments: int = Field(default=4, ge=1, le=10, description="vanishing moments; 1 is the Haar wavelet")
    levels: int = Field(default=4, ge=1, le=10, description="at most; no level splits a side shorter than the filter")
    real: bool = False

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The minimiser. A slice without signal stays zero."""
        from fedrecon.sites.classical.daubechies import Sparsity
        from fedrecon.sites.classical.fista import minimise

        return minimise(measurement, Sparsity(self.weight, self.moments, self.levels, self.real), self.iterations).image

    def candidates(self) -> tuple[Self, ...]:
        """The same method with weights a factor of two apart."""
        weights = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
        return tuple(self.model_copy(update={"weight": weight}) for weight in weights)
