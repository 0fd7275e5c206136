"""The setting of super-resolution: a site measures at a lower resolution. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.imaging.degradations import DEGRADATIONS, Degradation

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Degraded(Acquisition):
    """A low-resolution image. Noise is added in k-space before the resolution is lowered.

    Attributes:
        degradation: the method that lowers the resolution, with its scale.
    """

    block: ClassVar[str] = "degradation"
    key: ClassVar[str] = "kind"
    default: ClassVar[str] = "kspace-truncation"
    kinds: ClassVar[str] = "degradations"
    registry: ClassVar[Mapping[str, type[Any]]] = DEGRADATIONS
    common: ClassVar[type[Any]] = Degradation
    own: ClassVar[tuple[str, ...]] = ("noise",)
    turns: ClassVar[bool] = True
    unmixed: ClassVar[str] = "a batch holds images of one size, and a network of super-resolution enlarges by one scale"

    degradation: Degradation

    @property
    def acceleration(self) -> float:
        """The number of high-resolution pixels for each low-resolution pixel."""
        return float(self.scale**2)

    @property
    def scale(self) -> int:
        """The scale of the degradation: how many times coarser the measured grid is."""
        return int(self.degradation.scale)

    @property
    def in_kspace(self) -> bool:
        """Whether the degraded samples are Cartesian k-space."""
        return self.degradation.in_kspace

    def label(self) -> str:
        """The degradation and its scale."""
        return f"{self.family} x{self.scale}"

    def group(self) -> tuple[Any, ...]:
        """The values of the block: a batch holds slices of one degradation and one noise level."""
        return tuple(str(value) for value in self.flat().values())

    def sample(self, shape: tuple[int, int], seed: int) -> Any:
        """None: there is no mask to draw."""
        del shape, seed

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """The low-resolution measurement of fully sampled k-space (b, c, y, x); ``masks`` are not used."""
        del masks
        return self.degradation.measure(kspace, maps, reference)
