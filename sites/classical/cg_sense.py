"""CG-SENSE: least squares through the coil maps, min_x 1/2 |A x - y|^2 + weight / 2 |x|^2."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from fedrecon.sites.classical.reconstructor import Reconstructor

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class CgSense(Reconstructor):
    """Conjugate gradients; few iterations also regularise. For one coil it is the zero-filled image over 1 + weight.

    The eigenvalues of A^H A are at most 1, so ``weight`` has no unit.

    Attributes:
        weight: weight of the regularisation.
        iterations: largest number of iterations.
    """

    paper: ClassVar[str] = """
        @article{pruessmann2001advances,
            author = {Pruessmann, Klaas P. and Weiger, Markus and B{\\"o}rnert, Peter and Boesiger, Peter},
            title = {Advances in Sensitivity Encoding with Arbitrary k-Space Trajectories},
            journal = {Magnetic Resonance in Medicine},
            volume = {46},
            number = {4},
            pages = {638--651},
            year = {2001},
            doi = {10.1002/mrm.1241}
        }
    """
    needs_coils: ClassVar[bool] = True

    weight: float = Field(default=0.001, ge=0.0, le=1e9)
    iterations: int = Field(default=30, ge=1, le=10**5)

    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The solution; a slice without signal stays zero."""
        from fedrecon.sites.classical.conjugate_gradients import solve

        unit = measurement.scale[:, None, None]
        return unit * solve(measurement.operator, measurement.back_projected / unit, self.weight, self.iterations)

    def candidates(self) -> tuple[Self, ...]:
        """The same method with weights a factor of four apart."""
        weights = (0.0001, 0.0004, 0.0016, 0.0064, 0.025, 0.1)
        return tuple(self.model_copy(update={"weight": weight}) for weight in weights)
