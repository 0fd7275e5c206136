"""How a site measures: by an undersampling mask, or for super-resolution with less resolution. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from fedrecon.sites.errors import unknown
from fedrecon.sites.plugin import Settings, choose, parse, science_of

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Acquisition(Settings):
    """How one site measures: a plug-in of a family (:class:`Operator`, :class:`Degraded`), and keys beside it.

    Attributes:
        block: the experiment's key. key: names the family in it. default: the family where none is named.
        registry: of the families. common: their base class, after which the field is named. own: the keys beside it.
        turns: training slices may be turned by 90 degrees.
        noise: a multiple (>= 1) of the shard's own noise level. The data holds the noise of its scan already, so
            noise can only be added.
        fixed_mask: one training mask per slice for the whole run instead of a fresh one each epoch.
    """

    block: ClassVar[str]
    key: ClassVar[str]
    default: ClassVar[str]
    registry: ClassVar[Mapping[str, type[Any]]]
    common: ClassVar[type[Any]]
    own: ClassVar[tuple[str, ...]]
    turns: ClassVar[bool] = False

    noise: float = Field(1.0, ge=1.0, allow_inf_nan=False)
    fixed_mask: bool = False

    @classmethod
    def read(cls, block: Mapping[str, Any], where: str | None = None) -> Self:
        """From a YAML block: the family's name, its own keys, and the keys beside it.

        Raises:
            InputError: a name, key or value is wrong; says where.
        """
        where = where or cls.block
        own = {key: block[key] for key in cls.own if key in block}
        rest = {key: value for key, value in block.items() if key != cls.key and key not in own}
        name = str(block.get(cls.key, cls.default))
        if name in cls.registry:
            fields = cls.registry[name].model_fields
            for key in rest:
                if key not in fields:
                    allowed = [*fields, cls.key, *cls.own, "per_site"]
                    raise unknown(f"key in {where} ({cls.key} '{name}'):", key, allowed)
        kind = cls.common.__name__.lower()
        return parse(cls, {kind: choose(kind, cls.registry, name, rest), **own}, where=where)

    @classmethod
    def inherit(cls, base: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
        """``block`` over ``base``; another family inherits only the keys that every family has."""
        family = base.get(cls.key, cls.default)
        if block.get(cls.key, family) == family:
            return {**base, **block}
        common = {"per_site", *cls.own, *cls.common.model_fields}
        return {**{key: value for key, value in base.items() if key in common}, **block}

    @property
    def plugin(self) -> Any:
        """The mask or degradation."""
        return getattr(self, self.common.__name__.lower())

    @property
    def family(self) -> str:
        """Its name."""
        return {kind: name for name, kind in self.registry.items()}[type(self.plugin)]

    @property
    def paper(self) -> str:
        """Its citation, or nothing."""
        return str(self.plugin.paper)

    @property
    def acceleration(self) -> float:
        """Grid points over samples, nominally."""
        raise NotImplementedError

    @property
    def scale(self) -> int:
        """How many times coarser the measured grid is."""
        return 1

    @property
    def in_kspace(self) -> bool:
        """Whether what is measured is k-space."""
        return True

    def label(self) -> str:
        """In a few words, for captions: ``random R=4``, ``bicubic x2``."""
        raise NotImplementedError

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses a matrix (y, x) that cannot be measured so.

        Raises:
            InputError: says what would do.
        """
        self.plugin.check(shape)

    def calibration(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Size (y, x) of the centred box of k-space that every measurement knows fully."""
        box: tuple[int, int] = self.plugin.calibration(shape)
        return box

    def group(self) -> tuple[Any, ...]:
        """Slices of different groups are never measured in one batch."""
        return ()

    def sample(self, shape: tuple[int, int], seed: int) -> Any:
        """The sampling mask (y, x) of a slice, or None where there is nothing to draw."""
        raise NotImplementedError

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """Measures fully sampled k-space (b, c, y, x) under :meth:`sample`'s masks (b, 1, y, x)."""
        raise NotImplementedError

    def science(self) -> dict[str, Any]:
        """What a digest holds of it."""
        own = {key: value for key, value in science_of(self).items() if key in self.own}
        return {self.key: self.family, **science_of(self.plugin), **own}

    def flat(self) -> dict[str, Any]:
        """The block as it would stand in YAML, with every default written out."""
        return {self.key: self.family, **self.plugin.model_dump(), **{key: getattr(self, key) for key in self.own}}
