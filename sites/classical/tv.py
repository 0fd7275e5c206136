"""Compressed sensing with total variation, a classical baseline: min_x 1/2 |A x - y|^2 + weight * TV(x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from fedrecon.sites.classical.reconstructor import Reconstructor
from fedrecon.sites.papers import SPARSE_MRI

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class TotalVariation(Reconstructor):
    """Isotropic total variation, solved by monotone FISTA for all slices of a batch together.

    The data is divided by ``measurement.scale`` first, so ``weight`` has no unit and means the same at every
    site.

    Attributes:
        weight: weight of the total variation.
        iterations: number of iterations of FISTA.
        dual_iterations: number of iterations of each proximal step, which starts at the last dual solution.
        real: whether only real images are allowed. This is right only for images without phase. There it uses a
            symmetry that measured k-space does not have (+1 to +4 dB in a test on volumes imported without phase).
            If the maps carried the low-resolution phase, which is not the whole phase, it cost 1 to 5 dB in that
            test.
    """

    paper: ClassVar[str] = (
        SPARSE_MRI
        + """
        @article{beck2009gradient,
            author = {Beck, Amir and Teboulle, Marc},
            title = {Fast Gradient-Based Algorithms for Constrained Total Variation Image Denoising and
                Deblurring Problems},
            journal = {IEEE Transactions on Image Processing},
            volume = {18},
            number = {11},
            pages = {2419--2434},
            year = {2009},
            doi = {10.1109/TIP.2009.2028250}
        }
        """
    )

    weight: float = Field(default=0.005, ge=0.0, le=1e9)
    iterations: int = Field(default=60, ge=1, le=10**5)
    dual_iterations: int = Field(default=5, ge=1, le=10**5, description="of a proximal step, started at the last dual")
    real: bool = False

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The minimiser. A slice without signal stays zero."""
        from fedrecon.sites.classical.fista import minimise
        from fedrecon.sites.classical.variation import Variation

        return minimise(measurement, Variation(self.weight, self.dual_iterations, self.real), self.iterations).image

    def candidates(self) -> tuple[Self, ...]:
        """The same method with weights a factor of two apart."""
        weights = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
        return tuple(self.model_copy(update={"weight": weight}) for weight in weights)
