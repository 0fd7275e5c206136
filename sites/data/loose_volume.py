"""A volume that lies in no shard, so that it can be measured exactly as a site measures those of its shard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from fedrecon.sites.data.volume import Complex, Volume, VolumeData
from fedrecon.sites.imaging.numpy_fourier import root_sum_of_squares


class VolumeSource(Protocol):
    """What a measurement needs of a shard."""

    @property
    def phase(self) -> str:
        """Origin of the image phase, see :class:`fedrecon.sites.data.shard.Shard`."""

    def split(self, name: str) -> tuple[Volume, ...]:
        """The volumes of a split."""

    def scorable(self, split: str) -> tuple[Volume, ...]:
        """The volumes of a split that have references."""

    def kspace(self, volume_name: str) -> Complex:
        """K-space of a volume, (slices, coils, y, x) complex64."""

    def stored(self, volume_name: str, what: Literal["kspace", "reference", "truth"] = "kspace") -> Any:
        """An array of a volume, by slice."""


@dataclass(frozen=True)
class LooseVolume:
    """One fully sampled volume as the only one of a source.

    Attributes:
        data: the volume. Without a reference, the root sum of squares of its coil images takes its place.
        phase: origin of the image phase; ``none`` only where a shard says so.
    """

    data: VolumeData
    phase: str = "measured"

    @cached_property
    def complete(self) -> VolumeData:
        """The volume with a reference."""
        if self.data.reference is not None:
            return self.data
        return replace(self.data, reference=root_sum_of_squares(self.data.kspace))

    def split(self, name: str) -> tuple[Volume, ...]:
        """The volume, if it is of that split."""
        return (self.complete.about(),) if name == self.data.split else ()

    scorable = split

    def kspace(self, volume_name: str) -> Complex:
        """Its k-space, (slices, coils, y, x) complex64."""
        del volume_name
        return self.data.kspace

    def stored(self, volume_name: str, what: Literal["kspace", "reference", "truth"] = "kspace") -> Any:
        """Its array of that name."""
        del volume_name
        return getattr(self.complete, what)
