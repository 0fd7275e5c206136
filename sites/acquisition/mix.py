"""Values from which each slice draws one: ``{uniform: [2, 8]}`` or ``{choice: [2, 4, 8]}``. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from fedrecon.sites.errors import InputError, brief, unknown

Kind = Literal["uniform", "choice"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST = 100
"""The largest number of values in a choice."""


@dataclass(frozen=True)
class Mix:
    """Values from which each slice draws one.

    Attributes:
        kind: ``uniform``: any number between two bounds; ``choice``: one of the values, all equally likely.
        values: the two bounds, or the values.
    """

    kind: Kind
    values: tuple[Any, ...]

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str, kinds: Sequence[Kind] = KINDS) -> Mix:
        """The mix of a YAML value such as ``{uniform: [2, 8]}``; it does not look at the values themselves.

        Args:
            where: the key, for messages. kinds: the kinds that the key allows.

        Raises:
            InputError: the kind is not allowed, or the values are no list of a length that fits.
        """
        if len(given) != 1:
            raise InputError(f"{where}: exactly one of {', '.join(kinds)} is needed (given: {brief(dict(given))})")
        ((name, values),) = given.items()
        kind = next((one for one in kinds if one == name), None)
        if kind is None:
            raise unknown(f"key in {where}:", str(name), kinds)
        if not isinstance(values, list | tuple) or not values:
            raise InputError(f"{where}.{kind}: a list of values is needed (given: {brief(values)})")
        if kind == "uniform" and len(values) != 2:
            raise InputError(f"{where}.uniform: two numbers [low, high] are needed (given: {brief(values)})")
        if len(values) > MOST:
            raise InputError(f"{where}.{kind}: at most {MOST} values are allowed (given: {len(values)})")
        return cls(kind, tuple(values))

    def checked(self, values: Sequence[Any], where: str) -> Mix:
        """This mix with its values as they were understood, in their order.

        Raises:
            InputError: a value of a choice is given twice, or low is not below high.
        """
        if self.kind == "uniform" and not values[0] < values[1]:
            raise InputError(f"{where}.uniform: low must be below high (given: {brief(list(self.values))})")
        if len(set(values)) < len(values):
            raise InputError(f"{where}.{self.kind}: a value is given twice (given: {brief(list(self.values))})")
        return Mix(self.kind, tuple(values))

    @property
    def varies(self) -> bool:
        """Whether two slices can draw different values."""
        return len(self.values) > 1

    @property
    def mean(self) -> float:
        """The mean of what is drawn."""
        return float(sum(self.values)) / len(self.values)

    def draw(self, random: np.random.Generator) -> float:
        """One of the numbers."""
        if self.kind == "uniform":
            return float(random.uniform(*self.values))
        return float(self.values[int(random.integers(len(self.values)))])

    def covers(self, other: Mix) -> bool:
        """Whether this mix can draw all that the other one can."""
        if self.kind == "uniform":
            return all(self.values[0] <= value <= self.values[1] for value in other.values)
        return other.kind == "choice" and set(other.values) <= set(self.values)

    def written(self) -> Any:
        """The mix as in YAML; a single value stands for itself."""
        return {self.kind: list(self.values)} if self.varies else self.values[0]

    def __str__(self) -> str:
        return _joined(self.kind, self.values)


def is_mix(value: Any) -> bool:
    """Whether a value of an experiment is written as a mix."""
    return (
        isinstance(value, Mapping)
        and len(value) == 1
        and all(key in KINDS and isinstance(values, list | tuple) for key, values in value.items())
    )


def mix_text(value: Mapping[str, Sequence[Any]]) -> str:
    """A mix as a short text: ``2-8``, ``2/4/8``, ``random/gaussian2d``."""
    ((kind, values),) = value.items()
    return _joined(kind, values)


def _joined(kind: str, values: Sequence[Any]) -> str:
    return ("-" if kind == "uniform" else "/").join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in values)
