"""Structured low-rank completion of k-space without calibration data: SAKE."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from fedrecon.sites.classical.completion import Completion
from fedrecon.sites.errors import InputError

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

    paper: ClassVar[str] = """
        @article{shin2014sake,
            author = {Shin, Peter J. and Larson, Peder E. Z. and Ohliger, Michael A. and Elad, Michael and
                Pauly, John M. and Vigneron, Daniel B. and Lustig, Michael},
            title = {Calibrationless Parallel Imaging Reconstruction Based on Structured Low-Rank Matrix Completion},
            journal = {Magnetic Resonance in Medicine},
            volume = {72},
            number = {4},
            pages = {959--970},
            year = {2014},
            doi = {10.1002/mrm.24997}
        }

        @article{haldar2014loraks,
            author = {Haldar, Justin P.},
            title = {Low-Rank Modeling of Local k-Space Neighborhoods ({LORAKS}) for Constrained {MRI}},
            journal = {IEEE Transactions on Medical Imaging},
            volume = {33},
            number = {3},
            pages = {668--681},
            year = {2014},
            doi = {10.1109/TMI.2013.2293974}
        }
    """

    rank: int = Field(default=30, ge=1, le=10**5)
    kernel: int = Field(default=5, ge=2, le=11, description="side of the window")
    iterations: int = Field(default=40, ge=1, le=10**5)

    def check(self, n_coils: int, box: tuple[int, int]) -> None:
        """Requires a rank below the dimensions of a window: see the base class."""
        del box
        if self.rank >= (dimensions := n_coils * self.kernel**2):
            raise InputError(
                f"low_rank: every window of {self.kernel} x {self.kernel} samples of {n_coils} "
                f"coil{'s' * (n_coils > 1)} has a rank of at most {dimensions}, so rank={self.rank} says nothing: "
                "lower rank"
            )

    def complete(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """K-space after alternating projections, which start from zero-filled k-space; see the base class."""
        from fedrecon.sites.classical.hankel import complete

        return complete(kspace, mask, self.kernel, self.rank, self.iterations)

    def candidates(self) -> tuple[Self, ...]:
        """The same method with ranks that suit one coil up to many coils."""
        return tuple(self.model_copy(update={"rank": rank}) for rank in (12, 17, 21, 25, 30, 40, 55))
