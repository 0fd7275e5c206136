"""The generalisation gap of a method (the loss at unseen sites or operators), and its gains over its twins."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedrecon.tune.study.analysis.condition import Kind
from fedrecon.tune.study.analysis.grid import Grid, Group, TestOperator, noise_text
from fedrecon.tune.study.analysis.inputs import Findings, Method
from fedrecon.tune.study.analysis.results import Comparison, Gap, Payoff, Table, compared, corrected
from fedrecon.tune.study.analysis.samples import Estimate, Sample, averaged, difference, estimate, over_seeds

Tables = Mapping[Group, Table]
OWN_NETWORK = "each site has its own network: a hospital that did not train has none"
"""The reason why a personal method has no generalisation gap at sites that did not train."""


@dataclass(frozen=True)
class Sides:
    """The two sides of a comparison. The mean over its groups is the value of a side.

    Attributes:
        matched: the groups whose training included the tested site or operator.
        unmatched: the groups whose training did not include it.
        sites: the compared sites; None compares all.
    """

    matched: tuple[Group, ...]
    unmatched: tuple[Group, ...]
    sites: frozenset[str] | None = None

    def of(self, name: str, operator: TestOperator, tables: Tables) -> Sides | None:
        """The sides with only the groups that have this method; None if a side has no group left."""
        matched, unmatched = (
            tuple(group for group in side if name in tables[group][operator]) for side in (self.matched, self.unmatched)
        )
        return Sides(matched, unmatched, self.sites) if matched and unmatched else None

    def lost(self, name: str, operator: TestOperator, tables: Tables) -> Sample:
        """The matched sample of a method minus its unmatched sample. Each is the mean over the groups of its side."""
        matched, unmatched = (
            averaged([tables[group][operator][name] for group in side]) for side in (self.matched, self.unmatched)
        )
        whole = difference(matched, unmatched)
        return whole if self.sites is None else whole.at(self.sites)


def gaps(findings: Findings, grid: Grid, tables: Tables) -> list[Gap]:
    """The generalisation gaps of every method: at sites that did not train, and under operators unused in training."""
    found = []
    for what, compared_by, sides in [*_site_sides(tables), *_operator_sides(grid, tables)]:
        for method in findings.methods:
            found.append(_gap(method, what, compared_by, sides, grid, tables))
    return found


def _gap(
    method: Method,
    what: str,
    compared_by: str,
    sides: Mapping[TestOperator, Sequence[Sides]],
    grid: Grid,
    tables: Tables,
) -> Gap:
    if reason := _why_none(method, what, grid):
        return Gap(what, compared_by, method.name, {}, reason)
    own = _own(method.name, sides, tables)
    if not own:
        reason = OWN_NETWORK if method.personal else "one side of the comparison was not run"
        return Gap(what, compared_by, method.name, {}, reason)
    samples = {
        operator: averaged([pair.lost(method.name, operator, tables) for pair in pairs])
        for operator, pairs in own.items()
    }
    means: dict[TestOperator | None, Estimate] = {}
    if len(sides) > 1:
        overall = estimate(averaged(list(samples.values())))
        means[None] = overall if own == sides else Estimate(None, reason="not run for every comparison")
    return Gap(what, compared_by, method.name, means | {operator: estimate(one) for operator, one in samples.items()})


def _own(
    name: str, sides: Mapping[TestOperator, Sequence[Sides]], tables: Tables
) -> dict[TestOperator, Sequence[Sides]]:
    """The comparisons that have both sides for this method."""
    found: dict[TestOperator, Sequence[Sides]] = {}
    for operator, pairs in sides.items():
        if own := [one for pair in pairs if (one := pair.of(name, operator, tables)) is not None]:
            found[operator] = own
    return found


def _why_none(method: Method, what: str, grid: Grid) -> str:
    """The reason why a method has no generalisation gap; empty if it can have one."""
    if not method.trains:
        return "does not train"
    own = [row for cell, row in grid.first.items() if cell.method == method.name]
    if what == "operator" and own and all(row.seen_operator and not row.trained_with for row in own):
        return "its training knows no operator, so none is unseen"
    if what == "site" and own and all(row.seen_site for row in own):
        return OWN_NETWORK if method.personal else "was not tested where it did not train"
    return ""


def _site_sides(tables: Tables) -> Iterable[tuple[str, str, dict[TestOperator, list[Sides]]]]:
    """Yields the comparisons of sites: the kind of gap, the comparison as text, and the sides by operator.

    Trainings of one kind without the tested site are compared with two others: with trainings of the same kind that
    included the tested site, and with trainings on all sites, both of the same limit of slices. Each training operator
    and each noise of the test has comparisons of its own: a mean over them would hide that a method holds under one
    and breaks under another.
    """
    kinds = sorted(
        {group.training for group in tables if not group.seen and group.training.trains}, key=lambda one: one.order
    )
    conditions = dict.fromkeys((group.trained_with, group.noise) for group in tables)
    several = len({trained_with for trained_with, _ in conditions}) > 1
    for kind, (trained_with, noise) in itertools.product(kinds, conditions):
        unseen = Group(kind, trained_with, noise, seen=False)
        with_what = f" with {trained_with}" if several and trained_with else ""
        for matched, compared_by in (
            (kind, f"{kind} trained{with_what}, the tested site among them or not"),
            (Kind("all", limit=kind.limit), f"all trained{with_what}, or {kind}"),
        ):
            twin = replace(unseen, training=matched, seen=True)
            shared = [one for one in tables.get(unseen, {}) if one is not None and one in tables.get(twin, {})]
            if shared:
                pairs = {operator: [Sides((twin,), (unseen,))] for operator in sorted(shared)}
                yield "site", compared_by + noise_text(noise), pairs


def _operator_sides(grid: Grid, tables: Tables) -> Iterable[tuple[str, str, dict[TestOperator, list[Sides]]]]:
    """Yields the comparisons of operators, in the form of :func:`_site_sides`.

    Trainings with the tested operator are compared with trainings of the same kind with other operators. Each noise of
    the test has a comparison of its own.
    """
    own = {
        (cell.trained_with, cell.operator, cell.noise, cell.tested_on)
        for cell in grid.cells
        if cell.trained_with and grid.seen_operator(cell)
    }
    noises = dict.fromkeys(group.noise for group in tables)
    kinds = sorted(
        {(group.training, group.seen) for group in tables if group.trained_with},
        key=lambda one: str((str(one[0]), one[1])),
    )
    for (kind, seen), noise in itertools.product(kinds, noises):
        pairs = defaultdict[TestOperator, list[Sides]](list)
        alike = defaultdict[TestOperator, list[Group]](list)
        for group, table in tables.items():
            if (group.training, group.seen, group.noise) == (kind, seen, noise):
                for operator in filter(None, table):
                    alike[operator].append(group)
        for operator, groups in alike.items():
            sites_of: dict[tuple[Group, ...], set[str]] = {}  # the sites at which exactly these groups are matched
            for site in grid.sites:
                matched = tuple(group for group in groups if (group.trained_with, operator, noise, site) in own)
                sites_of.setdefault(matched, set()).add(site)
            for matched, sites in sites_of.items():
                unmatched = tuple(group for group in groups if group not in matched)
                if matched and unmatched:
                    pairs[operator].append(Sides(matched, unmatched, frozenset(sites)))
        if pairs:
            where = "at hospitals that trained" if seen else "at hospitals that did not train"
            compared_by = (
                f"{'all sites' if kind == Kind('all') else kind} trained, with the tested operator or another; {where}"
            )
            yield "operator", compared_by + noise_text(noise), dict(sorted(pairs.items()))


def payoffs(findings: Findings, grid: Grid, tables: Tables) -> list[Payoff]:
    """The gains over local and over pooled twins. The tests over either kind are one family."""
    local, pooled = controls(findings)
    return [
        *_payoffs(findings, grid, tables, "local", local, [*local]),
        *_payoffs(findings, grid, tables, "pooled", pooled, [*local, *pooled]),
    ]


def controls(findings: Findings) -> tuple[list[Method], list[Method]]:
    """The methods that train each site alone, and those that train with the data of all sites in one place."""
    trained = [method for method in findings.methods if method.trains]
    alone = [method for method in trained if method.alone]
    return alone or [one for one in trained if one.name == "local"], [one for one in trained if one.moved_data]


def _payoffs(
    findings: Findings, grid: Grid, tables: Tables, over: str, twins: Sequence[Method], left_out: Sequence[Method]
) -> list[Payoff]:
    own_group = {"local": _local_group, "pooled": _pooled_group}[over]
    found = [
        _payoff(grid, tables, (group, other), (method.name, twin.name), over)
        for twin in twins
        for group in tables
        for method in findings.methods
        if method not in left_out and method.is_twin(twin)
        if group.training.trains and method.name in next(iter(tables[group].values()))
        if (other := own_group(tables, group, twin.name)) is not None
    ]
    tested = iter(corrected([test for one in found for test in one.tests.values()]))
    return [replace(one, tests={operator: next(tested) for operator in one.tests}) for one in found]


def _pooled_group(tables: Tables, group: Group, pooled: str) -> Group | None:
    """The same group, if the pooled network was trained and tested as the method was."""
    return group if pooled in next(iter(tables[group].values())) else None


def _local_group(tables: Tables, group: Group, alone: str) -> Group | None:
    """The group with the scores of the local networks at their own sites; None if there is no such group.

    The group has the same training operator, noise and limit of training slices: only the sites that trained may
    differ, because a local network has the slices of its own site alone. The same kind of training is preferred, then
    one on all sites.
    """

    def condition(one: Group) -> tuple[object, ...]:
        return one.trained_with, one.noise, one.training.limit

    candidates = [
        other
        for other in tables
        if other.seen and condition(other) == condition(group) and alone in next(iter(tables[other].values()))
    ]
    candidates.sort(key=lambda other: (other.training != group.training, other.training.scheme != "all", other.kind))
    return candidates[0] if candidates else None


def _payoff(grid: Grid, tables: Tables, groups: tuple[Group, Group], pair: tuple[str, str], over: str) -> Payoff:
    (group, local), (method, alone) = groups, pair
    means: dict[TestOperator | None, Estimate] = {}
    tests: dict[TestOperator | None, Comparison] = {}
    for operator in tables[group]:
        if operator in tables[local]:
            one, other = tables[group][operator][method], tables[local][operator][alone]
            tests[operator] = compared(group, operator, (method, alone), (one, other))
            mean = estimate(difference(over_seeds(one), over_seeds(other)))
            # The interval of the test: each side has drawn seeds of its own.
            means[operator] = replace(mean, low=tests[operator].low, high=tests[operator].high)
    rows = [grid.first[cell] for cell in grid.first if cell.method == method and grid.kind(cell) == group.training]
    n_sites = max((row.n_sites for row in rows), default=0)
    slices = float(np.mean(sorted(row.slices_per_site for row in rows))) if rows else 0.0
    return Payoff(group, method, alone, n_sites, slices, means, tests, over)
