"""Resolution is lost: the setting of super-resolution. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.imaging.degradations import DEGRADATIONS, Degradation

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Degraded(Acquisition):
    """A low-resolution image: the noise is added in k-space before the resolution is lost.

    Attributes:
        degradation: the way to lose resolution, with its scale.
    """

    block: ClassVar[str] = "degradation"
    key: ClassVar[str] = "kind"
    default: ClassVar[str] = "kspace-truncation"
    registry: ClassVar[Mapping[str, type[Any]]] = DEGRADATIONS
    common: ClassVar[type[Any]] = Degradation
    own: ClassVar[tuple[str, ...]] = ("noise",)
    turns: ClassVar[bool] = True

    degradation: Degradation

    @property
    def acceleration(self) -> float:
        """Pixels of the high over those of the low resolution."""
        return float(self.scale**2)

    @property
    def scale(self) -> int:
        """Of the degradation."""
        return int(self.degradation.scale)

    @property
    def in_kspace(self) -> bool:
        """Of the degradation."""
        return self.degradation.in_kspace

    def label(self) -> str:
        """The degradation and its scale."""
        return f"{self.family} x{self.scale}"

    def group(self) -> tuple[Any, ...]:
        """One degradation a batch."""
        return tuple(str(value) for value in self.flat().values())

    def sample(self, shape: tuple[int, int], seed: int) -> Any:
        """Nothing is drawn."""
        del shape, seed

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """The low-resolution measurement."""
        del masks
        return self.degradation.measure(kspace, maps, reference)
