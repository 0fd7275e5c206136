"""The setting of a reconstruction: a mask undersamples k-space. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.masks.mask import Mask

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Undersampling(Acquisition):
    """k-space = mask * FFT(coil map * image) + noise.

    Attributes:
        mask: the family of the sampling mask with its parameters, for example the acceleration.
    """

    block: ClassVar[str] = "operator"
    key: ClassVar[str] = "mask"
    default: ClassVar[str] = "random"
    kinds: ClassVar[str] = "masks"
    registry: ClassVar[Mapping[str, type[Any]]] = MASKS
    common: ClassVar[type[Any]] = Mask
    own: ClassVar[tuple[str, ...]] = ("noise", "fixed_mask")

    mask: Mask

    @property
    def acceleration(self) -> float:
        """The nominal acceleration of the mask."""
        return float(self.mask.acceleration)

    def label(self) -> str:
        """The mask and its acceleration."""
        return f"{self.family} R={self.acceleration:g}"

    def sample(self, shape: tuple[int, int], seed: int) -> Any:
        """See :meth:`Mask.sample`."""
        return self.mask.sample(shape, seed)

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """The undersampled k-space; see the base class. Masks are required."""
        from fedrecon.sites.imaging.measurement import measure

        assert masks is not None
        return measure(kspace, masks, maps, reference=reference)
