"""What makes a low-resolution image of a high-resolution one: the operator of super-resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement

SMALLEST = 8
"""Pixels a side of the low-resolution image at least."""


class Degradation(Plugin):
    """A way to lose resolution.

    Attributes:
        paper: a citation, or nothing. in_kspace: what is left is Cartesian k-space.
        scale: how many times coarser the grid is along both axes.
    """

    paper: ClassVar[str] = ""
    in_kspace: ClassVar[bool] = False

    scale: Literal[2, 3, 4] = 2

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses a matrix (y, x) that the scale does not divide, or of which too little would be left.

        Raises:
            InputError: says what would do.
        """
        if any(n % self.scale for n in shape):
            fitting = [scale for scale in (2, 3, 4) if not any(n % scale for n in shape)]
            would_do = f"scale {' or '.join(map(str, fitting))} does" if fitting else "no scale of 2, 3, 4 does"
            raise InputError(f"scale {self.scale} does not divide the matrix {shape[0]} x {shape[1]}; {would_do}.")
        if min(shape) < SMALLEST * self.scale:
            raise InputError(
                f"scale {self.scale} would leave {shape[0] // self.scale} x {shape[1] // self.scale} of "
                f"{shape[0]} x {shape[1]} pixels; at least {SMALLEST} a side are needed."
            )

    def calibration(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Size (y, x) of the centred box of k-space that is still known."""
        return shape[0] // self.scale, shape[1] // self.scale

    def measure(self, kspace: Tensor, maps: Tensor, reference: Tensor | None = None) -> Measurement:
        """Degrades fully sampled k-space (b, c, y, x) under its coil maps (b, c, y, x).

        The measurement has ``low``, the low-resolution image (b, y / scale, x / scale) complex64.
        """
        raise NotImplementedError

    def given(self, low: Tensor) -> Measurement:
        """The measurement of images (b, y, x) complex64 that are of low resolution already."""
        raise NotImplementedError
