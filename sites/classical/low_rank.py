"""Structured low-rank completion of k-space without calibration data: SAKE."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from fedrecon.sites.classical.completion import Completion

if TYPE_CHECKING:
    from torch import Tensor


class LowRank(Completion):
    """K-space windows of all coils lie in a low-dimensional space: coil maps are smooth and the support is finite.

    Attributes:
        rank: dimension of that space, out of coils x kernel^2. With more coils, or if the object fills less of the
            field of view, a smaller fraction is right.
        kernel: side of the window in samples.
        iterations: number of iterations.
    """

    paper: ClassVar[str] = (
        "Shin PJ, Larson PEZ, Ohliger MA, et al. Calibrationless parallel imaging reconstruction based on structured "
        "low-rank matrix completion. MRM 72(4):959-970, 2014; Haldar JP. Low-rank modeling of local k-space "
        "neighborhoods (LORAKS) for constrained MRI. IEEE TMI 33(3):668-681, 2014."
    )

    rank: int = Field(default=30, ge=1)
    kernel: int = Field(default=5, ge=2, le=11, description="side of the window")
    iterations: int = Field(default=40, ge=1)

    def complete(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """K-space after alternating projections, which start from zero-filled k-space; see the base class."""
        from fedrecon.sites.classical.hankel import complete

        return complete(kspace, mask, self.kernel, self.rank, self.iterations)

    def candidates(self) -> tuple[Self, ...]:
        """The same method with ranks that suit one coil up to many coils."""
        return tuple(self.model_copy(update={"rank": rank}) for rank in (12, 17, 21, 25, 30, 40, 55))
