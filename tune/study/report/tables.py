"""The tables of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fedrecon.sites.score_columns import METRIC_LABELS, METRICS
from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import Findings, Method
from fedrecon.tune.study.analysis.results import Choice, Comparison, Gap, Statistics
from fedrecon.tune.study.analysis.samples import Estimate
from fedrecon.tune.study.analysis.significance import MIN_SUBJECTS
from fedrecon.tune.study.report.document import Table, Value, number, plain, signed
from fedrecon.tune.study.report.sentences import candidate, interval, p_value, subjects, under

WHOLE = "its place (tested where, trained how), in the tables of tests and in the choice of the best"
OF_SCORES = (
    "Mean ± standard deviation over seeds (where there are two or more); below it the 95 % interval over subjects (of "
    f"{MIN_SUBJECTS} or more) and "
    "σ, the standard deviation over subjects. Bold: the highest mean of those that moved no data, level with others or "
    "not."
)


def use(findings: Findings, statistics: Statistics) -> Table:
    """The best method for each condition and test operator."""
    chosen = [choice for own in statistics.choices.values() for choice in (*own[1:], *own[:1])]  # the mean comes last
    rows = [_use(findings, statistics, choice) for choice in chosen]
    header = ["tested", "trained", "scanned with", "best in PSNR", "PSNR (dB)", "level with it", "no claim about"]
    header += ["best in SSIM", "subjects"]
    if not any(choice.undecided for choice in chosen):
        at = header.index("no claim about")
        header, rows = [*header[:at], *header[at + 1 :]], [[*row[:at], *row[at + 1 :]] for row in rows]
    note = (
        "Of the methods that moved no data. The best has the highest mean of the same subjects; the others are tested "
        f"against it in PSNR by Wilcoxon's signed-rank test with Holm's correction over all comparisons of {WHOLE}. "
        "Level with it: not significantly different. SSIM: the highest mean, not tested."
    )
    runs = [statistics.tables[one.best.group][one.operator][one.best.method].runs for one in chosen]
    return Table("Which method to use where", header, rows, 0, note, "which", runs)


def _use(findings: Findings, statistics: Statistics, choice: Choice) -> list[Value]:
    best = choice.best
    one = statistics.at(best.group, choice.operator, best.method)
    level, undecided = (
        "all others" if len(names) == len(choice.others) > 1
        else ", ".join(candidate(findings, each) for each in names) or "–"
        for names in (choice.level, choice.undecided)
    )  # fmt: skip
    return [
        plain(choice.condition.where),
        plain(choice.condition.how),
        plain(under(choice.operator, statistics, best.group)),
        Value(candidate(findings, best), key=best.method, bold=True),
        _score(one, "psnr", False),
        plain(level),
        plain(undecided),
        plain(candidate(findings, choice.in_ssim)),
        Value(str(one.n), key=str(one.n)),
    ]


def scores(findings: Findings, statistics: Statistics, group: Group, metric: str, name: str) -> Table:
    """The mean over sites of every method under every operator."""
    table = statistics.tables[group]
    best = {operator: _top(findings, statistics, group, operator, metric) for operator in table}
    rows = []
    methods = list(next(iter(table.values())))
    for method in methods:
        own = [statistics.at(group, operator, method, metric) for operator in table]
        cells = [_score(one, metric, method == best[at]) for at, one in zip(table, own, strict=True)]
        rows.append([_named(findings, method), number(max(one.n for one in own), ".0f"), *cells])
    header = ["method", "subjects", *(under(operator, statistics, group) for operator in table)]
    runs = [_runs(statistics, group, method) for method in methods]
    note = _absent(findings, statistics, group)
    return Table(f"{METRIC_LABELS[metric]}, {group}", header, rows, len(header) - 1, note, name, runs, metric != "psnr")


def by_site(findings: Findings, statistics: Statistics, group: Group, metric: str, name: str) -> Table:
    """The mean of every method at each site, under every operator."""
    table = statistics.tables[group]
    rows, runs = [], []
    for method in next(iter(table.values())):
        for site in statistics.sites:
            own = [statistics.at(group, operator, method, metric, site) for operator in table]
            if any(one.n or one.reason for one in own):
                cells = [_score(one, metric, False) for one in own]
                rows.append([_named(findings, method), plain(site), number(max(one.n for one in own), ".0f"), *cells])
                runs.append(_runs(statistics, group, method))
    header = ["method", "site", "subjects", *(under(operator, statistics, group) for operator in table)]
    return Table(f"{METRIC_LABELS[metric]} by site, {group}", header, rows, len(header) - 2, "", name, runs, True)


def _named(findings: Findings, method: str) -> Value:
    return Value(findings.label(method), key=method, title=findings.method(method).settings)


def _score(one: Estimate, metric: str, bold: bool) -> Value:
    if one.mean is None:
        return Value("missing" if one.reason else "–", title=one.reason)
    shown = METRICS[metric]
    text = format(one.mean, shown) + ("" if one.seeds is None else f" ± {one.seeds:{shown}}")
    small = [f"[{interval(one, shown)}]"] if one.low is not None else []
    small += [f"σ {one.subjects:{shown}}"] if one.subjects is not None else []
    return Value(text, "; ".join(small), f"{one.mean:.9g}", subjects(one.n), bold)


def _top(
    findings: Findings, statistics: Statistics, group: Group, operator: TestOperator | None, metric: str
) -> str | None:
    sign = -1 if metric == "nmse" else 1
    means = {
        name: sign * mean
        for name in statistics.tables[group][operator]
        if not findings.method(name).moved_data
        if (mean := statistics.at(group, operator, name, metric).mean) is not None
    }
    return max(means, key=lambda name: means[name]) if means else None


def _runs(statistics: Statistics, group: Group, method: str) -> list[str]:
    return sorted({run for samples in statistics.tables[group].values() for run in samples[method].runs})


def _absent(findings: Findings, statistics: Statistics, group: Group) -> str:
    """The reasons why trained methods of the study are not in a table, as text."""
    there = next(iter(statistics.tables[group].values()))
    gone = [method for method in findings.methods if method.name not in there and method.trains]
    return " ".join(f"{method.label} is not here: {_why(method, group)}." for method in gone)


def _why(method: Method, group: Group) -> str:
    if method.personal and not group.seen:
        return "each site has its own network, and a hospital that did not train has none"
    return "it was not trained so"


# --- tests, gaps, federation ---


def tests(findings: Findings, statistics: Statistics, group: Group, name: str) -> Table:
    """Every method against the references, under every operator."""
    return _compared(findings, statistics, statistics.tests[group], f"Tests {group}", name)


def site_tests(findings: Findings, statistics: Statistics, group: Group, name: str) -> Table:
    """Every method against the references at each site, for the mean over operators or the only operator."""
    return _compared(findings, statistics, statistics.site_tests[group], f"Tests by site, {group}", name, True)


def _compared(
    findings: Findings, statistics: Statistics, family: Sequence[Comparison], title: str, name: str, sites: bool = False
) -> Table:
    header = ["method", "against", *["site"] * sites, "operator", "subjects", "mean difference (dB)", "rank-biserial"]
    header += ["p", "p, Holm", "verdict"]
    rows = []
    for one in family:
        where = [plain(one.site)] * sites + [plain(under(one.operator, statistics, one.group))]
        rows.append([_named(findings, one.method), _named(findings, one.reference), *where, *_tested(one)])
    runs = [_of_both(statistics, one) for one in family]
    return Table(title, header, rows, 0, _family(family, "this table" if sites else WHOLE), name, runs, True)


def _of_both(statistics: Statistics, one: Comparison) -> list[str]:
    samples = statistics.tables[one.group][one.operator]
    return sorted({*samples[one.method].runs, *samples[one.reference].runs})


def _tested(one: Comparison) -> list[Value]:
    verdict = ("ahead" if one.ahead else "behind") if one.significant else "not significant"
    verdict += " for most subjects, not in the mean" if one.significant and one.split else ""
    if one.p is None:
        verdict = "not run" if not one.n else subjects(one.n) + ". " + _each(one)
    known = interval(one, "+.2f")
    mean = number(one.mean, "+.2f")
    return [
        Value(str(one.n), key=str(one.n), title=one.missing),
        Value(mean.text, f"[{known}]" if known else "", mean.key),
        number(one.effect, "+.2f"),
        Value(p_value(one.p), key="" if one.p is None else f"{one.p:.9g}"),
        Value(p_value(one.p_holm), key="" if one.p_holm is None else f"{one.p_holm:.9g}"),
        plain(verdict + (f" (left out: {one.missing})" if one.missing and one.n else "")),
    ]


def _each(one: Comparison) -> str:
    """The differences of all subjects, as text."""
    return "Differences: " + ", ".join(f"{site} {who} {signed(by, '+.2f')}" for (site, who), by in one.differences)


def _family(family: Sequence[Comparison], whole: str) -> str:
    """The comparisons in Holm's correction, as text. It says if none of them can be significant."""
    tested = [one for one in family if one.p is not None]
    if not tested:
        return f"No p-value is given: fewer than {MIN_SUBJECTS} subjects."
    size = tested[0].family
    text = f"Holm's correction is over the {size} different comparisons of {whole}."
    most = max(one.n for one in tested)
    least = 2 / 2**most * size
    if least >= 0.05:
        text += f" With {most} subjects none can be significant: the least p after Holm is {min(least, 1):.2f}."
    return text


def gaps(findings: Findings, statistics: Statistics) -> list[Table]:
    """One table for each comparison of generalisation gaps: methods (rows) by operators (columns)."""
    found: list[Table] = []
    for what, compared in dict.fromkeys((gap.what, gap.compared) for gap in statistics.gaps):
        own = [gap for gap in statistics.gaps if (gap.what, gap.compared) == (what, compared)]
        columns = max((list(gap.by_operator) for gap in own), key=len)
        rows = [[_named(findings, gap.method), *_gap(gap, columns)] for gap in own]
        header = ["method", *("mean of all" if one is None else str(one) for one in columns)]
        title = f"PSNR lost (dB): {compared}"
        runs = [_all_runs(statistics, gap.method) for gap in own]
        found.append(Table(title, header, rows, len(columns), "", f"gap-{len(found) + 1}", runs))
    return found


def _all_runs(statistics: Statistics, method: str) -> list[str]:
    return sorted({run for cell, one in statistics.grid.cells.items() if cell.method == method for run in one.runs})


def _gap(gap: Gap, columns: Sequence[TestOperator | None]) -> list[Value]:
    if gap.reason:
        return [plain(gap.reason), *[Value("–")] * (len(columns) - 1)]
    return [_difference(gap.by_operator.get(operator, Estimate(None))) for operator in columns]


def _difference(one: Estimate, mark: str = "") -> Value:
    if one.mean is None:
        return Value("missing" if one.reason else "–", title=one.reason)
    known = interval(one, "+.2f")
    return Value(signed(one.mean, "+.2f") + mark, f"[{known}]" if known else "", f"{one.mean:.9g}", subjects(one.n))


def payoffs(findings: Findings, statistics: Statistics) -> Table | None:
    """Every trained method minus local training; None if no comparison is possible."""
    if not statistics.payoffs:
        return None
    several = any(len(pay.mean) > 1 for pay in statistics.payoffs)
    operators = sorted({one for pay in statistics.payoffs for one in pay.mean if one is not None})
    columns: list[TestOperator | None] = [*([None] if several else []), *operators]
    rows, runs = [], []
    for pay in statistics.payoffs:
        marks = {at: "*" if test.significant else "" for at, test in pay.tests.items()}
        cells = [_difference(pay.mean.get(at, Estimate(None)), marks.get(at, "")) for at in columns]
        head = [_named(findings, pay.method), plain(pay.alone), plain(pay.group.where), plain(pay.group.how)]
        rows.append([*head, number(pay.n_sites, ".0f"), number(pay.slices, ".0f"), *cells])
        runs.append(_runs(statistics, pay.group, pay.method))
    header = ["method", "minus", "tested", "trained", "sites", "slices a site"]
    header += ["mean of all" if one is None else str(one) for one in columns]
    n = sum(test.p is not None for pay in statistics.payoffs for test in pay.tests.values())
    note = f"* significant after Holm's correction over the {n} comparisons of this table."
    note = note if n else f"No claim can be made with fewer than {MIN_SUBJECTS} subjects."
    note += " The local network is the tested hospital's own, also where others trained without it."
    return Table("PSNR gained over local training (dB)", header, rows, 2 + len(columns), note, "federation", runs)


def missing(findings: Findings) -> Table:
    """The missing cells, each with its reason."""
    order = [method.name for method in findings.methods]
    rows = [
        [
            _named(findings, one.method),
            plain(one.trained_on),
            plain(one.tested_on),
            plain(one.operator),
            plain(f"{one.noise:g}"),
            plain("all" if one.seed is None else str(one.seed)),
            plain(one.reason),
        ]
        for one in sorted(
            findings.missing,
            key=lambda one: (
                order.index(one.method),
                (one.trained_on, one.tested_on, one.mask, one.acceleration, one.noise),
                (-1 if one.seed is None else one.seed, one.reason),
            ),
        )
    ]
    return Table("Missing cells", ("method", "trained on", "tested on", "operator", "noise", "seed", "reason"), rows)


def all_tables(findings: Findings, statistics: Statistics) -> Iterable[Table]:
    """Yields the tables with a name: a user can copy them into a paper."""
    yield use(findings, statistics)
    for at, group in enumerate(statistics.tables, 1):
        for metric in METRICS:
            table = scores(findings, statistics, group, metric, f"{metric}-{at}")
            yield replace(table, note=f"{OF_SCORES} {table.note}".strip())
        yield by_site(findings, statistics, group, "psnr", f"psnr-by-site-{at}")
        yield tests(findings, statistics, group, f"tests-{at}")
    yield from gaps(findings, statistics)
    if (paid := payoffs(findings, statistics)) is not None:
        yield paid
