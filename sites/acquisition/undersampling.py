"""The settings of a reconstruction: a mask undersamples k-space; it is fixed, or each slice draws one. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fedrecon.sites.acquisition.mix import Mix
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.errors import InputError, brief
from fedrecon.sites.extension.origin import source_of
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.masks.mask import Mask
from fedrecon.sites.plugin import science_of
from fedrecon.sites.seeding import generator

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Sampling(Acquisition):
    """k-space = mask * FFT(coil map * image) + noise. :class:`Undersampling` fixes the mask, :class:`Mixed` draws it.

    Attributes:
        masks: one mask for each family that a slice can have.
        rates: the accelerations that a slice can have.
    """

    block: ClassVar[str] = "operator"
    key: ClassVar[str] = "mask"
    default: ClassVar[str] = "random"
    kinds: ClassVar[str] = "masks"
    registry: ClassVar[Mapping[str, type[Any]]] = MASKS
    common: ClassVar[type[Any]] = Mask
    own: ClassVar[tuple[str, ...]] = ("noise", "fixed_mask")
    mixes: ClassVar[tuple[str, ...]] = ("mask", "acceleration")

    def covers(self, other: Acquisition) -> bool:
        """See the base class."""
        if not isinstance(other, Sampling) or self.noise != other.noise:
            return False
        mine, theirs = ({type(mask): _full(mask) for mask in one.plugins} for one in (self, other))
        same = all(mine.get(family) == mask for family, mask in theirs.items())
        return same and self.accelerations.covers(other.accelerations)

    @property
    def accelerations(self) -> Mix:
        """The accelerations that a slice can have."""
        raise NotImplementedError

    def boxes(self, shape: tuple[int, int]) -> set[tuple[int, int]]:
        """See the base class."""
        return {mask.calibration(shape) for mask in self.drawable}

    @property
    def own_science(self) -> dict[str, Any]:
        """See the base class; with the marks of the masks' own fixes."""
        return super().own_science | {key: mark for mask in self.plugins for key, mark in mask.own_science.items()}

    def measure(self, kspace: Tensor, masks: Tensor | None, maps: Tensor, reference: Tensor | None) -> Measurement:
        """The undersampled k-space; see the base class. Masks are required."""
        from fedrecon.sites.imaging.measurement import measure

        assert masks is not None
        return measure(kspace, masks, maps, reference=reference)


class Undersampling(Sampling):
    """One family of masks with one acceleration for all slices.

    Attributes:
        mask: the family of the sampling mask with its parameters, for example the acceleration.
    """

    mask: Mask

    @classmethod
    def read(
        cls, block: Mapping[str, Any], where: str | None = None, registry: Mapping[str, type[Any]] | None = None
    ) -> Sampling:
        """The setting of a YAML block; a :class:`Mixed` one if ``mask`` or ``acceleration`` is a mix of values.

        Args:
            block, where, registry: see the base class.

        Raises:
            InputError: a name, key or value is wrong; the message says where.
        """
        where, registry = where or cls.block, cls.registry if registry is None else registry
        given = {key: block.get(key) for key in cls.mixes}
        if not any(isinstance(value, Mapping) for value in given.values()):
            fixed = super().read(block, where, registry)
            assert isinstance(fixed, Undersampling)
            return fixed
        mixed = {
            key: Mix.read(value, f"{where}.{key}", ("choice",) if key == cls.key else ("uniform", "choice"))
            for key, value in given.items()
            if isinstance(value, Mapping)
        }
        names = mixed[cls.key].values if cls.key in mixed else (str(block.get(cls.key, cls.default)),)
        # Each value is read as if it stood alone: so it is checked, and refused, like a value that is not mixed.
        rates = mixed["acceleration"].values if "acceleration" in mixed else (block.get("acceleration"),)
        keys = {key: value for key, value in block.items() if key != "acceleration"}
        read, given_rates = super().read, [{} if rate is None else {"acceleration": rate} for rate in rates]
        alone: list[list[Any]] = [
            [read({**keys, cls.key: name, **rate}, where, registry) for rate in given_rates] for name in names
        ]
        masks = [row[0].mask for row in alone]
        order = sorted(range(len(masks)), key=lambda at: list(registry).index(str(names[at])))
        if len({type(mask) for mask in masks}) < len(masks):
            raise InputError(f"{where}.{cls.key}.choice: a value is given twice (given: {brief(list(names))})")
        values = [one.mask.acceleration for one in alone[0]]
        kind = mixed["acceleration"].kind if "acceleration" in mixed else "choice"
        found = Mix(kind, tuple(rates)).checked(sorted(values) if kind == "choice" else values, f"{where}.acceleration")
        first: Undersampling = alone[0][0]
        if len(masks) == 1 and not found.varies:
            return first
        kept = tuple(masks[at].model_copy(update={"acceleration": found.values[0]}) for at in order)
        return Mixed(masks=kept, rates=found, noise=first.noise, fixed_mask=first.fixed_mask)

    @classmethod
    def whole(cls) -> Sampling:
        """Every sample is measured: with this setting trains a method whose training does not know the operator."""
        return cls.read({"mask": "random", "acceleration": 1})

    @property
    def accelerations(self) -> Mix:
        """The one acceleration."""
        return Mix("choice", (self.acceleration,))

    @property
    def drawable(self) -> tuple[Mask, ...]:
        """The mask."""
        return (self.mask,)

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


class Mixed(Sampling):
    """Each slice draws a family and an acceleration, and is then measured as with a fixed setting of these values.

    A mix over families has the parameters that all of them have.

    Attributes:
        masks: one mask for each family, with the first of the accelerations.
        rates: the accelerations.
    """

    masks: tuple[Mask, ...]
    rates: Mix

    def drawn(self, seed: int) -> Undersampling:
        """The setting of one slice. The mask that it then samples is the one that a fixed setting has with this seed.

        Args:
            seed: the seed of the slice's mask.
        """
        rate = self.rates.draw(generator(seed, "acceleration"))
        mask = self.masks[int(generator(seed, "mask").integers(len(self.masks)))]
        return Undersampling(
            mask=mask.model_copy(update={"acceleration": rate}), noise=self.noise, fixed_mask=self.fixed_mask
        )

    @property
    def plugins(self) -> tuple[Any, ...]:
        """One mask for each family."""
        return self.masks

    @property
    def accelerations(self) -> Mix:
        """The accelerations that a slice can draw."""
        return self.rates

    @property
    def acceleration(self) -> float:
        """The mean of the accelerations that are drawn, because a volume's measured one is the mean over slices."""
        return self.rates.mean

    @property
    def family(self) -> str:
        """The families; with the accelerations if they are mixed, so that no table shows their mean as a fixed one."""
        return self.label() if self.rates.varies else self._names

    def label(self) -> str:
        """A short label: ``random R=2-8``, ``random/gaussian2d R=2/4/8``."""
        return f"{self._names} R={self.rates}"

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses a matrix (y, x) on which one of the families cannot reach one of the accelerations."""
        for mask in self.drawable:
            mask.check(shape)

    @property
    def drawable(self) -> tuple[Mask, ...]:
        """Each family with each of the accelerations; of a range, with both bounds."""
        rates = self.rates.values
        return tuple(mask.model_copy(update={"acceleration": rate}) for mask in self.masks for rate in rates)

    def science(self) -> dict[str, Any]:
        """See the base class."""
        named = zip(self.families, self.masks, strict=True)
        outside = {name: source for name, mask in named if (source := source_of(type(mask)))}
        return {
            **self._block(science_of(self.masks[0])),
            **self.own_science,
            **({"plug-in sources": outside} if outside else {}),
        }

    def flat(self) -> dict[str, Any]:
        """See the base class."""
        return {**self._block(self.masks[0].model_dump()), **{key: getattr(self, key) for key in self.own}}

    @property
    def _names(self) -> str:
        return "/".join(self.families)

    def _block(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of the plug-ins: those that all families have."""
        shared = {key: value for key, value in parameters.items() if all(hasattr(mask, key) for mask in self.masks)}
        families = Mix("choice", self.families)
        return {self.key: families.written(), **shared, "acceleration": self.rates.written()}


def _full(mask: Mask) -> Mask:
    """The mask without its acceleration: all else that describes it."""
    return mask.model_copy(update={"acceleration": 1.0})
