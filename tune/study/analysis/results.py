"""The results of the statistics, and the paired comparison of two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedrecon.tune.study.analysis.grid import Grid, Group, TestOperator
from fedrecon.tune.study.analysis.samples import Estimate, Sample, Subject
from fedrecon.tune.study.analysis.significance import ALPHA, MIN_SEEDS, holm, means_interval, over_strata, paired

Table = Mapping[TestOperator | None, Mapping[str, Sample]]
"""Samples by test operator and method. The key None is the mean over all operators, if there are several."""
TableEntry = tuple[Group, TestOperator | None, str, str]
"""Group, test operator, method, site. An empty site stands for the mean over sites."""


@dataclass(frozen=True)
class Comparison:
    """A score of a method minus that of a reference, paired over their common subjects.

    Attributes:
        metric: ``psnr`` (dB) or ``ssim``.
        operator: the test operator; None is the mean over all.
        site: the name of the site; empty if the subjects of all sites are pooled.
        differences: the difference of each subject; each person counts once.
        mean, low, high: the mean over sites of the means over their subjects, with its 95 % bootstrap interval over
            seeds x subjects. The interval is None with too few subjects, or if a person was scanned at several sites.
        effect: the matched-pairs rank-biserial correlation.
        p, p_holm: the p-value of Wilcoxon's signed-rank test, two-sided, without and with Holm's correction; None if
            there are too few subjects or seeds for a test.
        few_seeds: whether one of the methods trained with fewer than :data:`MIN_SEEDS` seeds. The comparison is then of
            these very networks and claims nothing about the method.
        family: the number of different comparisons in Holm's correction; 0 without correction.
        missing: the reason why subjects are left out. left_out: the sites of these subjects.
    """

    group: Group
    operator: TestOperator | None
    site: str
    method: str
    reference: str
    differences: tuple[tuple[Subject, float], ...]
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    effect: float | None = None
    p: float | None = None
    p_holm: float | None = None
    few_seeds: bool = False
    metric: str = "psnr"
    family: int = 0
    missing: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """The number of subjects."""
        return len(self.differences)

    @property
    def significant(self) -> bool:
        """Whether the p-value is below :data:`ALPHA` after Holm's correction, and the interval, if any, excludes 0.

        The signed-rank test knows the subjects alone; the interval knows the seeds too.
        """
        return self.p_holm is not None and self.p_holm < ALPHA and not self.may_be_zero

    @property
    def may_be_zero(self) -> bool:
        """Whether the interval over seeds x subjects holds 0."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high

    @property
    def n_ahead(self) -> int:
        """The number of subjects for whom the method is ahead."""
        return sum(by > 0 for _, by in self.differences)

    @property
    def ahead(self) -> bool:
        """Whether the method is ahead by ranks, as in the test. The mean difference can have the other sign."""
        return (self.effect or 0.0) > 0

    @property
    def split(self) -> bool:
        """Whether ranks and mean disagree about the better method."""
        return self.ahead != ((self.mean or 0.0) > 0)


@dataclass(frozen=True)
class Candidate:
    """A method that can be the best. If trainings have different operators, each operator gives a candidate.

    Attributes:
        group: the group whose table has the scores.
        trained_with: the training's operator; empty if it does not distinguish candidates.
    """

    group: Group
    method: str
    trained_with: str = ""


@dataclass(frozen=True)
class Rival:
    """A candidate that is not the best, and its test: the candidate minus the best."""

    candidate: Candidate
    test: Comparison


@dataclass(frozen=True)
class Choice:
    """The best of the methods that moved no data, for one condition and one test operator.

    Attributes:
        condition: a group without its training's operator. All trainings of this kind are candidates.
        operator: the test operator; None is the mean over all.
        best: the candidate with the highest mean on the validation subjects.
        others: all other candidates, the highest mean on the test subjects first; candidates without one are last.
        metric: ``psnr`` or ``ssim``: by what it is chosen and tested.
        by_validation: False if a candidate has no scores of validation subjects. Then the best is chosen on the test
            subjects, and its lead is too favourable.
    """

    condition: Group
    operator: TestOperator | None
    best: Candidate
    others: tuple[Rival, ...]
    metric: str = "psnr"
    by_validation: bool = True

    @property
    def level(self) -> tuple[Candidate, ...]:
        """The candidates that do not differ significantly from the best. They have a p-value."""
        return tuple(one.candidate for one in self.others if one.test.p_holm is not None and not one.test.significant)

    @property
    def ahead(self) -> tuple[Candidate, ...]:
        """The candidates that are significantly ahead of the best on the test subjects: it was chosen on others."""
        return tuple(one.candidate for one in self.others if one.test.significant and one.test.ahead)

    @property
    def undecided(self) -> tuple[Candidate, ...]:
        """The candidates without a p-value: too few seeds, or too few subjects in common with the best."""
        return tuple(one.candidate for one in self.others if one.test.p_holm is None)


@dataclass(frozen=True)
class Gap:
    """The generalisation gap of a method, in dB: its PSNR where training and test match, minus that where they do not.

    Attributes:
        what: ``site`` or ``operator``: the part that does not match. compared: the compared trainings, as text.
        by_operator: the gap under each test operator; None is the mean over all.
        reason: the reason why the method has no generalisation gap; empty if it has one.
    """

    what: str
    compared: str
    method: str
    by_operator: Mapping[TestOperator | None, Estimate]
    reason: str = ""

    @property
    def overall(self) -> Estimate:
        """The mean over all operators, or the value of the only operator."""
        return next(iter(self.by_operator.values()), Estimate(None, reason=self.reason))


@dataclass(frozen=True)
class Payoff:
    """The gain of a method over its local or its pooled twin, in dB: the same network and settings, another strategy.

    In local training each site trains its own network alone; in pooled training one network has the data of all.

    Attributes:
        group: the group with the scores of the method. alone: the name of the twin. over: ``local`` or ``pooled``.
        n_sites: the largest number of sites that trained. slices: the mean number of training slices per site.
        mean: the mean difference over sites under each test operator. Both methods have the same subjects.
        tests: the paired comparison under each test operator.
    """

    group: Group
    method: str
    alone: str
    n_sites: int
    slices: float
    mean: Mapping[TestOperator | None, Estimate]
    tests: Mapping[TestOperator | None, Comparison]
    over: str = "local"


@dataclass(frozen=True)
class Tested:
    """All tests in one metric. Those of a metric are families of their own for Holm's correction.

    Attributes:
        tests: the comparisons of each group. choices: the best methods of each condition. All comparisons of a
            condition are one family.
        site_tests: the comparisons by site, for each group. Those of a group are one family.
    """

    tests: Mapping[Group, Sequence[Comparison]]
    site_tests: Mapping[Group, Sequence[Comparison]]
    choices: Mapping[Group, Sequence[Choice]]


@dataclass(frozen=True)
class Statistics:
    """All results that a report shows.

    Attributes:
        grid: the cells of the study. sites: the tested sites. subjects: the number of subjects of each site.
        tables: the table of each group. estimates: for each metric the estimates, by table entry.
        references: the methods with which all others are compared. why: the reason for each reference.
        tested: the tests in PSNR and in SSIM.
        gaps: the generalisation gaps. payoffs: the gains over local and over pooled training.
        below: the table entries whose mean PSNR is below that of the zero-filled images of the same subjects, each with
            the difference in dB, which is negative.
    """

    grid: Grid
    sites: Sequence[str]
    subjects: Mapping[str, int]
    tables: Mapping[Group, Table]
    estimates: Mapping[str, Mapping[TableEntry, Estimate]]
    references: Sequence[str]
    why: Mapping[str, str]
    tested: Mapping[str, Tested]
    gaps: Sequence[Gap]
    payoffs: Sequence[Payoff]
    below: Mapping[TableEntry, float]

    def over(self, kind: str) -> list[Payoff]:
        """The gains over ``local`` or over ``pooled`` training."""
        return [one for one in self.payoffs if one.over == kind]

    @property
    def tests(self) -> Mapping[Group, Sequence[Comparison]]:
        """The comparisons of each group in PSNR."""
        return self.tested["psnr"].tests

    @property
    def site_tests(self) -> Mapping[Group, Sequence[Comparison]]:
        """The comparisons by site in PSNR."""
        return self.tested["psnr"].site_tests

    def in_ssim(self, choice: Choice) -> Choice:
        """The choice by SSIM for the same condition and operator."""
        own = self.tested["ssim"].choices[choice.condition]
        return next(one for one in own if one.operator == choice.operator)

    @property
    def choices(self) -> Mapping[Group, Sequence[Choice]]:
        """The best methods of each condition in PSNR."""
        return self.tested["psnr"].choices

    def at(
        self, group: Group, operator: TestOperator | None, method: str, metric: str = "psnr", site: str = ""
    ) -> Estimate:
        """An estimate. It is empty if the group does not have the method."""
        return self.estimates[metric].get((group, operator, method, site), Estimate(None))

    def overall(self, group: Group) -> TestOperator | None:
        """The key of a group's overall result: None (the mean over all operators), or the only operator."""
        return next(iter(self.tables[group]))

    def own_operators(self, group: Group) -> bool:
        """Whether the sites of a group are tested under different operators."""
        tables = [table for operator, table in self.tables[group].items() if operator is not None]
        sites = {frozenset(site for one in table.values() for site in (*one.sites, *one.missing)) for table in tables}
        return len(sites) > 1

    def n_operators(self, group: Group) -> int:
        """The number of test operators in a mean over operators; the most of a site, if sites have their own."""
        tables = [table for operator, table in self.tables[group].items() if operator is not None]
        sites = [{site for one in table.values() for site in (*one.sites, *one.missing)} for table in tables]
        return max(sum(site in own for own in sites) for site in set().union(*sites))

    def runs_of(self, method: str) -> list[str]:
        """All runs of a method."""
        return sorted({run for cell, one in self.grid.cells.items() if cell.method == method for run in one.runs})

    def operators(self, group: Group) -> list[TestOperator]:
        """The test operators of a group."""
        return [one for one in self.tables[group] if one is not None]


def compared(
    group: Group,
    operator: TestOperator | None,
    names: tuple[str, str],
    samples: tuple[Sample, Sample],
    site: str = "",
    metric: str = "psnr",
) -> Comparison:
    """A score of the first sample minus that of the second, over common subjects.

    There is no p-value with too few subjects, or with fewer than :data:`MIN_SEEDS` seeds of a method that trains.

    Args:
        names: the names of the method and the reference. samples: their samples.
        site: the site of both samples; empty if they hold all sites.
        metric: ``psnr`` or ``ssim``.
    """
    one, other = (sample.by_subject(metric) for sample in samples)
    shared = sorted(one.keys() & other.keys())
    found = people([(who, one[who] - other[who]) for who in shared])
    missing = "; ".join(f"{name}: {part.reason}" for name, part in zip(names, samples, strict=True) if part.missing)
    left_out = tuple(sorted({site for sample in samples for site in sample.missing}))
    few = any(n is not None and n < MIN_SEEDS for n in (sample.n_seeds for sample in samples if sample.subjects))
    blank = Comparison(
        group, operator, site, *names, found, missing=missing, left_out=left_out, few_seeds=few, metric=metric
    )
    if not shared:
        return blank
    strata = tuple(site for site, _ in shared)
    tested = paired(tuple(value for _, value in found), tuple(site for (site, _), _ in found))
    blank = replace(blank, effect=tested.effect, p=None if few else tested.p)
    if len(found) < len(shared):  # a person with scans at several sites is not an independent draw
        return replace(blank, mean=over_strata(np.array([one[who] - other[who] for who in shared]), strata))
    sites = {site for site, _ in shared}
    first, second = (sample.at(sites).rows(metric) for sample in samples)
    low, high = means_interval(first, strata, second) or (None, None)
    return replace(blank, mean=tested.mean, low=low, high=high)


def people(found: Sequence[tuple[Subject, float]]) -> tuple[tuple[Subject, float], ...]:
    """One value per person. A person with scans at several sites counts once, with the mean over these sites."""
    by_name: dict[str, list[tuple[str, float]]] = {}
    for (site, name), value in found:
        by_name.setdefault(name, []).append((site, value))
    merged = {
        ("+".join(site for site, _ in own), name): sum(value for _, value in own) / len(own)
        for name, own in by_name.items()
    }
    return tuple(sorted(merged.items()))


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction, over all different comparisons of the family that have a p-value.

    Two comparisons with the same differences count as one, also if all signs are opposite. The reasons: a prior is in
    the tables of several trainings, and the best method can be compared with a reference twice.
    """
    raw = {pair_of(one): one.p for one in family if one.p is not None}
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    return [one if one.p is None else replace(one, p_holm=adjusted[pair_of(one)], family=len(raw)) for one in family]


def pair_of(one: Comparison) -> tuple[object, ...]:
    """The key of a comparison. It is the same if method and reference change sides."""
    if not one.differences:
        return one.operator, one.site, one.group, frozenset((one.method, one.reference))
    opposite = tuple((who, -by) for who, by in one.differences)
    return one.operator, one.site, frozenset((one.differences, opposite))
