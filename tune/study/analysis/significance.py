"""The arithmetic of a study's claims: bootstrap, signed ranks, Holm. The unit is always a subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_SUBJECTS = 8
"""Fewer allow no claim: with 6 a two-sided test of signed ranks can just reach .05, with Holm's correction never."""
MIN_AT_A_SITE = 4
"""Fewer of a site and the bootstrap of a mean over sites, which draws within sites, is far too narrow."""
RESAMPLES = 2000
ALPHA = 0.05


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of p-values, in their order."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    corrected, floor = [1.0] * len(values), 0.0
    for rank, i in enumerate(order):
        floor = max(floor, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = floor
    return corrected


def rank_biserial(differences: Array) -> float:
    """Matched-pairs rank-biserial correlation: 1 where all differences are positive, 0 without any difference."""
    from scipy.stats import rankdata

    there = differences[differences != 0]
    if not there.size:
        return 0.0
    ranks = rankdata(np.abs(there))
    return float((ranks[there > 0].sum() - ranks[there < 0].sum()) / ranks.sum())


def signed_rank(differences: Array) -> float:
    """The p-value of Wilcoxon's signed-rank test, two-sided; 1 without any difference."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


@dataclass(frozen=True)
class Paired:
    """What differences of subjects say; None where subjects are too few for a claim."""

    mean: float
    effect: float
    low: float | None
    high: float | None
    p: float | None


@cache
def paired(differences: tuple[float, ...], strata: tuple[str, ...]) -> Paired:
    """Mean over strata, effect and test of paired differences; the same pairs come again in many tables."""
    values = np.array(differences)
    low, high = means_interval(differences, strata) or (None, None)
    p = signed_rank(values) if len(values) >= MIN_SUBJECTS else None
    return Paired(over_strata(values, strata), rank_biserial(values), low, high, p)


@cache
def means_interval(scores: tuple[float, ...], strata: tuple[str, ...]) -> tuple[float, float] | None:
    """95 % percentile interval of the unweighted mean over strata of their means, subjects drawn within them.

    None where there are too few subjects for it: :data:`MIN_SUBJECTS` in all, :data:`MIN_AT_A_SITE` in a stratum.
    """
    groups, values = _strata(strata), np.array(scores)
    if len(scores) < MIN_SUBJECTS or min(map(len, groups)) < MIN_AT_A_SITE:
        return None
    drawn = sum(_shares(len(own), at) @ values[own] for at, own in enumerate(groups)) / len(groups)
    return _percentiles(np.asarray(drawn))


def over_strata(values: Array, strata: Sequence[str]) -> float:
    """The unweighted mean over strata of the means over their values."""
    return float(np.mean([values[own].mean() for own in _strata(strata)]))


def _strata(strata: Sequence[str]) -> list[list[int]]:
    return [[i for i, one in enumerate(strata) if one == name] for name in sorted(set(strata))]


def _percentiles(drawn: Array) -> tuple[float, float]:
    ordered = np.sort(drawn)

    def at(share: float) -> float:  # as np.percentile does, which takes ten times as long
        below, rest = divmod(share * (len(ordered) - 1), 1)
        return float(ordered[int(below)] * (1 - rest) + ordered[int(below) + 1] * rest)

    return at(0.025), at(0.975)


@cache
def _draws(n: int, stream: int) -> NDArray[np.int64]:
    """Which of n subjects are drawn, one row a resample: the same in every report."""
    return np.random.default_rng([n, stream]).integers(n, size=(RESAMPLES, n))


@cache
def _shares(n: int, stream: int) -> Array:
    """How often each of n subjects is drawn, as a share: a mean of resamples is then a product of matrices."""
    rows = np.repeat(np.arange(RESAMPLES), n)
    counts = np.bincount(rows * n + _draws(n, stream).ravel(), minlength=RESAMPLES * n)
    return counts.reshape(RESAMPLES, n) / n
