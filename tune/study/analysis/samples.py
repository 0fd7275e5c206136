"""Scores of subjects by seed, and how they are put together: what is missing is never averaged over."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrecon.sites.scoring.columns import METRICS
from fedrecon.tune.study.analysis.significance import Array, means_interval, over_strata

Subject = tuple[str, str]
"""Site and subject. One name at two sites is one person, as the splits of a consortium have it."""
Seed = int | None


@dataclass(frozen=True, eq=False)
class Sample:
    """One method's scores: seeds x subjects of each metric.

    Attributes:
        subjects: sorted, of the sites where nothing is missing.
        missing: the other sites, with the reason.
        runs: those that the scores are from.
    """

    seeds: tuple[Seed, ...]
    subjects: tuple[Subject, ...]
    values: Mapping[str, Array]
    missing: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    @property
    def sites(self) -> list[str]:
        """Those without anything missing."""
        return sorted({site for site, _ in self.subjects})

    @property
    def reason(self) -> str:
        """Why something is missing; empty where nothing is."""
        return "; ".join(f"{site}: {why}" for site, why in sorted(self.missing.items()))

    def by_subject(self, metric: str = "psnr") -> dict[Subject, float]:
        """The mean over seeds of each subject."""
        each = self.values[metric].mean(axis=0).tolist() if self.subjects else []
        return dict(zip(self.subjects, each, strict=True))

    def at(self, sites: Iterable[str]) -> Sample:
        """The part of some sites."""
        wanted = set(sites)
        keep = [i for i, (site, _) in enumerate(self.subjects) if site in wanted]
        values = {metric: array[:, keep] for metric, array in self.values.items()}
        missing = {site: why for site, why in self.missing.items() if site in wanted}
        return Sample(self.seeds, tuple(self.subjects[i] for i in keep), values, missing, self.runs)


def absent(site: str, reason: str) -> Sample:
    """A site without scores."""
    return Sample((), (), {metric: np.empty((0, 0)) for metric in METRICS}, {site: reason})


def joined(samples: Sequence[Sample]) -> Sample:
    """Samples of one method at different sites, side by side."""
    there = [sample for sample in samples if sample.subjects]
    missing = {site: why for sample in samples for site, why in sample.missing.items()}
    runs = tuple(sorted({run for sample in samples for run in sample.runs}))
    if not there:
        return Sample((), (), {metric: np.empty((0, 0)) for metric in METRICS}, missing, runs)
    pairs = sorted((who, at, i) for at, sample in enumerate(there) for i, who in enumerate(sample.subjects))
    values = {metric: np.stack([there[at].values[metric][:, i] for _, at, i in pairs], axis=1) for metric in METRICS}
    return Sample(there[0].seeds, tuple(who for who, _, _ in pairs), values, missing, runs)


def averaged(samples: Sequence[Sample]) -> Sample:
    """The mean of one method's samples, such as one operator each; a site that one of them misses is missing.

    Of each site over those that are about it: where every site has an operator of its own, that is one.
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
    """One minus other of the same method, of the sites that both are about."""
    shared = {*one.sites, *one.missing} & {*other.sites, *other.missing}
    missing = {site: why for site, why in {**other.missing, **one.missing}.items() if site in shared}
    parts = [sample.at(shared - missing.keys()) for sample in (one, other)]
    return _combined(parts, missing, _minus)


def _mean(arrays: Sequence[Array]) -> Array:
    return np.asarray(np.mean(arrays, axis=0))


def _minus(arrays: Sequence[Array]) -> Array:
    return arrays[0] - arrays[1]


def _combined(parts: Sequence[Sample], missing: Mapping[str, str], how: Callable[[Sequence[Array]], Array]) -> Sample:
    runs = tuple(sorted({run for part in parts for run in part.runs}))
    if not parts[0].subjects:
        return Sample((), (), {metric: np.empty((0, 0)) for metric in METRICS}, missing, runs)
    if any((part.subjects, part.seeds) != (parts[0].subjects, parts[0].seeds) for part in parts):
        raise ValueError(f"samples differ in subjects or seeds: {[(part.subjects, part.seeds) for part in parts]}")
    values = {metric: how([part.values[metric] for part in parts]) for metric in METRICS}
    return Sample(parts[0].seeds, parts[0].subjects, values, missing, runs)


@dataclass(frozen=True)
class Estimate:
    """A mean with what is known about it; all None where something is missing, for the reason given.

    Attributes:
        mean: over sites of the means over their subjects of the means over seeds.
        seeds: standard deviation of the seeds' means; None of one seed.
        subjects: standard deviation over all subjects of their means over seeds.
        low, high: 95 % bootstrap interval over subjects; None of too few.
        n: subjects, each counted once.
    """

    mean: float | None
    seeds: float | None = None
    subjects: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str = ""


def estimate(sample: Sample, metric: str = "psnr") -> Estimate:
    """The mean over sites, unweighted, so that a hospital with many patients counts as one."""
    if sample.missing or not sample.subjects:
        return Estimate(None, n=len(sample.subjects), reason=sample.reason or "not run")
    strata = tuple(site for site, _ in sample.subjects)
    each = sample.values[metric].mean(axis=0)
    of_seeds = [over_strata(row, strata) for row in sample.values[metric]]
    people = len({name for _, name in sample.subjects})
    once = people == len(each)  # who was scanned at several sites is no independent draw
    low, high = (means_interval(tuple(each.tolist()), strata) if once else None) or (None, None)
    return Estimate(
        over_strata(each, strata),
        statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
        float(np.std(each, ddof=1)) if len(each) > 1 else None,
        low,
        high,
        people,
    )
