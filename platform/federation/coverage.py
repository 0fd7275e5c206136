"""How far a spread can be believed: its temperature from validation subjects, and how often the error lies within it.

A method may tell the spread of its error (:meth:`fedrecon.strategies.strategy.Strategy.spread`). Its samples usually
differ less than they are wrong. So the spread is multiplied by ONE factor for all sites, the temperature T, with

    T^2 = mean over the sites of  (sum of squared errors) / (sum of squared spreads)

over the object's pixels of the site's validation subjects. Test subjects never take part. See docs/decisions/034.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np

from fedrecon.sites.score_columns import NOMINAL, SPREADS
from fedrecon.sites.wire import TEMPERATURE, TrainRequest

Columns = Mapping[str, Sequence[Any]]


def temperature(columns: Columns) -> float | None:
    """T from the scores of validation subjects under a request without a temperature.

    None where there is nothing to find it from: no spread, no validation subjects, or samples that do not differ.
    """
    sites = _sums(columns, ("site",)).values()
    if not sites or not all(one["object_squared_spread"] > 0 for one in sites):
        return None
    ratios = [one["object_squared_error"] / one["object_squared_spread"] for one in sites]
    return math.sqrt(np.mean(ratios))


def calibrated(request: TrainRequest, factor: float | None) -> TrainRequest:
    """The request for scores with the temperature; the request itself if there is none."""
    if factor is None:
        return request
    return replace(request, extra={**request.extra, TEMPERATURE: np.array([factor], np.float32)})


def coverage(columns: Columns, keys: Sequence[str] = ("site",)) -> dict[tuple[Any, ...], dict[str, Any]]:
    """How often the error lies within one and within two spreads, for each group of slices.

    Args:
        columns: columns of scores. keys: the columns whose values make a group.

    Returns:
        by group, ``within_1`` and ``within_2`` (fractions of the object's pixels), ``n_pixels`` and ``against``: what
        the error is of, ``truth``, ``measured`` or ``both``. Empty without a spread.
    """
    found = {}
    for group, one in _sums(columns, keys).items():
        shares = {name: one[name] / one["object_pixels"] for name in NOMINAL}
        found[group] = {**shares, "n_pixels": int(one["object_pixels"]), "against": one["against"]}
    return found


def mean_coverage(sites: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The unweighted mean over the sites of what :func:`coverage` found."""
    against = {one["against"] for one in sites}
    return {
        **{name: float(np.mean([one[name] for one in sites])) for name in NOMINAL},
        "n_pixels": sum(one["n_pixels"] for one in sites),
        "against": against.pop() if len(against) == 1 else "both",
    }


def uncertainty(factor: float | None) -> dict[str, Any]:
    """What a result with a spread says beside it: the temperature, and the shares of a normal distribution."""
    return {"temperature": factor, "nominal": dict(NOMINAL)}


def coverage_metrics(summary: Mapping[str, Any], factor: float | None) -> dict[str, float]:
    """The coverage of test subjects and the temperature, by their names in MLflow."""
    found = summary["mean"].get("coverage", {})
    shares = {f"test/mean/{name}": found[name] for name in NOMINAL if found}
    return shares | ({"test/temperature": factor} if found and factor is not None else {})


def in_words(found: Mapping[str, Any]) -> str:
    """One line about :func:`uncertainty`; empty without a spread."""
    if not found:
        return ""
    nominal = " and ".join(f"{100 * share:.1f} %" for share in found["nominal"].values())
    factor = found["temperature"]
    missing = "not calibrated: there are no validation subjects, or the samples of a site do not differ"
    how = missing if factor is None else f"times {factor:.2f}, the temperature"
    return f"spread: {how}; of a normal distribution {nominal} lie within 1 and 2"


def _sums(columns: Columns, keys: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The sums of :data:`SPREADS` over the slices of each group that have a spread."""
    if not all(name in columns for name in SPREADS):
        return {}
    told = [count > 0 for count in columns["object_pixels"]]
    groups = list(compress(zip(*(columns[key] for key in keys), strict=True), told))
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, kind in SPREADS.items():
        for group, value in zip(groups, compress(columns[name], told), strict=True):
            own = found.setdefault(group, {})
            if kind == "string":
                own[name] = value if own.get(name, value) == value else "both"
            else:
                own[name] = own.get(name, 0) + value
    return found
