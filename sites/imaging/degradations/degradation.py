"""The base of the degradations. A degradation makes a low-resolution image of a high-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement

SMALLEST = 8
"""Smallest side of the low-resolution image, in pixels."""


class Degradation(Plugin):
    """The operator of super-resolution: it lowers the resolution of an image.

    Attributes:
        paper: the works to cite, as BibTeX entries; empty if there are none.
        in_kspace: whether the degraded samples are Cartesian k-space.
        scale: how many times coarser the low-resolution grid is along both axes.
    """

    paper: ClassVar[str] = ""
    in_kspace: ClassVar[bool] = False

    scale: Literal[2, 3, 4] = 2

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses a matrix (y, x) that the scale does not divide, or whose low-resolution image would be too small.

        Raises:
            InputError: the matrix is refused; the message says which scales or sizes are possible.
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
        """The size (y, x) of the centred box of k-space from which the coil maps are estimated."""
        return shape[0] // self.scale, shape[1] // self.scale

    def measure(self, kspace: Tensor, maps: Tensor, reference: Tensor | None = None) -> Measurement:
        """Degrades fully sampled k-space.

        Args:
            kspace: fully sampled k-space, (b, c, y, x) complex64.
            maps: its coil maps, (b, c, y, x) complex64.
            reference: the reference image of the measurement, (b, y, x) float32.

        Returns:
            a measurement with ``low``, the low-resolution image (b, y / scale, x / scale) complex64.
        """
        raise NotImplementedError

    def given(self, low: Tensor) -> Measurement:
        """The measurement of images (b, y, x) complex64 that have a low resolution already."""
        raise NotImplementedError
