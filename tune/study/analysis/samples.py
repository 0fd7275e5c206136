"""Scores of subjects by seed, and the ways to combine them. A mean with a missing part is missing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.study.analysis.significance import Array, means_interval, over_strata

Subject = tuple[str, str]
"""Site and name of a subject. The same name at two sites is the same person, as in the splits of a consortium."""
Seed = int | None
"""The seed of a training; None if nothing random was trained."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The scores of one method: for each metric an array of shape (seeds, subjects).

    Attributes:
        seeds: the seeds; None without training.
        subjects: the sorted subjects of the complete sites.
        values: the arrays by metric.
        missing: the sites without complete scores, each with the reason.
        runs: the runs that made the scores.
    """

    seeds: tuple[Seed, ...]
    subjects: tuple[Subject, ...]
    values: Mapping[str, Array]
    missing: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    @property
    def sites(self) -> list[str]:
        """The sites with complete scores."""
        return sorted({site for site, _ in self.subjects})

    @property
    def reason(self) -> str:
        """The reasons for missing scores; empty if no score is missing."""
        return "; ".join(f"{site}: {why}" for site, why in sorted(self.missing.items()))

    def by_subject(self, metric: str = "psnr") -> dict[Subject, float]:
        """The score of each subject, as the mean over seeds."""
        each = self.values[metric].mean(axis=0).tolist() if self.subjects else []
        return dict(zip(self.subjects, each, strict=True))

    def at(self, sites: Iterable[str]) -> Sample:
        """The sample with only these sites."""
        wanted = set(sites)
        keep = [i for i, (site, _) in enumerate(self.subjects) if site in wanted]
        values = {metric: array[:, keep] for metric, array in self.values.items()}
        missing = {site: why for site, why in self.missing.items() if site in wanted}
        return Sample(self.seeds, tuple(self.subjects[i] for i in keep), values, missing, self.runs)


def absent(site: str, reason: str) -> Sample:
    """A sample of one site that has no scores."""
    return Sample((), (), {metric: np.empty((0, 0)) for metric in METRICS}, {site: reason})


def joined(samples: Sequence[Sample]) -> Sample:
    """One sample of several: the same method at different sites."""
    present = [sample for sample in samples if sample.subjects]
    missing = {site: why for sample in samples for site, why in sample.missing.items()}
    runs = tuple(sorted({run for sample in samples for run in sample.runs}))
    if not present:
        return Sample((), (), {metric: np.empty((0, 0)) for metric in METRICS}, missing, runs)
    pairs = sorted((who, at, i) for at, sample in enumerate(present) for i, who in enumerate(sample.subjects))
    values = {metric: np.stack([present[at].values[metric][:, i] for _, at, i in pairs], axis=1) for metric in METRICS}
    return Sample(present[0].seeds, tuple(who for who, _, _ in pairs), values, missing, runs)


def averaged(samples: Sequence[Sample]) -> Sample:
    """The mean of several samples of one method, for example of one sample per operator.

    At each site the mean covers the samples that have the site. If every site has its own operator, this is one sample.
    A site is missing if it is missing in one of the samples.

    Raises:
        ValueError: at one site the samples differ in subjects or seeds.
    """
    own: dict[str, list[Sample]] = {}
    for sample in samples:
        for site in (*sample.sites, *sample.missing):
            own.setdefault(site, []).append(sample.at([site]))
    return joined([_average(site, own[site]) for site in sorted(own)])


def _average(site: str, samples: Sequence[Sample]) -> Sample:
    missing = dict([pair for sample in samples for pair in sample.missing.items()][:1])
    return absent(site, missing[site]) if missing else _combined(samples, {}, _mean)


def difference(one: Sample, other: Sample) -> Sample:
    """The first sample minus the second, at the sites that both cover.

    Raises:
        ValueError: the samples differ in subjects or seeds.
    """
    shared = {*one.sites, *one.missing} & {*other.sites, *other.missing}
    missing = {site: why for site, why in {**other.missing, **one.missing}.items() if site in shared}
    parts = [sample.at(shared - missing.keys()) for sample in (one, other)]
    return _combined(parts, missing, _minus)


def _mean(arrays: Sequence[Array]) -> Array:
    return np.asarray(np.mean(arrays, axis=0))


def _minus(arrays: Sequence[Array]) -> Array:
    return arrays[0] - arrays[1]


def _combined(parts: Sequence[Sample], missing: Mapping[str, str], how: Callable[[Sequence[Array]], Array]) -> Sample:
    """One sample of several that have the same subjects and seeds; ``how`` combines the arrays of one metric."""
    runs = tuple(sorted({run for part in parts for run in part.runs}))
    if not parts[0].subjects:
        return Sample((), (), {metric: np.empty((0, 0)) for metric in METRICS}, missing, runs)
    if any((part.subjects, part.seeds) != (parts[0].subjects, parts[0].seeds) for part in parts):
        raise ValueError(f"samples differ in subjects or seeds: {[(part.subjects, part.seeds) for part in parts]}")
    values = {metric: how([part.values[metric] for part in parts]) for metric in METRICS}
    return Sample(parts[0].seeds, parts[0].subjects, values, missing, runs)


@dataclass(frozen=True)
class Estimate:
    """A mean with its spread and its interval. If scores are missing, there is only ``n`` and the reason.

    Attributes:
        mean: the mean over sites. The value of a site is the mean over its subjects, that of a subject the mean over
            seeds.
        seeds: the standard deviation of the seeds' means; None with one seed.
        subjects: the standard deviation over all subjects of their means over seeds; None with one subject.
        low, high: the 95 % bootstrap interval over subjects; None with too few subjects, or if a person was scanned at
            several sites.
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
    each = sample.values[metric].mean(axis=0)
    of_seeds = [over_strata(row, strata) for row in sample.values[metric]]
    n_people = len({name for _, name in sample.subjects})
    once = n_people == len(each)  # a person with scans at several sites is not an independent draw
    low, high = (means_interval(tuple(each.tolist()), strata) if once else None) or (None, None)
    return Estimate(
        over_strata(each, strata),
        statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
        float(np.std(each, ddof=1)) if len(each) > 1 else None,
        low,
        high,
        n_people,
    )
