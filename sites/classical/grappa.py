"""GRAPPA for any sampling mask: a missing sample is a linear combination of measured neighbours in all coils."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, field_validator

from fedrecon.sites.classical.completion import Completion
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class Grappa(Completion):
    """The weights are fitted to all completely measured windows, which lie in the fully sampled centre.

    A window of ``kernel_y`` x ``kernel_x`` samples needs a centre of at least that size. With one coil there is little
    to learn.

    Attributes:
        weight: weight of the regularisation of the fit, in units of the mean eigenvalue of its Gram matrix.
        kernel_y, kernel_x: sides of the window in samples, both odd.
    """

    paper: ClassVar[str] = """
        @article{griswold2002grappa,
            author = {Griswold, Mark A. and Jakob, Peter M. and Heidemann, Robin M. and Nittka, Mathias and
                Jellus, Vladimir and Wang, Jianmin and Kiefer, Berthold and Haase, Axel},
            title = {Generalized Autocalibrating Partially Parallel Acquisitions ({GRAPPA})},
            journal = {Magnetic Resonance in Medicine},
            volume = {47},
            number = {6},
            pages = {1202--1210},
            year = {2002},
            doi = {10.1002/mrm.10171}
        }
    """
    needs_coils: ClassVar[bool] = True

    weight: float = Field(default=0.01, ge=1e-9, le=1e9)
    kernel_y: int = Field(default=5, ge=1, le=7, description="odd")
    kernel_x: int = Field(default=5, ge=1, le=7, description="odd")

    @field_validator("kernel_y", "kernel_x")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("an odd number is needed: the missing sample is in the middle of the window")
        return size

    def check(self, n_coils: int, box: tuple[int, int]) -> None:
        """Requires a centre that holds a window: see the base class."""
        del n_coils
        if self.kernel_y > box[0] or self.kernel_x > box[1]:
            raise InputError(
                f"grappa fits its weights to windows of {self.kernel_y} x {self.kernel_x} samples, and the centre of "
                f"k-space that is always measured has {box[0]} x {box[1]}: raise center_fraction"
            )

    def complete(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """K-space with the missing samples filled in; see the base class."""
        from fedrecon.sites.classical.autocalibration import complete

        return complete(kspace, mask, (self.kernel_y, self.kernel_x), self.weight)

    def candidates(self) -> tuple[Self, ...]:
        """The same method with windows for a small and a large centre, each with weights a factor of ten apart."""
        return tuple(
            self.model_copy(update={"kernel_y": size, "kernel_x": size, "weight": weight})
            for size in (3, 5)
            for weight in (0.0001, 0.001, 0.01, 0.1)
        )
