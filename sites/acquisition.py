"""How a site measures: by an undersampling mask, or for super-resolution with less resolution. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from fedrecon.sites.errors import unknown
from fedrecon.sites.imaging.degradations import DEGRADATIONS, Degradation
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.masks.mask import Mask
from fedrecon.sites.plugin import Plugin, choose, parse
from fedrecon.sites.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Acquisition(Settings):
    """How one site measures: :class:`Operator`, or for super-resolution :class:`Degraded`.

    Attributes:
        noise: a multiple (>= 1) of the shard's own noise level. The data holds the noise of its scan already, so
            noise can only be added.
        fixed_mask: one training mask per slice for the whole run instead of a fresh one each epoch.
        turns: training slices may be turned by 90 degrees.
    """

    noise: float = Field(1.0, ge=1.0, allow_inf_nan=False)
    fixed_mask: bool = False
    turns: ClassVar[bool] = False

    @property
    def family(self) -> str:
        """The name of the mask or degradation."""
        raise NotImplementedError

    @property
    def acceleration(self) -> float:
        """Grid points over samples, nominally."""
        raise NotImplementedError

    @property
    def scale(self) -> int:
        """How many times coarser the measured grid is."""
        return 1

    @property
    def paper(self) -> str:
        """The citation, or nothing."""
        raise NotImplementedError

    def label(self) -> str:
        """In a few words, for captions: ``random R=4``, ``bicubic x2``."""
        raise NotImplementedError

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses a matrix (y, x) that cannot be measured so.

        Raises:
            InputError: says what would do.
        """
        raise NotImplementedError

    def calibration(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Size (y, x) of the centred box of k-space that every measurement knows fully."""
        raise NotImplementedError

    def group(self) -> tuple[Any, ...]:
        """Slices of different groups are never measured in one batch."""
        return ()

    def sample(self, shape: tuple[int, int], seed: int) -> Any:
        """The sampling mask (y, x) of a slice, or None where there is nothing to draw."""
        raise NotImplementedError

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """Measures fully sampled k-space (b, c, y, x) under :meth:`sample`'s masks (b, 1, y, x)."""
        raise NotImplementedError

    def flat(self) -> dict[str, Any]:
        """The block as it would stand in YAML, with every default written out."""
        raise NotImplementedError


class Operator(Acquisition):
    """k-space = mask * FFT(coil map * image) + noise.

    Attributes:
        mask: the sampling mask family with its parameters, among them the acceleration.
    """

    mask: Mask

    @classmethod
    def read(cls, block: Mapping[str, Any], where: str = "operator") -> Operator:
        """The operator of a YAML block: ``mask`` (a name), ``noise``, ``fixed_mask``, and the mask's own keys."""
        own, rest = _parted(block, "mask")
        name = block.get("mask", "random")
        _refuse_keys(rest, MASKS.get(name), f"key in {where} (mask '{name}'):", "mask")
        return parse(cls, {"mask": choose("mask", MASKS, str(name), rest), **own}, where=where)

    @staticmethod
    def inherit(base: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
        """``block`` over ``base``; another mask family inherits only the keys that every family has."""
        return _inherited(base, block, "mask", "random", {"per_site", "noise", "fixed_mask", *Mask.model_fields})

    @property
    def family(self) -> str:
        """The name of the mask."""
        return {kind: name for name, kind in MASKS.items()}[type(self.mask)]

    @property
    def acceleration(self) -> float:
        """Of the mask."""
        return float(self.mask.acceleration)

    @property
    def paper(self) -> str:
        """Of the mask."""
        return self.mask.paper

    def label(self) -> str:
        """The mask and its acceleration."""
        return f"{self.family} R={self.acceleration:g}"

    def check(self, shape: tuple[int, int]) -> None:
        """See :meth:`Mask.check`."""
        self.mask.check(shape)

    def calibration(self, shape: tuple[int, int]) -> tuple[int, int]:
        """See :meth:`Mask.calibration`."""
        return self.mask.calibration(shape)

    def sample(self, shape: tuple[int, int], seed: int) -> Any:
        """See :meth:`Mask.sample`."""
        return self.mask.sample(shape, seed)

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """Undersampled k-space."""
        from fedrecon.sites.imaging.measurement import measure

        assert masks is not None
        return measure(kspace, masks, maps, reference=reference)

    def flat(self) -> dict[str, Any]:
        """The block as it would stand in YAML, with every default written out."""
        own = {"noise": self.noise, "fixed_mask": self.fixed_mask}
        return {"mask": self.family, **self.mask.model_dump(), **own}


class Degraded(Acquisition):
    """A low-resolution image: the noise is added in k-space before the resolution is lost.

    Attributes:
        degradation: the way to lose resolution, with its scale.
    """

    degradation: Degradation
    turns: ClassVar[bool] = True

    @classmethod
    def read(cls, block: Mapping[str, Any], where: str = "degradation") -> Degraded:
        """The degradation of a YAML block: ``kind`` (a name), ``scale``, ``noise``, and the kind's own keys."""
        own, rest = _parted(block, "kind")
        name = block.get("kind", "kspace-truncation")
        _refuse_keys(rest, DEGRADATIONS.get(name), f"key in {where} (kind '{name}'):", "kind")
        return parse(cls, {"degradation": choose("degradation", DEGRADATIONS, str(name), rest), **own}, where=where)

    @staticmethod
    def inherit(base: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
        """``block`` over ``base``; another kind inherits only the keys that every kind has."""
        return _inherited(base, block, "kind", "kspace-truncation", {"per_site", "noise", *Degradation.model_fields})

    @property
    def family(self) -> str:
        """The name of the degradation."""
        return {kind: name for name, kind in DEGRADATIONS.items()}[type(self.degradation)]

    @property
    def acceleration(self) -> float:
        """Pixels of the high over those of the low resolution."""
        return float(self.scale**2)

    @property
    def scale(self) -> int:
        """Of the degradation."""
        return int(self.degradation.scale)

    @property
    def paper(self) -> str:
        """Of the degradation."""
        return self.degradation.paper

    def label(self) -> str:
        """The degradation and its scale."""
        return f"{self.family} x{self.scale}"

    def check(self, shape: tuple[int, int]) -> None:
        """See :meth:`Degradation.check`."""
        self.degradation.check(shape)

    def calibration(self, shape: tuple[int, int]) -> tuple[int, int]:
        """See :meth:`Degradation.calibration`."""
        return self.degradation.calibration(shape)

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

    def flat(self) -> dict[str, Any]:
        """The block as it would stand in YAML, with every default written out."""
        return {"kind": self.family, **self.degradation.model_dump(), "noise": self.noise}


_OWN = {"mask": ("noise", "fixed_mask"), "kind": ("noise",)}
"""Keys beside a family's own, by the key that names the family."""


def _parted(block: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {key: block[key] for key in _OWN[name] if key in block}
    return own, {key: value for key, value in block.items() if key != name and key not in own}


def _refuse_keys(keys: Iterable[str], family: type[Plugin] | None, where: str, name: str) -> None:
    for key in keys if family else ():
        if key not in family.model_fields:  # type: ignore[union-attr]
            raise unknown(where, key, [*family.model_fields, name, *_OWN[name], "per_site"])  # type: ignore[union-attr]


def _inherited(
    base: Mapping[str, Any], block: Mapping[str, Any], name: str, default: str, common: set[str]
) -> dict[str, Any]:
    family = base.get(name, default)
    if block.get(name, family) == family:
        return {**base, **block}
    return {**{key: value for key, value in base.items() if key in common}, **block}
