"""All statistics of a study: means, paired tests, best methods, generalisation gaps and gains over twins.

Holm's correction covers a family of tests, in PSNR and in SSIM apart. All comparisons of one condition are one family.
A condition has one kind of training, one noise level, and tested sites that all trained or all did not train. The
family includes all training operators and the comparisons with the best method. The tests by site are one family per
group. The tests of the gains over local twins (in PSNR alone) are one family, those over pooled twins another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.study.analysis.best_method import choices
from fedrecon.tune.study.analysis.generalisation_gap import gaps, payoffs
from fedrecon.tune.study.analysis.grid import Grid, Group, TestOperator, bare
from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.results import (
    Choice,
    Comparison,
    Statistics,
    Table,
    TableEntry,
    Tested,
    compared,
    corrected,
)
from fedrecon.tune.study.analysis.samples import Estimate, Sample, averaged, estimate
from fedrecon.tune.study.analysis.zero_filled import below_zero_filled

TESTED = ("psnr", "ssim")
"""The metrics in which methods are tested, each with families of its own for Holm's correction."""

Tests = dict[Group, list[Comparison]]
Choices = dict[Group, list[Choice]]


def analyse(findings: Findings) -> Statistics:
    """Computes all statistics of a study. The order of the scores does not change them.

    Raises:
        ValueError: a score, a missing cell or a reference names an unknown method, or a subject has two scores in one
            cell for one seed.
    """
    _check(findings)
    grid = Grid(findings)
    tables: dict[Group, Table] = {group: _with_mean(table) for group, table in grid.groups().items()}
    estimates = {metric: dict(_estimates(tables, metric)) for metric in METRICS}
    validation = _validation(findings, tables)
    references, why = _references(findings, estimates["psnr"], validation.get("psnr", {}))
    tested = {}
    for metric in TESTED:
        tests = {group: _tests(group, table, references, metric) for group, table in tables.items()}
        tests, chosen = _corrected(tests, choices(findings, grid, tables, estimates, validation, metric))
        of_sites = {group: corrected(_site_tests(group, table, references, metric)) for group, table in tables.items()}
        tested[metric] = Tested(tests, of_sites, chosen)
    return Statistics(
        grid,
        grid.sites,
        {site: len(own) for site, own in grid.subjects.items()},
        tables,
        estimates,
        references,
        why,
        tested,
        gaps(findings, grid, tables),
        payoffs(findings, grid, tables),
        below_zero_filled(findings, tables),
    )


def _validation(findings: Findings, tested: Mapping[Group, Table]) -> dict[str, dict[TableEntry, Estimate]]:
    """The estimates of the validation subjects in the tested metrics, of equal seeds and sites; empty without any."""
    if not findings.validation:
        return {}
    groups = Grid(replace(findings, scores=findings.validation)).groups()
    tables = {group: _with_mean(table) for group, table in groups.items()}

    def alike(group: Group, operator: TestOperator | None, method: str) -> bool:
        other = tested.get(group, {}).get(operator, {}).get(method)
        own = tables[group][operator][method]
        # Of the hospitals that are tested, all: what is best at some of them is not best at the others.
        return other is not None and (other.n_seeds, other.sites) == (own.n_seeds, own.sites)

    found = {metric: _estimates(tables, metric) for metric in TESTED}
    return {metric: {key: one for key, one in own if alike(*key[:3])} for metric, own in found.items()}


def _check(findings: Findings) -> None:
    known = [method.name for method in findings.methods]
    named = [*findings.references, *(row.method for row in findings.scores), *(one.method for one in findings.missing)]
    for name in dict.fromkeys(named):
        if name not in known:
            raise ValueError(f"'{name}' is no method of this study: {', '.join(known)}")


def _with_mean(table: Mapping[TestOperator, Mapping[str, Sample]]) -> Table:
    """The table, with the mean over all operators as its first entry if it has several operators."""
    found: dict[TestOperator | None, Mapping[str, Sample]] = {}
    if len(table) > 1:
        methods = next(iter(table.values()))
        found[None] = {method: averaged([own[method] for own in table.values()]) for method in methods}
    for operator, samples in table.items():
        found[operator] = samples
    return found


def _estimates(tables: Mapping[Group, Table], metric: str) -> Iterable[tuple[TableEntry, Estimate]]:
    for group, table in tables.items():
        for operator, samples in table.items():
            for method, sample in samples.items():
                yield (group, operator, method, ""), estimate(sample, metric)
                for site in sorted({*sample.sites, *sample.missing}):
                    yield (group, operator, method, site), estimate(sample.at([site]), metric)


def _references(
    findings: Findings, means: Mapping[TableEntry, Estimate], validation: Mapping[TableEntry, Estimate]
) -> tuple[list[str], dict[str, str]]:
    """The reference methods, and for each one the reason why it is a reference.

    The study can name its references. If it names none, they are the best method without training and the best method
    of all. Methods are ranked by their number of means (groups and operators), then by mean PSNR: of the validation
    subjects, if all means of the test subjects have their counterpart there.
    """
    if findings.references:
        return list(findings.references), dict.fromkeys(findings.references, "as the study asks")
    whole = {key for key, one in means.items() if not key[3] and one.mean is not None}
    validated = all(key in validation and validation[key].mean is not None for key in whole)
    scores: dict[str, list[float]] = {method.name: [] for method in findings.methods}
    for key in means:  # in their order, so that the sums are the same in every report
        if key in whole:
            scores[key[2]].append((validation if validated else means)[key].mean or 0.0)
    ranked = sorted(
        (name for name in scores if scores[name]), key=lambda name: (-len(scores[name]), -float(np.mean(scores[name])))
    )
    untrained = [name for name in ranked if not findings.method(name).trains]
    why = {untrained[0]: "the best method without training"} if untrained else {}
    if ranked:
        on = "validation" if validated else "test"
        why.setdefault(ranked[0], f"the best mean PSNR over all conditions, on {on} subjects")
    return list(why), why


def _pairs(samples: Mapping[str, Sample], references: Sequence[str]) -> Iterable[tuple[str, str]]:
    """All pairs (method, reference), each pair once."""
    for at, reference in enumerate(references):
        for method in samples:
            if reference in samples and method != reference and method not in references[:at]:
                yield method, reference


def _tests(group: Group, table: Table, references: Sequence[str], metric: str) -> list[Comparison]:
    return [
        compared(group, operator, pair, (samples[pair[0]], samples[pair[1]]), metric=metric)
        for operator, samples in table.items()
        for pair in _pairs(samples, references)
    ]


def _corrected(tests: Mapping[Group, list[Comparison]], chosen: Mapping[Group, list[Choice]]) -> tuple[Tests, Choices]:
    """The tests and the choices, with Holm's correction over all comparisons of each condition."""
    found_tests, found_choices = {**tests}, {**chosen}
    for condition, own in chosen.items():
        groups = [group for group in tests if bare(group) == condition]
        family = [one for group in groups for one in tests[group]]
        family += [rival.test for one in own for rival in one.others]
        known = iter(corrected(family))
        for group in groups:
            found_tests[group] = [next(known) for _ in tests[group]]
        found_choices[condition] = [
            replace(one, others=tuple(replace(rival, test=next(known)) for rival in one.others)) for one in own
        ]
    return found_tests, found_choices


def _site_tests(group: Group, table: Table, references: Sequence[str], metric: str) -> list[Comparison]:
    """The tests by site of the overall result. A site has too few subjects for a test per operator.

    The overall result is the mean over operators, or the result of the only operator.
    """
    return [
        compared(group, operator, pair, (samples[pair[0]].at([site]), samples[pair[1]].at([site])), site, metric)
        for operator, samples in list(table.items())[:1]
        for site in sorted({site for sample in samples.values() for site in (*sample.sites, *sample.missing)})
        for pair in _pairs(samples, references)
    ]
