"""A table of trials as its readers need it: grouped by problem and method, the best, the mean over seeds, the front.

Nothing is chosen by a test score: whatever decides here is a validation metric.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.scoring.columns import METRIC_LABELS
from fedrecon.tune.search.config import PROBLEM
from fedrecon.tune.trials.planner import short_keys, show

if TYPE_CHECKING:
    import pyarrow

Row = Mapping[str, Any]

ACCELERATION, SCALE, SEED = "params.operator.acceleration", "params.degradation.scale", "params.seed"
LINES = ("params.strategy.name", "params.network.name", "params.operator.mask", "params.degradation.kind")
"""Keys that a line or a colour may stand for, the first that varies; after them any other category."""
MAX_PANELS = 8


def read(trials: pyarrow.Table) -> list[Row]:
    """The rows by their numbers; what is not finite becomes None."""
    rows: list[Row] = [{key: _finite(value) for key, value in row.items()} for row in trials.to_pylist()]
    return sorted(rows, key=lambda row: row["number"])


def searched(rows: Sequence[Row]) -> list[str]:
    """The columns of searched keys."""
    return [key for key in (rows[0] if rows else ()) if key.startswith("params.")]


def varying(rows: Iterable[Row], keys: Iterable[str]) -> list[str]:
    """The keys that have more than one value; a key that is not searched for a trial has none there."""
    rows = list(rows)
    return [key for key in keys if len({text(row[key]) for row in rows if row[key] is not None}) > 1]


def hardness(rows: Iterable[Row]) -> str:
    """The column that says how little was measured: the acceleration, or of super-resolution the scale."""
    return SCALE if any(row.get(SCALE) is not None for row in rows) else ACCELERATION


def is_problem(key: str) -> bool:
    """Whether a column says WHAT is reconstructed: trials that differ there do not compare."""
    return key.removeprefix("params.").split(".")[0] in PROBLEM


def best(rows: Iterable[Row], metric: str, mode: str) -> Row | None:
    """The best trial by the validation metric: of the finished ones or, where none has, of the stopped ones.

    The lower number wins a tie. A failed trial is never the best, nor is one without a value.
    """
    sign = 1 if mode == "max" else -1
    scored = [row for row in rows if row.get(metric) is not None]
    for status in ("FINISHED", "STOPPED"):
        if found := [row for row in scored if row["status"] == status]:
            return max(found, key=lambda row: (sign * row[metric], -row["number"]))
    return None


@dataclass(frozen=True)
class Point:
    """One x of a line.

    Attributes:
        scores: one for each seed. candidates: trials that these were chosen from.
    """

    x: float
    scores: tuple[float, ...]
    candidates: int

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over seeds; NaN of one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else math.nan


def spread(rows: Iterable[Row], x: str, score: str, metric: str, mode: str) -> list[Point]:
    """Scores of finished trials against a key, one a seed: several trials of a seed give their best by validation.

    Args:
        x: the column along which the line goes. score: the column shown. metric, mode: by which the best is chosen.
    """
    groups: dict[float, dict[str, list[Row]]] = {}
    for row in rows:
        at = number(row.get(x))
        if at is not None and row["status"] == "FINISHED" and row.get(score) is not None:
            groups.setdefault(at, {}).setdefault(text(row.get(SEED)), []).append(row)
    points = []
    for at, seeds in sorted(groups.items()):
        chosen = [best(group, metric, mode) or group[0] for group in seeds.values()]
        points.append(Point(at, tuple(row[score] for row in chosen), sum(map(len, seeds.values()))))
    return points


def means(rows: Iterable[Row], x: str, column: str) -> list[tuple[float, float]]:
    """(x, mean) of a column over all rows that have both."""
    groups: dict[float, list[float]] = {}
    for row in rows:
        at = number(row.get(x))
        if at is not None and row.get(column) is not None:
            groups.setdefault(at, []).append(row[column])
    return [(at, statistics.fmean(values)) for at, values in sorted(groups.items())]


def front(points: Sequence[tuple[float, float]], modes: Sequence[str]) -> list[int]:
    """The points that no other one beats in both values, from the best first value to the best second one."""
    first, second = (1 if mode == "max" else -1 for mode in modes)
    order = sorted(range(len(points)), key=lambda i: (-first * points[i][0], -second * points[i][1], i))
    found: list[int] = []
    for i in order:
        if not found or second * points[i][1] > second * points[found[-1]][1]:
            found.append(i)
    return found


def coordinate(values: Sequence[Any], numeric: bool) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Heights in 0..1 on an axis of a parallel plot, and its ticks; what has no value lies below the axis.

    Numbers that are positive and span more than two decades lie on a logarithmic axis, categories one a step.
    """
    below = {"not set": -0.1} if any(value is None for value in values) else {}
    if not numeric:
        order = list(dict.fromkeys(text(value) for value in values if value is not None))
        steps = {name: (i + 0.5) / len(order) for i, name in enumerate(order)}
        shown = dict(list(steps.items())[:: max(1, len(order) // 12)])
        return np.array([-0.1 if value is None else steps[text(value)] for value in values]), shown | below
    found = sorted({n for value in values if (n := number(value)) is not None})
    if not found:
        return np.full(len(values), -0.1), below
    logarithmic = found[0] > 0 and found[-1] / found[0] > 100
    scale = math.log10 if logarithmic else float
    low, high = scale(found[0]), scale(found[-1])

    def height(n: float) -> float:
        return (scale(n) - low) / (high - low) if high > low else 0.5

    marks = found if len(found) <= 6 else [found[0], *_round_marks(found[0], found[-1], logarithmic), found[-1]]
    ticks: dict[str, float] = {}
    for n in sorted(marks, key=lambda n: n not in (found[0], found[-1])):
        if all(abs(height(n) - other) > 0.045 for other in ticks.values()):
            ticks[f"{n:.3g}" if n % 1 else show(int(n))] = height(n)
    return np.array([-0.1 if (n := number(value)) is None else height(n) for value in values]), ticks | below


def _round_marks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers between two bounds."""
    if logarithmic:
        return [10.0**e for e in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def number(value: Any) -> float | None:
    """The value as a finite number, or None; a table with mixed types holds numbers as text."""
    try:
        return None if isinstance(value, bool) else _finite(float(value))
    except (TypeError, ValueError):
        return None


def text(value: Any) -> str:
    """The value as people write it; a dash for none."""
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    return "–" if value is None else show(value)


def label(metric: str) -> str:
    """A metric in words, with its unit: ``test/mean/psnr`` is ``test PSNR (dB)``."""
    *path, name = metric.split("/")
    test = path[:1] == ["test"]
    words = [f"{'test' if test else 'validation'} {METRIC_LABELS.get(name, name)}"]
    path = path[1:] if test else path
    if path[:1] == ["site"]:
        words.append(path[1])
    words += [part.replace("_", " ").replace("zero f", "zero-f") for part in path[1 + (path[:1] == ["site"]) :]]
    return ", ".join(words)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class GroupedTrials:
    """A table of trials, and how its pictures group and colour them.

    Attributes:
        line: the column that a colour stands for, or None. groups: its values, in the order of the trials;
            a single empty one where there is no line.
        names: of the columns of searched keys, short.
    """

    rows: Sequence[Row]
    metrics: Sequence[str]
    modes: Sequence[str]
    keys: Sequence[str]
    line: str | None
    groups: Sequence[str]
    names: Mapping[str, str]

    @classmethod
    def of(cls, rows: Sequence[Row], metrics: Sequence[str], modes: Sequence[str]) -> GroupedTrials:
        """Chooses the lines: strategy, network or mask, or the category with the most values."""
        keys = searched(rows)
        free = [key for key in varying(rows, keys) if key not in (ACCELERATION, SCALE, SEED)]
        counts = {key: len({text(row[key]) for row in rows}) for key in free if not is_numeric(rows, key)}
        named = [key for key in LINES if key in free]
        line = named[0] if named else max(counts, key=lambda key: counts[key], default=None)
        groups = list(dict.fromkeys(text(row[line]) for row in rows)) if line else [""]
        return cls(rows, metrics, modes, keys, line, groups, names(keys))

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return self.metrics[0]

    @property
    def mode(self) -> str:
        """Of the metric that decides."""
        return self.modes[0]

    def score(self, row: Row, metric: str | None = None) -> float | None:
        """A validation value that counts: of a finished or stopped trial."""
        return row.get(metric or self.metric) if row["status"] in ("FINISHED", "STOPPED") else None

    def group(self, row: Row) -> str:
        """What its colour stands for."""
        return text(row[self.line]) if self.line else ""

    def lines(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """Rows by their group, in the order of the groups."""
        found = {group: [row for row in rows if self.group(row) == group] for group in self.groups}
        return {group: own for group, own in found.items() if own}

    def panels(self, rows: Sequence[Row], but: Sequence[str] = ()) -> dict[str, list[Row]]:
        """Rows by their problem, as each problem gets its own axes; all in one where there are too many."""
        keys = [key for key in varying(rows, self.keys) if is_problem(key) and key not in (*but, self.line)]
        found: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
        if len(found) > MAX_PANELS:
            return {"": list(rows)}
        order = sorted(found, key=lambda values: [(number(one) or 0.0, text(one)) for one in values])
        return {
            ", ".join(f"{self.names[key]} {text(value)}" for key, value in zip(keys, values, strict=True)): found[
                values
            ]
            for values in order
        }

    def mixed_problems(self, panels: Mapping[str, Sequence[Row]], but: Sequence[str] = ()) -> str:
        """A warning where different problems share their axes, or nothing."""
        inside = {key for panel in panels.values() for key in varying(panel, self.keys) if is_problem(key)}
        differ = [self.names[key] for key in self.keys if key in inside and key not in (*but, self.line)]
        return f" More than {MAX_PANELS} problems share these axes, different in {', '.join(differ)}." if differ else ""


def names(keys: Sequence[str]) -> dict[str, str]:
    """Columns of searched keys and their short names."""
    plain = [key.removeprefix("params.") for key in keys]
    return dict(zip(keys, short_keys(dict.fromkeys(plain)), strict=True))


def is_numeric(rows: Iterable[Row], key: str) -> bool:
    """Whether all values of a column are numbers."""
    return all(number(row[key]) is not None for row in rows if row[key] is not None)
