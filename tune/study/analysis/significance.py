"""The arithmetic of a study's tests: bootstrap over seeds and subjects, signed ranks, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_SUBJECTS = 8
"""The smallest number of subjects for a p-value or an interval.

With 6 subjects the smallest p-value of a two-sided signed-rank test is 2/64 = .031, which is just below
.05. If all comparisons have 6 subjects, Holm's correction over two or more of them raises it above .05.
"""
MIN_AT_A_SITE = 4
"""The smallest number of subjects at each site for an interval of a mean over sites.

The bootstrap draws within sites. With fewer subjects at a site its interval is far too narrow.
"""
MIN_SEEDS = 3
"""The smallest number of seeds of a trained method for a claim about the method.

With fewer seeds a p-value is about these very networks: trained again, close methods may change places.
"""
RESAMPLES = 2000
"""The number of bootstrap resamples."""
ALPHA = 0.05
"""The significance level, after Holm's correction."""


def holm(values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction, in the given order (Holm, Scand. J. Stat. 6:65, 1979)."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    corrected, floor = [1.0] * len(values), 0.0
    for rank, i in enumerate(order):
        floor = max(floor, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = floor
    return corrected


def rank_biserial(differences: Array) -> float:
    """Matched-pairs rank-biserial correlation: 1 if all differences are positive, 0 if all are zero."""
    from scipy.stats import rankdata

    nonzero = differences[differences != 0]
    if not nonzero.size:
        return 0.0
    ranks = rankdata(np.abs(nonzero))
    return float((ranks[nonzero > 0].sum() - ranks[nonzero < 0].sum()) / ranks.sum())


def signed_rank(differences: Array) -> float:
    """The p-value of Wilcoxon's signed-rank test, two-sided; 1 if all differences are zero."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


Rows = tuple[tuple[float, ...], ...]
"""Scores of one method: one row for each seed, one column for each subject."""


@dataclass(frozen=True)
class Paired:
    """The result of a paired test over subjects.

    Attributes:
        mean: the unweighted mean over strata of their mean differences. effect: the rank-biserial correlation.
        p: the p-value of the signed-rank test; None with too few subjects.
    """

    mean: float
    effect: float
    p: float | None


@cache
def paired(differences: tuple[float, ...], strata: tuple[str, ...]) -> Paired:
    """Mean, effect size and test of paired differences. Results are cached: many tables have the same pairs."""
    values = np.array(differences)
    p = signed_rank(values) if len(values) >= MIN_SUBJECTS else None
    return Paired(over_strata(values, strata), rank_biserial(values), p)


@cache
def means_interval(scores: Rows, strata: tuple[str, ...], minus: Rows = ()) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the unweighted mean over strata, over seeds x subjects.

    A resample draws subjects within strata, and seeds. Every subject keeps its scores under all drawn seeds, and the
    two sides of a difference have the same drawn subjects, but seeds of their own. A method with fewer than
    :data:`MIN_SEEDS` seeds has no draw of seeds: its interval is over subjects, of these very networks. The deviations
    of n seeds are widened by sqrt(n / (n - 1)), because the bootstrap's variance of a mean of n values is too small by
    (n - 1) / n (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 2.3).

    Args:
        scores: the scores, one row per seed. strata: the stratum of each subject.
        minus: the scores that are subtracted; empty subtracts nothing.

    Returns:
        None with too few subjects: fewer than :data:`MIN_SUBJECTS` in all, or :data:`MIN_AT_A_SITE` in a stratum.
    """
    groups = _strata(strata)
    if len(strata) < MIN_SUBJECTS or min(map(len, groups)) < MIN_AT_A_SITE:
        return None
    drawn = _drawn(scores, groups, 1)
    return _percentiles(drawn - _drawn(minus, groups, 2) if minus else drawn)


def _drawn(scores: Rows, groups: Sequence[Sequence[int]], stream: int) -> Array:
    """The mean over strata in each resample, (resamples,): the drawn mean plus the drawn deviations of the seeds."""
    values = np.array(scores)
    n, mean = len(values), values.mean(axis=0, keepdims=True)
    parts = np.concatenate([mean, (values - mean) * np.sqrt(n / max(n - 1, 1))]) if n >= MIN_SEEDS else mean
    over = sum(_shares(len(own), at) @ parts[:, own].T for at, own in enumerate(groups)) / np.float64(len(groups))
    seeds = (_shares(n, -stream) * over[:, 1:]).sum(axis=1) if n >= MIN_SEEDS else 0.0
    return np.asarray(over[:, 0] + seeds)


def over_strata(values: Array, strata: Sequence[str]) -> float:
    """The unweighted mean over strata of their means."""
    return float(np.mean([values[own].mean() for own in _strata(strata)]))


def _strata(strata: Sequence[str]) -> list[list[int]]:
    return [[i for i, one in enumerate(strata) if one == name] for name in sorted(set(strata))]


def _percentiles(drawn: Array) -> tuple[float, float]:
    ordered = np.sort(drawn)

    def at(share: float) -> float:  # the same result as np.percentile, in a tenth of the time
        below, rest = divmod(share * (len(ordered) - 1), 1)
        return float(ordered[int(below)] * (1 - rest) + ordered[int(below) + 1] * rest)

    return at(0.025), at(0.975)


@cache
def _draws(n: int, stream: int) -> NDArray[np.int64]:
    """The indices of the drawn subjects (of seeds: a negative stream), (resamples, n). All reports have the same."""
    return np.random.default_rng([n, stream] if stream >= 0 else [n, -stream, 1]).integers(n, size=(RESAMPLES, n))


@cache
def _shares(n: int, stream: int) -> Array:
    """The share of each subject or seed in each resample, of shape (resamples, n)."""
    rows = np.repeat(np.arange(RESAMPLES), n)
    counts = np.bincount(rows * n + _draws(n, stream).ravel(), minlength=RESAMPLES * n)
    return counts.reshape(RESAMPLES, n) / n
