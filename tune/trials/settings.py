"""The settings of a sweep: trials that differ only in their seed. The score of a setting is the mean over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedrecon.tune.trials.trial_table import TrialRow

SEED = "seed"
"""The key of an experiment that does not belong to a setting."""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        params: the searched keys with their values, without the seed.
        rows: its finished trials that have a value of the metric, by number. planned: the number of all its trials.
            An experiment that was drawn several times is one trial, the one of the lowest number: it is one seed.
    """

    params: Mapping[str, Any]
    rows: tuple[TrialRow, ...]
    planned: int

    @property
    def complete(self) -> bool:
        """Whether every planned seed has a score: a mean over what is left of them would favour lucky seeds."""
        return len(self.rows) == self.planned

    def over_seeds(self, metric: str) -> tuple[float | None, float | None]:
        """The mean of a metric over seeds and its sample standard deviation; None without a value or with one seed."""
        values = [row.metrics[metric] for row in self.rows if metric in row.metrics]
        if not values or len(values) < len(self.rows):
            return None, None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def as_dict(self, metric: str) -> dict[str, Any]:
        """The setting in JSON types, with the mean and deviation of a metric over its seeds."""
        mean, deviation = self.over_seeds(metric)
        numbers = [row.trial.number for row in self.rows]
        return {"params": dict(self.params), "mean": mean, "deviation": deviation, "trials": numbers}


def settings(rows: Iterable[TrialRow], metric: str) -> list[Setting]:
    """The settings of some trials, in the order of their first trial."""
    groups: dict[str, dict[str, TrialRow]] = {}
    for row in sorted(rows, key=lambda row: row.trial.number):
        own = groups.setdefault(json.dumps(_without_seed(row), sort_keys=True, default=str), {})
        own.setdefault(row.trial.digest, row)
    return [
        Setting(_without_seed(one[0]), tuple(row for row in one if _scored(row, metric)), len(one))
        for one in (list(own.values()) for own in groups.values())
    ]


def best_setting(rows: Iterable[TrialRow], metric: str, mode: str) -> Setting | None:
    """The setting with the best mean of a validation metric over its seeds; None without a score.

    Complete settings come first; if there is none, those with the most seeds. The lowest trial number wins a tie.
    """
    found = [(one, one.over_seeds(metric)[0]) for one in settings(rows, metric)]
    sign = 1.0 if mode == "max" else -1.0
    scored = [(one, sign * mean) for one, mean in found if mean is not None]
    if not scored:
        return None
    n = 0 if any(one.complete for one, _ in scored) else 1
    return max(scored, key=lambda pair: (pair[0].complete, n * len(pair[0].rows), pair[1]))[0]


def _scored(row: TrialRow, metric: str) -> bool:
    return row.status == "FINISHED" and math.isfinite(row.metrics.get(metric, math.nan))


def _without_seed(row: TrialRow) -> dict[str, Any]:
    return {key: value for key, value in row.trial.params.items() if key != SEED}
