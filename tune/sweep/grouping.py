"""Groups a sweep's trials for the figures and the page: by problem and method, best trial, mean over seeds, front.

Only validation metrics decide which trial is best. Test scores decide nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.score_columns import METRIC_LABELS
from fedrecon.tune.search.config import PROBLEM
from fedrecon.tune.trials.planner import short_keys, show

if TYPE_CHECKING:
    import pyarrow

Row = Mapping[str, Any]

ACCELERATION, SCALE, SEED = "params.operator.acceleration", "params.degradation.scale", "params.seed"
LINES = ("params.strategy.name", "params.network.name", "params.operator.mask", "params.degradation.kind")
"""Keys that lines and colours may show, in order of preference: the first key that varies is used.

If none of them varies, another category is used.
"""
MAX_PANELS = 8


def read(trials: pyarrow.Table) -> list[Row]:
    """The rows, sorted by trial number. A float that is not finite becomes None.

    An experiment that was drawn several times is one row, the one of the lowest number: a figure would count it twice.
    """
    rows: list[Row] = [{key: _finite(value) for key, value in row.items()} for row in trials.to_pylist()]
    found: dict[tuple[str, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row["number"]):
        found.setdefault((text(row.get("digest", row["number"])), *(text(row[key]) for key in searched([row]))), row)
    return list(found.values())


def searched(rows: Sequence[Row]) -> list[str]:
    """The columns of searched keys."""
    return [key for key in (rows[0] if rows else ()) if key.startswith("params.")]


def varying(rows: Iterable[Row], keys: Iterable[str]) -> list[str]:
    """The keys with more than one value. A trial for which a key was not searched has no value (None) for it."""
    rows = list(rows)
    return [key for key in keys if len({text(row[key]) for row in rows if row[key] is not None}) > 1]


def hardness(rows: Iterable[Row]) -> str:
    """The column of the degree of undersampling: the acceleration, or the scale in super-resolution."""
    return SCALE if any(row.get(SCALE) is not None for row in rows) else ACCELERATION


def is_problem(key: str) -> bool:
    """Whether a column says WHAT is reconstructed. Trials with different values there cannot be compared."""
    return key.removeprefix("params.").split(".")[0] in PROBLEM


def best(rows: Iterable[Row], metric: str, mode: str) -> Row | None:
    """The best trial by the validation metric.

    Finished trials come first. If no finished trial has a value, the best stopped trial is taken. The lower trial
    number wins a tie. A failed trial, or a trial without a value, is never the best.

    Returns:
        the row of the best trial; None if no finished or stopped trial has a value.
    """
    sign = 1 if mode == "max" else -1
    scored = [row for row in rows if row.get(metric) is not None]
    for status in ("FINISHED", "STOPPED"):
        if found := [row for row in scored if row["status"] == status]:
            return max(found, key=lambda row: (sign * row[metric], -row["number"]))
    return None


@dataclass(frozen=True)
class Point:
    """One point of a line, at one x.

    Attributes:
        x: the position on the x axis. scores: one score per seed.
        candidates: the number of trials from which the scores were chosen.
    """

    x: float
    scores: tuple[float, ...]
    candidates: int

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over seeds; NaN for a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else math.nan


def spread(rows: Iterable[Row], x: str, score: str, metric: str, mode: str) -> list[Point]:
    """Scores of finished trials against a key, with one score per seed at each x.

    If a seed has several trials at one x, the trial with the best validation metric is taken.

    Args:
        x: the column on the x axis. score: the column of the shown scores.
        metric, mode: the validation metric that chooses the best trial, and ``max`` or ``min``.
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


def off_axis(rows: Iterable[Row], key: str) -> str:
    """A note on the trials whose value of a key is no number, such as a mix of accelerations; else an empty text."""
    n = sum(row.get(key) is not None and number(row[key]) is None for row in rows)
    return f" Left out: {n} trial{'s' * (n != 1)} over a mix of values." if n else ""


def means(rows: Iterable[Row], x: str, column: str) -> list[tuple[float, float]]:
    """(x, mean of a column) over all rows that have a value in both columns."""
    groups: dict[float, list[float]] = {}
    for row in rows:
        at = number(row.get(x))
        if at is not None and row.get(column) is not None:
            groups.setdefault(at, []).append(row[column])
    return [(at, statistics.fmean(values)) for at, values in sorted(groups.items())]


def front(points: Sequence[tuple[float, float]], modes: Sequence[str]) -> list[int]:
    """The indices of the points that no other point beats in both values (the Pareto front).

    They are sorted from the best first value to the best second value.
    """
    first, second = (1 if mode == "max" else -1 for mode in modes)
    order = sorted(range(len(points)), key=lambda i: (-first * points[i][0], -second * points[i][1], i))
    found: list[int] = []
    for i in order:
        if not found or second * points[i][1] > second * points[found[-1]][1]:
            found.append(i)
    return found


def coordinate(values: Sequence[Any], numeric: bool) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Heights in 0..1 on an axis of a parallel plot, and the heights of its ticks by label.

    A missing value lies below the axis, at -0.1. Positive numbers that span more than two decades lie on a logarithmic
    axis. Categories are evenly spaced.
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
    digits = _digits(marks, height)
    for n in sorted(marks, key=lambda n: n not in (found[0], found[-1])):
        if all(abs(height(n) - other) > 0.045 for other in ticks.values()):
            ticks[f"{n:.{digits}g}" if n % 1 else show(int(n))] = height(n)
    return np.array([-0.1 if (n := number(value)) is None else height(n) for value in values]), ticks | below


def _digits(marks: Sequence[float], height: Callable[[float], float]) -> int:
    """The digits with which each mark's label is where the mark stands, to a hundredth of the axis; three at least."""
    exact = (all(abs(height(float(f"{n:.{d}g}")) - height(n)) < 0.01 for n in marks) for d in range(3, 17))
    return next((d for d, one in enumerate(exact, 3) if one), 17)


def _round_marks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers between two bounds."""
    if logarithmic:
        return [10.0**e for e in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def number(value: Any) -> float | None:
    """The value as a finite number, or None. Text is converted: a column of mixed types holds numbers as text."""
    try:
        return None if isinstance(value, bool) else _finite(float(value))
    except (TypeError, ValueError):
        return None


def text(value: Any) -> str:
    """The value as text for people; a dash for None."""
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    return "–" if value is None else show(value)


def label(metric: str) -> str:
    """A metric in words, with its unit: ``test/mean/psnr`` is ``test PSNR (dB)``."""
    *path, name = metric.split("/")
    test = path[:1] == ["test"]
    split = "test" if test else "training" if name == "loss" else "validation"  # the loss is that of the members' fits
    parts = [f"{split} {METRIC_LABELS.get(name, name)}"]
    path = path[1:] if test else path
    if path[:1] == ["site"]:
        parts.append(path[1])
    parts += [part.replace("_", " ").replace("zero f", "zero-f") for part in path[1 + (path[:1] == ["site"]) :]]
    return ", ".join(parts)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class GroupedTrials:
    """The trials of a sweep, with their groups and colours in the figures.

    Attributes:
        rows: the trials. metrics: the validation metrics. modes: ``max`` or ``min``, one for each metric.
        keys: the columns of the searched keys.
        line: the column that lines and colours show, or None.
        groups: the values of that column, in the order of the trials; one empty group if ``line`` is None.
        names: the short names of the columns of searched keys.
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
        """Groups trials by the first key of :data:`LINES` that varies, else by the category with the most values."""
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
        """``max`` or ``min``, for the metric that decides."""
        return self.modes[0]

    def score(self, row: Row, metric: str | None = None) -> float | None:
        """The validation value of a finished or stopped trial; None for any other trial."""
        return row.get(metric or self.metric) if row["status"] in ("FINISHED", "STOPPED") else None

    def group(self, row: Row) -> str:
        """The group of a row, which sets its colour."""
        return text(row[self.line]) if self.line else ""

    def lines(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """The rows of each group, in the order of the groups. Groups without rows are left out."""
        found = {group: [row for row in rows if self.group(row) == group] for group in self.groups}
        return {group: own for group, own in found.items() if own}

    def problems(self, panel: Sequence[Row]) -> list[tuple[str | None, Sequence[Row]]]:
        """The rows of a panel that may be compared, with their group; None stands for all.

        Each group stands apart if groups differ in the mask or the degradation.
        """
        return [*self.lines(panel).items()] if self.line and is_problem(self.line) else [(None, panel)]

    def panels(self, rows: Sequence[Row], but: Sequence[str] = ()) -> dict[str, list[Row]]:
        """The rows of each problem, because each problem gets its own axes.

        With more than :data:`MAX_PANELS` problems, all rows share one panel.

        Args:
            but: columns that do not separate problems here.
        """
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
        """A warning if different problems share their axes, else an empty text."""
        inside = {key for panel in panels.values() for key in varying(panel, self.keys) if is_problem(key)}
        differ = [self.names[key] for key in self.keys if key in inside and key not in (*but, self.line)]
        return f" More than {MAX_PANELS} problems share these axes, different in {', '.join(differ)}." if differ else ""


def names(keys: Sequence[str]) -> dict[str, str]:
    """The short name of each column of a searched key."""
    plain = [key.removeprefix("params.") for key in keys]
    return dict(zip(keys, short_keys(dict.fromkeys(plain)), strict=True))


def is_numeric(rows: Iterable[Row], key: str) -> bool:
    """Whether all values of a column are numbers."""
    return all(number(row[key]) is not None for row in rows if row[key] is not None)
