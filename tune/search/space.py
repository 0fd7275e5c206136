"""The search space of a sweep: one dimension per searched key, the conditions between keys, and the points.

A random value depends only on the sweep's seed, the sample and the key. It does not depend on the point of the grid. So
all methods and all seeds of a sample are compared at the SAME learning rate, and a mean over seeds is a mean over seeds
only.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.seeding import generator

Params = dict[str, Any]

_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


@dataclass(frozen=True)
class Kind:
    """A kind of dimension: how its values are given and chosen.

    Attributes:
        listed: whether the values are given one by one; otherwise they are given as [low, high].
        draw: a function that draws a value from the generator and the given values; None if all values are taken.
        suggest: a function that asks an Optuna trial for a value, from the trial, the key and the given values.
        check: a function that says what is wrong with the bounds; an empty text means that they are right. None checks
            nothing more than low < high.
    """

    listed: bool
    draw: Callable[[np.random.Generator, Sequence[Any]], Any] | None
    suggest: Callable[[Any, str, Sequence[Any]], Any]
    check: Callable[[float, float], str] | None = None


def _choose(generator: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(generator.integers(len(values)))]


def _pick(trial: Any, key: str, values: Sequence[Any]) -> Any:
    return values[trial.suggest_categorical(key, list(range(len(values))))]


def _positive(low: float, _: float) -> str:
    return "" if low > 0 else "the lower bound of a logarithmic range must be above 0"


def _whole(low: float, high: float) -> str:
    return "" if low == int(low) and high == int(high) else "the bounds must be whole numbers"


KINDS: dict[str, Kind] = {
    "grid": Kind(True, None, _pick),
    "choice": Kind(True, _choose, _pick),
    "uniform": Kind(
        False,
        lambda generator, bounds: float(generator.uniform(*bounds)),
        lambda trial, key, bounds: trial.suggest_float(key, *bounds),
    ),
    "loguniform": Kind(
        False,
        lambda generator, bounds: float(math.exp(generator.uniform(math.log(bounds[0]), math.log(bounds[1])))),
        lambda trial, key, bounds: trial.suggest_float(key, *bounds, log=True),
        _positive,
    ),
    "randint": Kind(
        False,
        lambda generator, bounds: int(generator.integers(int(bounds[0]), int(bounds[1]) + 1)),
        lambda trial, key, bounds: trial.suggest_int(key, int(bounds[0]), int(bounds[1])),
        _whole,
    ),
}
"""The kinds of dimensions by name. ``randint`` includes both of its bounds."""


@dataclass(frozen=True)
class Dimension:
    """One searched key of the experiment.

    Attributes:
        key: the dotted key, such as ``operator.acceleration``. kind: a name in :data:`KINDS`.
        values: the listed values, or (low, high).
        when: for each other key, the values with which this key is searched. With any other value it is not searched.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, key: str, block: Any) -> Dimension:
        """Reads a dimension from its YAML: ``{grid: [...]}``, ``{loguniform: [low, high], when: {KEY: VALUE}}``.

        Raises:
            InputError: the kind is unknown, the list is empty, or the bounds are not in order.
        """
        where = f"search.{key}"
        if not isinstance(block, Mapping):
            raise InputError(f"{where}: a mapping such as {{grid: [...]}} is needed, got {block!r}")
        kinds = [name for name in block if name != "when"]
        if len(kinds) != 1:
            raise InputError(f"{where}: exactly one of {', '.join(KINDS)} is needed, got {', '.join(kinds) or 'none'}")
        (kind,) = kinds
        if kind not in KINDS:
            raise unknown(f"key in {where}:", kind, [*KINDS, "when"])
        given = block[kind]
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise InputError(f"{where}.{kind}: a list with at least one value is needed, got {given!r}")
        values = tuple(_number(one) for one in given) if KINDS[kind].listed else _bounds(where, kind, given)
        if len({_alike(value) for value in values}) < len(values) and KINDS[kind].listed:
            raise InputError(f"{where}.{kind}: a value is given twice: {list(values)}")
        return cls(key, kind, values, _conditions(where, block.get("when") or {}))

    def active(self, params: Mapping[str, Any], base: Callable[[str], Any]) -> bool:
        """Whether the key is searched at this point.

        Args:
            params: the values of the dimensions before this one.
            base: a function that gives the base experiment's value of a key that is not searched.
        """
        return all((params[key] if key in params else base(key)) in allowed for key, allowed in self.when.items())


def read_space(search: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Reads the dimensions. Each dimension comes after those in its conditions.

    Raises:
        InputError: a dimension is wrong, or the conditions depend on each other in a circle.
    """
    if not search:
        raise InputError("search: at least one key of the experiment is needed, such as operator.acceleration")
    waiting = {key: Dimension.read(key, block) for key, block in search.items()}
    ordered: list[Dimension] = []
    while waiting:
        ready = [one for one in waiting.values() if not set(one.when) & (set(waiting) - {one.key})]
        ready = [one for one in ready if one.key not in one.when]
        if not ready:
            raise InputError(f"search: the conditions of {', '.join(waiting)} depend on each other in a circle")
        ordered.append(ready[0])
        del waiting[ready[0].key]
    return tuple(ordered)


def points(
    space: Iterable[Dimension], samples: int, seed: int, base: Callable[[str], Any], most: int = 10**9
) -> list[Params]:
    """The points of a grid or random sweep.

    A point with a drawn value occurs ``samples`` times, each time with other draws. A point without one occurs once.
    The seed of the experiment is the outermost dimension, outside of the samples too. So a further seed at the end of
    its list only appends points, and all others keep their numbers.

    Args:
        base: a function that gives the base experiment's value of a key that is not searched.
        most: the largest number of points.

    Raises:
        InputError: there are more points. Nothing larger than ``most`` is made before.
    """
    space = tuple(space)
    whole = math.prod(len(one.values) for one in space if KINDS[one.kind].draw is None and not one.when)
    if whole > most:
        raise InputError(f"search makes {whole} trials; more than {most} are refused")
    found: list[Params] = []
    for sample in range(samples):
        grid: list[tuple[Params, bool]] = [({}, False)]
        for one in space:
            made = (extended for params, drawn in grid for extended in _extend(one, params, drawn, sample, seed, base))
            grid = list(itertools.islice(made, most + 1))
        found += [params for params, drawn in grid if drawn or sample == 0]
        if len(found) > most:
            raise InputError(f"search makes more than {most} trials; they are refused")
        if not any(drawn for _, drawn in grid):
            break
    seeds = next((one.values for one in space if one.key == "seed" and KINDS[one.kind].draw is None), ())
    return sorted(found, key=lambda params: _place(params.get("seed"), seeds))  # sorting is stable


def _place(value: Any, seeds: Sequence[Any]) -> int:
    """The place of a seed in its list; 0 without a list, or at a point that does not search the seed."""
    return next((at for at, one in enumerate(seeds) if one == value), 0)


def suggest(space: Iterable[Dimension], trial: Any, base: Callable[[str], Any]) -> Params:
    """The point that an Optuna trial suggests. Optuna is not asked for a dimension whose condition does not hold."""
    params: Params = {}
    for one in space:
        if one.active(params, base):
            params[one.key] = KINDS[one.kind].suggest(trial, one.key, one.values)
    return params


def draw(one: Dimension, seed: int, sample: int = 0) -> Any:
    """The drawn value of a dimension in one sample."""
    function = KINDS[one.kind].draw
    assert function is not None
    return function(generator(seed, "sweep", sample, one.key), one.values)


def _extend(
    one: Dimension, params: Params, drawn: bool, sample: int, seed: int, base: Callable[[str], Any]
) -> list[tuple[Params, bool]]:
    """The points with one more dimension, each with the information whether it has a drawn value."""
    if not one.active(params, base):
        return [(params, drawn)]
    if KINDS[one.kind].draw is None:
        return [({**params, one.key: value}, drawn) for value in one.values]
    return [({**params, one.key: draw(one, seed, sample)}, True)]


def _alike(value: Any) -> Any:
    """The same for equal values: 2 and 2.0 are one value, True and 1 are two."""
    if isinstance(value, Mapping):
        return "keys", tuple(sorted((key, _alike(one)) for key, one in value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "list", tuple(map(_alike, value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("number", float(value)) if is_number else (type(value).__name__, repr(value))


def _number(value: Any) -> Any:
    """The value, with text such as 1e-3 as a number: YAML reads it as text, because it has no decimal point."""
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def _bounds(where: str, kind: str, given: Sequence[Any]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        raise InputError(f"{where}.{kind}: two numbers [low, high] are needed, got {list(given)}") from None
    check = KINDS[kind].check
    wrong = "" if math.isfinite(low) and math.isfinite(high) and low < high else "low must be below high"
    if wrong := wrong or (check(low, high) if check else ""):
        raise InputError(f"{where}.{kind}: {wrong}, got {list(given)}")
    return low, high


def _conditions(where: str, when: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise InputError(f"{where}.when: a mapping of keys to values is needed, got {when!r}")
    return {key: tuple(value) if isinstance(value, list) else (value,) for key, value in when.items()}
