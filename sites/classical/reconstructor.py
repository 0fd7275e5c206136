"""What a reconstructor without training is: parameters, and one function from a measurement to an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from fedrecon.sites.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Reconstructor(Plugin, ABC):
    """A classical method; ``phase`` asks for coil maps that carry the image's low-resolution phase.

    Attributes:
        needs_low: it enlarges the low-resolution image, so it is for super-resolution alone.
        needs_coils: with one coil it has nothing to go by.
        needs_kspace: it fills in k-space, so it is not for images of low resolution that are no part of k-space.
    """

    paper: ClassVar[str] = ""
    needs_low: ClassVar[bool] = False
    needs_coils: ClassVar[bool] = False
    needs_kspace: ClassVar[bool] = False
    phase: bool = True

    @abstractmethod
    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The image, (b, y, x) complex64, at the scale of the data, from the measured k-space alone."""

    def candidates(self) -> tuple[Self, ...]:
        """The settings among which validation subjects choose; with none to tune, only itself."""
        return (self,)
