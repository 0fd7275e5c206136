"""The kinds of claims that a report makes, and how two methods are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedrecon.tune.study.analysis.grid import Grid, Group, TestOperator
from fedrecon.tune.study.analysis.samples import Estimate, Sample, Subject
from fedrecon.tune.study.analysis.significance import ALPHA, holm, over_strata, paired

Table = Mapping[TestOperator | None, Mapping[str, Sample]]
"""Samples by operator and method; None is the mean over all operators, where there are several."""
TableEntry = tuple[Group, TestOperator | None, str, str]
"""Group, operator, method, site; of the mean over sites the site is empty."""


@dataclass(frozen=True)
class Comparison:
    """Method minus reference in dB, paired over the subjects that both have.

    Attributes:
        operator: None is the mean over all. site: empty where subjects of all sites are pooled.
        differences: by subject. mean, low, high: over sites of the means over their subjects, with a 95 % bootstrap
            interval.
        effect: matched-pairs rank-biserial correlation.
        p, p_holm: Wilcoxon's signed-rank test, two-sided; None where subjects are too few for a claim.
        family: how many comparisons the correction is over.
        missing: why subjects are left out. left_out: their sites.
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
    family: int = 0
    missing: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Subjects."""
        return len(self.differences)

    @property
    def significant(self) -> bool:
        """After Holm's correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def ahead(self) -> bool:
        """Whether the method is ahead by ranks, which is what is tested; its mean can say otherwise."""
        return (self.effect or 0.0) > 0

    @property
    def split(self) -> bool:
        """Whether ranks and mean disagree about who is ahead."""
        return self.ahead != ((self.mean or 0.0) > 0)


@dataclass(frozen=True)
class Candidate:
    """What can be chosen: a method, and where trainings differ in their operator one of these.

    Attributes:
        group: whose table has its scores. trained_with: empty where there is nothing to tell apart.
    """

    group: Group
    method: str
    trained_with: str = ""


@dataclass(frozen=True)
class Rival:
    """A candidate minus the best, tested."""

    candidate: Candidate
    test: Comparison


@dataclass(frozen=True)
class Choice:
    """What is best where and for the operator that is scanned with, of the methods that moved no data.

    Attributes:
        place: a group without its training's operator: all trainings of this kind are candidates.
        best: the highest mean PSNR. others: every other such candidate, the best mean first.
        in_ssim: the highest mean SSIM.
    """

    condition: Group
    operator: TestOperator | None
    best: Candidate
    others: tuple[Rival, ...]
    in_ssim: Candidate

    @property
    def level(self) -> tuple[Candidate, ...]:
        """Those that cannot be told from the best: only where a claim can be made about them."""
        return tuple(one.candidate for one in self.others if one.test.p_holm is not None and not one.test.significant)

    @property
    def untold(self) -> tuple[Candidate, ...]:
        """Those about which no claim can be made: too few subjects in common."""
        return tuple(one.candidate for one in self.others if one.test.p_holm is None)


@dataclass(frozen=True)
class Gap:
    """How much a method loses outside of what it trained for: matched minus unmatched, in dB.

    Attributes:
        what: ``site`` or ``operator``. compared: which trainings, in words.
        by_operator: None is the mean over all. reason: why the method has none.
    """

    what: str
    compared: str
    method: str
    by_operator: Mapping[TestOperator | None, Estimate]
    reason: str = ""

    @property
    def overall(self) -> Estimate:
        """Over all operators."""
        return next(iter(self.by_operator.values()), Estimate(None, reason=self.reason))


@dataclass(frozen=True)
class Payoff:
    """What a training with others is worth: method minus ``local``, each site's network trained alone.

    Attributes:
        alone: which method is the local one. mean: over sites, of the same subjects.
    """

    group: Group
    method: str
    alone: str
    n_sites: int
    slices: float
    mean: Mapping[TestOperator | None, Estimate]
    tests: Mapping[TestOperator | None, Comparison]


@dataclass(frozen=True)
class Statistics:
    """Everything that a report says.

    Attributes:
        grid: the cells that all is made of.
        tables: one a group. estimates: of each metric, by place.
        references: methods that all others are compared with. why: a word on each.
        tests: by group. choices: by place. All of a place are one family for Holm's correction.
        site_tests: by group, each one family.
    """

    grid: Grid
    sites: Sequence[str]
    subjects: Mapping[str, int]
    tables: Mapping[Group, Table]
    estimates: Mapping[str, Mapping[TableEntry, Estimate]]
    references: Sequence[str]
    why: Mapping[str, str]
    tests: Mapping[Group, Sequence[Comparison]]
    site_tests: Mapping[Group, Sequence[Comparison]]
    choices: Mapping[Group, Sequence[Choice]]
    gaps: Sequence[Gap]
    payoffs: Sequence[Payoff]

    def at(
        self, group: Group, operator: TestOperator | None, method: str, metric: str = "psnr", site: str = ""
    ) -> Estimate:
        """An estimate; of a method that the group does not have an empty one."""
        return self.estimates[metric].get((group, operator, method, site), Estimate(None))

    def overall(self, group: Group) -> TestOperator | None:
        """What stands for all operators of a group: None, or the only one."""
        return next(iter(self.tables[group]))

    def own_operators(self, group: Group) -> bool:
        """Whether sites are tested under different operators, each under its own."""
        tables = [table for operator, table in self.tables[group].items() if operator is not None]
        sites = {frozenset(site for one in table.values() for site in (*one.sites, *one.missing)) for table in tables}
        return len(sites) > 1

    def operators(self, group: Group) -> list[TestOperator]:
        """The test operators of a group."""
        return [one for one in self.tables[group] if one is not None]


def compared(
    group: Group, operator: TestOperator | None, names: tuple[str, str], samples: tuple[Sample, Sample], site: str = ""
) -> Comparison:
    """One sample minus the other over the subjects common to both; without a p-value of too few.

    Args:
        names: of the method and the reference.
    """
    one, other = (sample.by_subject() for sample in samples)
    shared = sorted(one.keys() & other.keys())
    found = people([(who, one[who] - other[who]) for who in shared])
    missing = "; ".join(f"{name}: {part.reason}" for name, part in zip(names, samples, strict=True) if part.missing)
    left_out = tuple(sorted({site for sample in samples for site in sample.missing}))
    blank = Comparison(group, operator, site, *names, found, missing=missing, left_out=left_out)
    if not shared:
        return blank
    tested = paired(tuple(value for _, value in found), tuple(site for (site, _), _ in found))
    blank = replace(blank, effect=tested.effect, p=tested.p)
    if len(found) < len(shared):  # who was scanned at several sites is no independent draw
        each = np.array([one[who] - other[who] for who in shared])
        return replace(blank, mean=over_strata(each, [site for site, _ in shared]))
    return replace(blank, mean=tested.mean, low=tested.low, high=tested.high)


def people(found: Sequence[tuple[Subject, float]]) -> tuple[tuple[Subject, float], ...]:
    """One value a person: who was scanned at several sites counts once, with the mean over them."""
    by_name: dict[str, list[tuple[str, float]]] = {}
    for (site, name), value in found:
        by_name.setdefault(name, []).append((site, value))
    merged = {
        ("+".join(site for site, _ in own), name): sum(value for _, value in own) / len(own)
        for name, own in by_name.items()
    }
    return tuple(sorted(merged.items()))


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """With Holm's correction over all different comparisons of the family that have a p-value.

    Two of the same differences, or of the same the other way round, are one: a prior stands in the tables of several
    trainings, and the best is compared with a reference in two tables.
    """
    raw = {_pair(one): one.p for one in family if one.p is not None}
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    return [one if one.p is None else replace(one, p_holm=adjusted[_pair(one)], family=len(raw)) for one in family]


def _pair(one: Comparison) -> tuple[object, ...]:
    turned = tuple((who, -by) for who, by in one.differences)
    return one.operator, one.site, frozenset((one.differences, turned))
