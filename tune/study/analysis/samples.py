"""Scores of subjects by seed, as data frames, and the ways to combine them. A mean with a missing part is missing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.study.analysis.significance import Array, Rows, means_interval, over_strata

Subject = tuple[str, str]
"""Site and name of a subject. The same name at two sites is the same person, as in the splits of a consortium."""
NO_SEED = -1
"""The seed of a score if nothing random was trained, and of a mean over seeds."""
ROWS, COLUMNS = ("site", "subject"), ("metric", "seed")
EMPTY = pd.DataFrame(
    index=pd.MultiIndex.from_product([[], []], names=ROWS), columns=pd.MultiIndex.from_product([[], []], names=COLUMNS)
)


@dataclass(frozen=True, eq=False)
class Sample:
    """The scores of one method. Nothing in the frame is missing: a site without complete scores has no rows.

    Attributes:
        scores: one row per subject of the complete sites, sorted by (site, subject); one column per (metric, seed), in
            the order of :data:`METRICS` and of the seeds. PSNR is in dB, SSIM and NMSE have no unit.
        missing: the sites without complete scores, each with the reason.
        runs: the runs that made the scores.
    """

    scores: pd.DataFrame
    missing: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """The subjects of the complete sites, in the order of the rows."""
        return tuple(self.scores.index.tolist())

    @cached_property
    def sites(self) -> list[str]:
        """The sites with complete scores."""
        return sorted({site for site, _ in self.subjects})

    @property
    def reason(self) -> str:
        """The reasons for missing scores; empty if no score is missing."""
        return "; ".join(f"{site}: {why}" for site, why in sorted(self.missing.items()))

    def by_seed(self, metric: str) -> Array:
        """The scores of a metric, of shape (seeds, subjects)."""
        return np.ascontiguousarray(self._cube[[*METRICS].index(metric)])

    @cached_property
    def _cube(self) -> Array:
        """The scores as an array of shape (metrics, seeds, subjects); it takes a hundredth of a frame's time."""
        values: Array = self.scores.to_numpy(float)
        return values.T.reshape(len(METRICS), -1, len(self.scores))

    @property
    def n_seeds(self) -> int | None:
        """The number of seeds; None for a method that trained nothing random."""
        seeds = self.scores.columns.get_level_values("seed").unique()
        return None if list(seeds) == [NO_SEED] else len(seeds)

    def rows(self, metric: str) -> Rows:
        """The scores of a metric as plain numbers, one row per seed."""
        return tuple(map(tuple, self.by_seed(metric).tolist()))

    def by_subject(self, metric: str = "psnr") -> dict[Subject, float]:
        """The score of each subject, as the mean over seeds."""
        each = self.by_seed(metric).mean(axis=0).tolist() if self.subjects else []
        return dict(zip(self.subjects, each, strict=True))

    def at(self, sites: Iterable[str]) -> Sample:
        """The sample with only these sites."""
        wanted = set(sites)
        keep = [site in wanted for site, _ in self.subjects]
        missing = {site: why for site, why in self.missing.items() if site in wanted}
        return Sample(self.scores if all(keep) else self.scores[keep], missing, self.runs)


def absent(site: str, reason: str) -> Sample:
    """A sample of one site that has no scores."""
    return Sample(EMPTY, {site: reason})


def joined(samples: Sequence[Sample]) -> Sample:
    """One sample of several: the same method at different sites."""
    present = [sample.scores for sample in samples if sample.subjects]
    missing = {site: why for sample in samples for site, why in sample.missing.items()}
    scores = pd.concat(present).sort_index() if len(present) > 1 else present[0] if present else EMPTY
    return Sample(scores, missing, _runs(samples))


def averaged(samples: Sequence[Sample]) -> Sample:
    """The mean of several samples of one method, for example of one sample per operator.

    At each site the mean covers the samples that have the site. If every site has its own operator, this is one sample.
    A site is missing if it is missing in one of the samples; the reason is that of the first one.

    Raises:
        ValueError: at one site the samples differ in subjects or seeds.
    """
    missing: dict[str, str] = {}
    for sample in samples:
        missing = {**sample.missing, **missing}
    means = []
    for site in sorted({site for sample in samples for site in sample.sites} - missing.keys()):
        own = [sample.at([site]) for sample in samples if site in sample.sites]
        mean = own[0].scores
        if len(own) > 1:
            mean = pd.DataFrame(np.mean([one.to_numpy() for one in _alike(own)], axis=0), mean.index, mean.columns)
        means.append(Sample(mean, {}, _runs(own)))
    whole = joined(means)
    return replace(whole, missing=missing)


def difference(one: Sample, other: Sample) -> Sample:
    """The first sample minus the second, at the sites that both cover.

    Raises:
        ValueError: the samples differ in subjects or seeds.
    """
    shared = {*one.sites, *one.missing} & {*other.sites, *other.missing}
    missing = {site: why for site, why in {**other.missing, **one.missing}.items() if site in shared}
    parts = [sample.at(shared - missing.keys()) for sample in (one, other)]
    if not parts[0].subjects:
        return Sample(EMPTY, missing, _runs(parts))
    first, second = _alike(parts)
    return Sample(first - second, missing, _runs(parts))


def over_seeds(sample: Sample) -> Sample:
    """The sample with its mean over seeds as its only seed, because two methods can have different seeds."""
    if not sample.subjects:
        return sample
    columns = pd.MultiIndex.from_product([METRICS, [NO_SEED]], names=COLUMNS)
    means = np.stack([sample.by_seed(metric).mean(axis=0) for metric in METRICS], axis=1)
    return replace(sample, scores=pd.DataFrame(means, sample.scores.index, columns))


def _alike(samples: Sequence[Sample]) -> list[pd.DataFrame]:
    """The frames of samples with the same rows and columns, so that arithmetic can make no hole.

    Raises:
        ValueError: the samples differ in subjects or seeds.
    """
    frames = [sample.scores for sample in samples]
    if any(not (one.index.equals(frames[0].index) and one.columns.equals(frames[0].columns)) for one in frames[1:]):
        raise ValueError(f"samples differ in subjects or seeds: {[(list(one.index), list(one)) for one in frames]}")
    return frames


def _runs(samples: Iterable[Sample]) -> tuple[str, ...]:
    return tuple(sorted({run for sample in samples for run in sample.runs}))


@dataclass(frozen=True)
class Estimate:
    """A mean with its spread and its interval. If scores are missing, there is only ``n`` and the reason.

    Attributes:
        mean: the mean over sites. The value of a site is the mean over its subjects, that of a subject the mean over
            seeds.
        seeds: the standard deviation of the seeds' means; None with one seed.
        subjects: the standard deviation over all subjects of their means over seeds; None with one subject.
        low, high: the 95 % bootstrap interval over seeds x subjects (over subjects of these very networks with fewer
            than :data:`MIN_SEEDS` seeds); None with too few subjects, or if a person was scanned at several sites.
        n: the number of persons. If scores are missing, it is the number of subjects at the complete sites.
        reason: the reason why the mean is missing.
    """

    mean: float | None
    seeds: float | None = None
    subjects: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str = ""


def estimate(sample: Sample, metric: str = "psnr") -> Estimate:
    """The estimate of a metric. The mean over sites is unweighted: a hospital with many patients counts once."""
    if sample.missing or not sample.subjects:
        return Estimate(None, n=len(sample.subjects), reason=sample.reason or "not run")
    strata = tuple(site for site, _ in sample.subjects)
    scores = sample.by_seed(metric)
    each = scores.mean(axis=0)
    of_seeds = [over_strata(row, strata) for row in scores]
    n_people = len({name for _, name in sample.subjects})
    once = n_people == len(each)  # a person with scans at several sites is not an independent draw
    low, high = (means_interval(sample.rows(metric), strata) if once else None) or (None, None)
    return Estimate(
        over_strata(each, strata),
        statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
        float(np.std(each, ddof=1)) if len(each) > 1 else None,
        low,
        high,
        n_people,
    )
