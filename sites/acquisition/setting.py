"""How a site measures: through an undersampling mask, or at a lower resolution (super-resolution). Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from fedrecon.sites.errors import InputError, brief, unknown
from fedrecon.sites.extension.origin import source_of
from fedrecon.sites.extension.registry import name_of
from fedrecon.sites.plugin import Settings, choose, parse, science_of

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.data.volume import Volume
    from fedrecon.sites.imaging.masks.mask import Mask
    from fedrecon.sites.imaging.measurement import Measurement


class Acquisition(Settings):
    """How one site measures: a plug-in (a mask or a degradation), and keys beside it.

    The subclasses are :class:`~fedrecon.sites.acquisition.undersampling.Undersampling` and
    :class:`~fedrecon.sites.acquisition.degraded.Degraded`.

    Attributes:
        block: name of the block in the experiment.
        key: key of the block that names the family of the plug-in.
        default: name of the family if the block names none.
        kinds: the kind of the plug-in, as registries are called. registry: fedrecon's own classes of it by name.
        common: base class of the families. Its name in lower case is the name of the field that holds the plug-in.
        own: keys of the block that are fields of this class, not parameters of the plug-in.
        mixes: keys of the block of which each slice can draw its own value (see ``mix.py``). unmixed: the reason why
            there are none, as text.
        turns: True if the augmentation may turn training slices by 90 degrees.
        noise: multiple (>= 1) of the shard's own noise level. The data already hold the noise of their scan, so noise
            can only be added.
        fixed_mask: True for one training mask per slice for the whole run, instead of a new mask in each epoch.
    """

    block: ClassVar[str]
    key: ClassVar[str]
    default: ClassVar[str]
    kinds: ClassVar[str]
    registry: ClassVar[Mapping[str, type[Any]]]
    common: ClassVar[type[Any]]
    own: ClassVar[tuple[str, ...]]
    mixes: ClassVar[tuple[str, ...]] = ()
    unmixed: ClassVar[str] = ""
    turns: ClassVar[bool] = False

    noise: float = Field(1.0, ge=1.0, le=1000.0)
    fixed_mask: bool = False

    @classmethod
    def read(
        cls, block: Mapping[str, Any], where: str | None = None, registry: Mapping[str, type[Any]] | None = None
    ) -> Acquisition:
        """The setting of a YAML block: the family's name, the parameters of the family, and the keys beside them.

        Args:
            block: the block as a mapping.
            where: name of the block in messages; default: ``cls.block``.
            registry: the families by name, with those of an experiment's plug-ins; default: ``cls.registry``.

        Raises:
            InputError: a name, key or value is wrong; the message says where.
        """
        where, registry = where or cls.block, cls.registry if registry is None else registry
        own = {key: block[key] for key in cls.own if key in block}
        rest = {key: value for key, value in block.items() if key != cls.key and key not in own}
        for key, value in block.items():
            if isinstance(value, Mapping | list) and (key == cls.key or key in cls.common.model_fields):
                mixed = f"{{choice: [...]}} mixes {' and '.join(cls.mixes) or f'nothing in {cls.block}: {cls.unmixed}'}"
                raise InputError(f"{where}.{key}: one value is needed; {mixed} (given: {brief(value)})")
        name = str(block.get(cls.key, cls.default))
        if name in registry:
            fields = registry[name].model_fields
            for key in rest:
                if key not in fields:
                    allowed = [*fields, cls.key, *cls.own, "per_site"]
                    raise unknown(f"key in {where} ({cls.key} '{name}'):", key, allowed)
        kind = cls.common.__name__.lower()
        return parse(cls, {kind: choose(kind, registry, name, rest), **own}, where=where)

    @classmethod
    def inherit(cls, base: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
        """``base`` with the keys of ``block`` over it. If the families differ, only keys of all families are kept."""
        family = base.get(cls.key, cls.default)
        if block.get(cls.key, family) == family:
            return {**base, **block}
        common = {"per_site", *cls.own, *cls.common.model_fields}
        return {**{key: value for key, value in base.items() if key in common}, **block}

    @property
    def plugin(self) -> Any:
        """The mask or the degradation."""
        return getattr(self, self.common.__name__.lower())

    @property
    def plugins(self) -> tuple[Any, ...]:
        """All masks or degradations of this setting: several if slices draw their own."""
        return (self.plugin,)

    @property
    def families(self) -> tuple[str, ...]:
        """The names of the families of :attr:`plugins`."""
        return tuple(name_of(self.kinds, self.registry, type(one)) for one in self.plugins)

    @property
    def family(self) -> str:
        """The name of the plug-in's family; what stands in its place in tables if slices draw their own."""
        return self.families[0]

    @property
    def paper(self) -> str:
        """The works to cite for the families, as BibTeX entries; empty if there are none."""
        return "\n".join(dict.fromkeys(str(one.paper) for one in self.plugins))

    @property
    def acceleration(self) -> float:
        """The nominal ratio of grid points to samples; its mean if each slice draws its own."""
        raise NotImplementedError

    @property
    def scale(self) -> int:
        """How many times coarser the measured grid is."""
        return 1

    @property
    def in_kspace(self) -> bool:
        """Whether the measured samples are Cartesian k-space."""
        return True

    def label(self) -> str:
        """A short label for captions: ``random R=4``, ``bicubic x2``."""
        raise NotImplementedError

    def described(self) -> str:
        """The label, with the noise where it is not the scan's own: ``random R=4 noise 2``."""
        return self.label() + (f" noise {self.noise:g}" if self.noise != 1 else "")

    def drawn(self, seed: int) -> Acquisition:
        """The fixed setting of the slice whose mask has this seed: this very one, unless slices draw their own."""
        del seed
        return self

    def covers(self, other: Acquisition) -> bool:
        """Whether a training with this setting knows all that the other one measures.

        ``fixed_mask`` makes no difference: it concerns only training.
        """
        mine, theirs = ({**one.flat(), "fixed_mask": False} for one in (self, other))
        return mine == theirs

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses a matrix (y, x) that this setting cannot measure.

        Raises:
            InputError: the message says which value is possible.
        """
        self.plugin.check(shape)

    def calibration(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Size (y, x) of the centred box of k-space in which every measurement has all samples."""
        box: tuple[int, int] = self.plugin.calibration(shape)
        return box

    @property
    def drawable(self) -> tuple[Mask, ...]:
        """All masks of which a slice can have one; none where whole grids are measured."""
        return ()

    def boxes(self, shape: tuple[int, int]) -> set[tuple[int, int]]:
        """The boxes of :meth:`calibration` of all settings that a slice can draw."""
        return {self.calibration(shape)}

    def conditions(self, volumes: Iterable[Volume]) -> set[tuple[int, tuple[int, int]]]:
        """The number of coils and the calibration box (y, x) with which slices of these volumes are measured.

        A volume without a reference, which is never scored, is left out.
        """
        return {(one.n_coils, box) for one in volumes if one.has_reference for box in self.boxes(one.shape)}

    def group(self) -> tuple[Any, ...]:
        """The group of this setting. Slices of different groups are never measured in one batch."""
        return ()

    def sample(self, shape: tuple[int, int], seed: int) -> Any:
        """The sampling mask (y, x) of a slice, or None if the setting has no mask."""
        raise NotImplementedError

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """Measures fully sampled k-space.

        Args:
            kspace: (b, c, y, x) complex64.
            masks: the masks of :meth:`sample`, (b, 1, y, x), or None if the setting has no mask.
            maps: coil maps, (b, c, y, x) complex64.
            reference: reference images, (b, y, x) float32, or None; the measurement holds them unchanged.
        """
        raise NotImplementedError

    def science(self) -> dict[str, Any]:
        """The values that enter a digest."""
        return {self.key: self.family, **science_of(self.plugin), **self.own_science, **source_of(type(self.plugin))}

    @property
    def own_science(self) -> dict[str, Any]:
        """The part of :meth:`science` that belongs to no plug-in.

        Added noise once filled the samples that a zero-padded scan has not. So settings with added noise, and no
        others, have digests of their own since then: no result of the two is mixed.
        """
        own = {key: value for key, value in science_of(self).items() if key in self.own}
        return own | ({"noise_in": "measured samples"} if self.noise != 1 else {})

    def flat(self) -> dict[str, Any]:
        """The block as it would be written in YAML, with every default."""
        return {self.key: self.family, **self.plugin.model_dump(), **{key: getattr(self, key) for key in self.own}}
