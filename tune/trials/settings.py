"""The settings of a sweep: trials that differ only in their seed. The score of a setting is the mean over seeds.

Only means over the same sites are compared (:func:`comparable`).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedrecon.sites.errors import listed
from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.trials.trial_table import TrialRow

SEED = "seed"
"""The key of an experiment that does not belong to a setting."""

VALIDATION, TEST = "", "test/"
"""What the names of the scores of validation and of test subjects begin with."""


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


def comparable(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The rows without a mean over fewer sites than that of other trials. Trials of other ``sites`` are apart.

    A run with ``resources.min_sites`` ends without a site that died. Where that was the hardest one, its mean over the
    sites that are left is higher and says nothing. Such a row has no means, and its ``error`` says why.
    """
    rows = list(rows)
    if all(row.trial.experiment.resources.min_sites is None for row in rows):  # a run that lost a site has stopped
        return rows
    asked = [_asked(row) for row in rows]
    scored = [
        {subjects: sites_of(row.metrics if _ended(row) else (), subjects) for subjects in (VALIDATION, TEST)}
        for row in rows
    ]
    known: dict[str, dict[str, set[str]]] = {one: {VALIDATION: set(), TEST: set()} for one in asked}
    for sites, own in zip(asked, scored, strict=True):
        for subjects, names in own.items():
            known[sites][subjects] |= names
    return [_without_means(row, own, known[sites]) for row, own, sites in zip(rows, scored, asked, strict=True)]


def among(row: TrialRow, rows: Iterable[TrialRow]) -> TrialRow:
    """A row as :func:`comparable` leaves it among all rows."""
    return next((one for one in comparable(rows) if one.trial.number == row.trial.number), row)


def lost_sites(row: TrialRow) -> bool:
    """Whether :func:`comparable` left a row without a mean: no other finished row has an ``error``."""
    return _ended(row) and bool(row.error)


def left_out(rows: Iterable[TrialRow]) -> str:
    """The trials that :func:`comparable` left without a mean, in one line; empty without one."""
    texts = [f"trial {row.trial.number}: {row.error}" for row in rows if lost_sites(row)]
    return f"A site died: {listed(texts, 6)}. Such a mean does not compare with one over all sites." if texts else ""


def settings(rows: Iterable[TrialRow], metric: str) -> list[Setting]:
    """The settings of some trials, in the order of their first trial."""
    groups: dict[str, dict[str, TrialRow]] = {}
    for row in sorted(comparable(rows), key=lambda row: row.trial.number):
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


def _asked(row: TrialRow) -> str:
    """The searched values that say at which sites a trial is scored, as JSON; trials that differ in them are apart."""
    places = ("sites", "test.sites")
    own = {key: one for key, one in row.trial.params.items() if key == "test" or key.startswith(places)}
    return json.dumps(own, sort_keys=True, default=str)


def sites_of(metrics: Iterable[str], subjects: str) -> set[str]:
    """The sites whose validation or test subjects these metrics score. Losses are of members, not of sites.

    Args:
        metrics: names of metrics. subjects: :data:`VALIDATION` or :data:`TEST`.
    """
    head = f"{subjects}site/"
    named = (key.removeprefix(head).split("/") for key in metrics if key.startswith(head))
    return {site for site, *metric in named if metric[-1:] and metric[-1] in METRICS}


def _without_means(row: TrialRow, own: Mapping[str, set[str]], every: Mapping[str, set[str]]) -> TrialRow:
    """The row without the means over fewer sites than ``every``. Both hold the sites of either kind of subjects."""
    lost = {subjects: every[subjects] - names for subjects, names in own.items() if names and names != every[subjects]}
    if not lost:
        return row
    heads = tuple(f"{subjects}mean/" for subjects in lost)
    names = sorted({name for one in lost.values() for name in one})
    of = " and ".join("test" if subjects == TEST else "validation" for subjects in lost)
    why = f"no mean of {of} subjects, because {', '.join(names)} {'was' if len(names) == 1 else 'were'} not scored"
    return replace(row, metrics={key: row.metrics[key] for key in row.metrics if not key.startswith(heads)}, error=why)


def _ended(row: TrialRow) -> bool:
    return row.status == "FINISHED"


def _scored(row: TrialRow, metric: str) -> bool:
    return _ended(row) and math.isfinite(row.metrics.get(metric, math.nan))


def _without_seed(row: TrialRow) -> dict[str, Any]:
    return {key: value for key, value in row.trial.params.items() if key != SEED}
