"""The base class of classical reconstructors: parameters, and one function from a measurement to an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Self

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


Condition = tuple[int, tuple[int, int]]  # coils of a volume, size (y, x) of the centre that is always measured


class Reconstructor(Plugin, ABC):
    """A classical method of reconstruction. It needs no training.

    Attributes:
        paper: the works to cite, as BibTeX entries; empty if there are none.
        needs_low: whether the method enlarges the low-resolution image; then it is only for super-resolution.
        needs_coils: whether the method needs several coils; with one coil it has no information to use.
        needs_kspace: whether the method fills in k-space; then it cannot work on low-resolution images without k-space.
        phase: whether the coil maps shall carry the low-resolution phase of the image.
    """

    paper: ClassVar[str] = ""
    needs_low: ClassVar[bool] = False
    needs_coils: ClassVar[bool] = False
    needs_kspace: ClassVar[bool] = False
    phase: bool = True

    @abstractmethod
    def reconstruct(self, measurement: Measurement) -> Tensor:
        """The image, (b, y, x) complex64 at the scale of the data, from the measured samples only."""

    def candidates(self) -> tuple[Self, ...]:
        """The candidate settings; a site's validation subjects decide among them. By default only this setting."""
        return (self,)

    def check(self, n_coils: int, box: tuple[int, int]) -> None:
        """Refuses data of which the method can find out nothing: its image would be the zero-filled one.

        Args:
            n_coils: the number of coils.
            box: size (y, x) of the centre of k-space that is always measured, in samples.

        Raises:
            InputError: the message says what is needed.
        """

    def tried(self, conditions: Collection[Condition] = ()) -> tuple[Self, ...]:
        """The candidates with every parameter that was set, as far as they can work under all of these conditions.

        A parameter was set if it differs from its default; it is never tuned.

        Raises:
            InputError: no candidate can; the message is that of the first one.
        """
        defaults = {name: one.get_default(call_default_factory=True) for name, one in type(self).model_fields.items()}
        own = {name: value for name, default in defaults.items() if (value := getattr(self, name)) != default}
        found, refused = list[Self](), list[InputError]()
        for one in self.candidates():
            kept = one.model_copy(update=own)
            try:
                for condition in conditions:
                    kept.check(*condition)
            except InputError as error:
                refused.append(error)
            else:
                found += [kept] if kept not in found else []
        if refused and not found:
            raise refused[0]
        return tuple(found)

    @property
    def own_science(self) -> dict[str, str]:
        """What enters digests beside the parameters: a parameter that was set was once tuned all the same."""
        return {} if self.tried() == self.candidates() else {"tuning": "keeps what is set"}
