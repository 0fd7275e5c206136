"""The tables of a study's report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fedrecon.platform.reporting.table import Column, Row, Table, Value, number, numbers, plain, signed, words
from fedrecon.sites.score_columns import METRIC_LABELS, METRICS
from fedrecon.sites.scoring.settings import AGAINST
from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import MARKS, UNLIKE, Findings, Method
from fedrecon.tune.study.analysis.results import Choice, Comparison, Gap, Payoff, Statistics
from fedrecon.tune.study.analysis.samples import Estimate
from fedrecon.tune.study.analysis.significance import MIN_SEEDS, MIN_SUBJECTS
from fedrecon.tune.study.report.sentences import candidate, interval, networks, p_value, subjects, under

SIGNED = {"psnr": "+.2f", "ssim": "+.4f"}
"""The number format of a difference, by metric."""


def of_scores(findings: Findings, metric: str = "") -> str:
    """What the tables of scores show; without a metric, all of them."""
    best = {"nmse": "lowest", "": "best"}.get(metric, "highest")
    below = "; ↓ and red: below zero-filled" if metric in ("", "psnr") else ""
    return (
        f"Scores are {AGAINST[findings.reference]}. Mean ± standard deviation over seeds, where there are several. "
        f"Below it the 95 % interval, from {MIN_SUBJECTS} subjects on: over seeds and subjects from {MIN_SEEDS} seeds "
        f"on, else over subjects, of these very networks. σ is the standard deviation over subjects. Bold: the {best} "
        f"mean of the methods that moved no data{below}."
    )


def use(findings: Findings, statistics: Statistics) -> Table:
    """The best method for each condition and test operator."""
    chosen = [choice for own in statistics.choices.values() for choice in (*own[1:], *own[:1])]  # the mean comes last
    pairs = [(choice, statistics.in_ssim(choice)) for choice in chosen]
    shown = [name for name in ("ahead", "undecided") if any(getattr(one, name) for pair in pairs for one in pair)]
    heads = {"ahead": "ahead of it", "undecided": "no claim about"}
    columns = words("tested", "trained", "scanned with")
    for metric in ("psnr", "ssim"):
        columns += words(
            f"best in {metric.upper()}",
            METRIC_LABELS[metric],
            f"level in {metric.upper()}",
            *(heads[one] for one in shown),
        )
    columns += words("subjects", "chosen on")
    rows = []
    for pair in pairs:
        runs = {
            run
            for one in pair
            for run in statistics.tables[one.best.group][one.operator][one.best.method].runs
        }  # fmt: skip
        rows.append(Row(_use(findings, statistics, pair, shown), sorted(runs)))
    note = (
        "The best has the highest mean on the validation subjects, of the methods that moved no data. Its score and "
        "the tests (Wilcoxon, Holm; PSNR and SSIM each in a family of its own) are of the test subjects. Level with "
        f"it: not significantly different. No claim: fewer than {MIN_SUBJECTS} subjects in common, or a method of "
        f"fewer than {MIN_SEEDS} seeds. Scores are {AGAINST[findings.reference]}."
    )
    return _unlike(Table("Which method to use where", columns, rows, note, "which"))


def _use(findings: Findings, statistics: Statistics, pair: Sequence[Choice], shown: Sequence[str]) -> list[Value]:
    first = pair[0]
    row = [plain(first.condition.where), plain(first.condition.how)]
    row += [plain(under(first.operator, statistics, first.best.group))]
    for choice in pair:
        best = choice.best
        row += [
            Value(candidate(findings, best), key=best.method, bold=True),
            _score(statistics.at(best.group, choice.operator, best.method, choice.metric), choice.metric),
        ]
        for names in (choice.level, *(getattr(choice, one) for one in shown)):
            shown_names = [candidate(findings, each, best.method) for each in names]
            unlike = UNLIKE * any(UNLIKE in each for each in shown_names)
            whole = len(names) == len(choice.others) > 1
            row += [plain(f"all others{unlike}" if whole else ", ".join(shown_names) or "–")]
    n = statistics.at(first.best.group, first.operator, first.best.method).n
    on = "validation" if all(one.by_validation for one in pair) else "test"
    return [*row, Value(str(n), key=str(n)), plain(on)]


def scores(findings: Findings, statistics: Statistics, group: Group, metric: str, name: str = "") -> Table:
    """The mean over sites of every method under every operator."""
    table = statistics.tables[group]
    rows = [_scores(findings, statistics, group, method, metric, "", []) for method in next(iter(table.values()))]
    columns = [*words("method"), *numbers("subjects", *(under(one, statistics, group) for one in table))]
    title = f"{METRIC_LABELS[metric]}, {group}"
    return Table(title, columns, rows, _absent(findings, statistics, group), name, folded=metric != "psnr")


def by_site(findings: Findings, statistics: Statistics, group: Group, metric: str, name: str = "") -> Table:
    """The mean of every method at each site, under every operator."""
    table = statistics.tables[group]
    rows = [
        _scores(findings, statistics, group, method, metric, site, [plain(site)])
        for method in next(iter(table.values()))
        for site in statistics.sites
        if any((at := statistics.at(group, one, method, metric, site)).n or at.reason for one in table)
    ]
    columns = [*words("method", "site"), *numbers("subjects", *(under(one, statistics, group) for one in table))]
    return Table(f"{METRIC_LABELS[metric]} by site, {group}", columns, rows, "", name, folded=True)


def _scores(
    findings: Findings, statistics: Statistics, group: Group, method: str, metric: str, site: str, where: list[Value]
) -> Row:
    """One row of scores: method, site, number of subjects, one cell for each operator."""
    table = statistics.tables[group]
    own = {operator: statistics.at(group, operator, method, metric, site) for operator in table}
    cells = [
        _score(
            one,
            metric,
            not site and method == _top(findings, statistics, group, at, metric),
            metric == "psnr" and (group, at, method, site) in statistics.below,
        )
        for at, one in own.items()
    ]
    n = number(max(one.n for one in own.values()), ".0f")
    return Row([_named(findings, method), *where, n, *cells], _runs(statistics, group, method))


def _named(findings: Findings, method: str, beside: str = "") -> Value:
    return Value(findings.label(method, beside), key=method, title=findings.method(method).settings)


def _score(one: Estimate, metric: str, bold: bool = False, low: bool = False) -> Value:
    if one.mean is None:
        return _lacking(one)
    shown = METRICS[metric]
    text = format(one.mean, shown) + ("" if one.seeds is None else f" ± {one.seeds:{shown}}")
    below = [f"[{interval(one, shown)}]"] if one.low is not None else []
    below += [f"σ {one.subjects:{shown}}"] if one.subjects is not None else []
    text += " ↓" if low else ""  # a pasted table has no colour
    return Value(text, tuple(below), f"{one.mean:.9g}", subjects(one.n), bold, "bad" if low else "")


def _lacking(one: Estimate) -> Value:
    return Value("missing" if one.reason else "–", title=one.reason)


def _top(
    findings: Findings, statistics: Statistics, group: Group, operator: TestOperator | None, metric: str
) -> str | None:
    """The method with the best mean of those that moved no data."""
    sign = -1 if metric == "nmse" else 1
    means = {
        name: sign * mean
        for name in statistics.tables[group][operator]
        if not findings.method(name).moved_data
        if (mean := statistics.at(group, operator, name, metric).mean) is not None
    }
    return max(means, key=lambda name: means[name], default=None)


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


def tests(findings: Findings, statistics: Statistics, group: Group, name: str, metric: str) -> Table:
    """Every method against the references, under every operator."""
    family = statistics.tested[metric].tests[group]
    return _compared(findings, statistics, family, f"Tests in {metric.upper()} {group}", name, metric)


def site_tests(findings: Findings, statistics: Statistics, group: Group, metric: str = "psnr") -> Table:
    """Every method against the references at each site, for the mean over operators or the only operator."""
    family = statistics.tested[metric].site_tests[group]
    return _compared(findings, statistics, family, f"Tests in {metric.upper()} by site, {group}", "", metric, True)


def _compared(
    findings: Findings,
    statistics: Statistics,
    family: Sequence[Comparison],
    title: str,
    name: str,
    metric: str,
    sites: bool = False,
) -> Table:
    columns = words("method", "against", *["site"] * sites, "operator")
    unit = " (dB)" if metric == "psnr" else ""
    columns += [*numbers("subjects", f"mean difference{unit}", "rank-biserial", "p", "p, Holm"), *words("verdict")]
    rows = []
    for one in family:
        where = [plain(one.site)] * sites + [plain(under(one.operator, statistics, one.group))]
        named = [_named(findings, one.method), _named(findings, one.reference, one.method)]
        samples = statistics.tables[one.group][one.operator]
        runs = sorted({*samples[one.method].runs, *samples[one.reference].runs})
        rows.append(Row([*named, *where, *_tested(one)], runs))
    whole = (
        "this table"
        if sites
        else f"all tables of tests in {metric.upper()} of these hospitals and trainings, and the choice of the best"
    )
    return _unlike(Table(title, columns, rows, _family(family, whole), name, folded=True))


def _tested(one: Comparison) -> list[Value]:
    shown = SIGNED[one.metric]
    verdict = ("ahead" if one.ahead else "behind") if one.significant else "not significant"
    verdict += " for most subjects, not in the mean" if one.significant and one.split else ""
    verdict += ": the interval holds 0" if one.p_holm is not None and one.may_be_zero else ""
    if one.p is None and one.few_seeds and one.n >= MIN_SUBJECTS:
        verdict = networks(one)
    elif one.p is None:
        verdict = f"{subjects(one.n)}. Differences: {_each(one)}" if one.n else "not run"
    known = interval(one, shown)
    mean = number(one.mean, shown)
    return [
        Value(str(one.n), key=str(one.n), title=one.missing),
        replace(mean, below=(f"[{known}]",) if known else ()),
        number(one.effect, "+.2f"),
        *(Value(p_value(p), key="" if p is None else f"{p:.9g}") for p in (one.p, one.p_holm)),
        plain(verdict + (f" (left out: {one.missing})" if one.missing and one.n else "")),
    ]


def _each(one: Comparison) -> str:
    return ", ".join(f"{site} {who} {signed(by, SIGNED[one.metric])}" for (site, who), by in one.differences)


def _family(family: Sequence[Comparison], whole: str) -> str:
    """The comparisons in Holm's correction, as text. It says if none of them can be significant."""
    tested = [one for one in family if one.p is not None]
    if not tested:
        return f"No p-value is given: fewer than {MIN_SUBJECTS} subjects, or fewer than {MIN_SEEDS} seeds of a method."
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
    for (_, compared), own in by_comparison(statistics.gaps).items():
        operators = max((list(gap.by_operator) for gap in own), key=len)
        runs = statistics.runs_of
        rows = [Row([_named(findings, gap.method), *_gap(gap, operators)], runs(gap.method)) for gap in own]
        columns = [*words("method"), *_operators(operators)]
        found.append(Table(f"PSNR lost (dB): {compared}", columns, rows, "", f"gap-{len(found) + 1}"))
    return found


def by_comparison(gaps: Iterable[Gap]) -> dict[tuple[str, str], list[Gap]]:
    """The gaps of each comparison."""
    found: dict[tuple[str, str], list[Gap]] = {}
    for gap in gaps:
        found.setdefault((gap.what, gap.compared), []).append(gap)
    return found


def _operators(operators: Iterable[TestOperator | None]) -> list[Column]:
    return numbers(*("mean of all" if one is None else str(one) for one in operators))


def _gap(gap: Gap, operators: Sequence[TestOperator | None]) -> list[Value]:
    if gap.reason:
        return [plain(gap.reason), *[Value("–")] * (len(operators) - 1)]
    return [_difference(gap.by_operator.get(operator, Estimate(None))) for operator in operators]


def _difference(one: Estimate, mark: str = "") -> Value:
    if one.mean is None:
        return _lacking(one)
    known = interval(one, "+.2f")
    below = (f"[{known}]",) if known else ()
    return Value(signed(one.mean, "+.2f") + mark, below, f"{one.mean:.9g}", subjects(one.n))


def payoffs(findings: Findings, statistics: Statistics, over: str = "local") -> Table:
    """Every trained method minus its local (or pooled) twin; without rows if no comparison is possible."""
    paid = statistics.over(over)
    several = any(len(pay.mean) > 1 for pay in paid)
    operators = [*([None] if several else []), *sorted({one for pay in paid for one in pay.mean if one is not None})]
    columns = [*words("method", "minus", "tested", "trained"), *numbers("sites", "slices a site")]
    rows = [Row(_payoff(findings, pay, operators), _runs(statistics, pay.group, pay.method)) for pay in paid]
    n = max((test.family for pay in paid for test in pay.tests.values() if test.p is not None), default=0)
    note = f"* significant after Holm's correction over the {n} different comparisons of this table."
    none = f"No claim can be made about a method with fewer than {MIN_SUBJECTS} subjects or {MIN_SEEDS} seeds."
    note = note if n else none
    note += {
        "local": " The local network is the tested hospital's own, also where others trained without it.",
        "pooled": " The pooled network was trained on the same sites.",
    }[over]
    note += " Only twins are compared: the same network and settings, another strategy."
    name = "federation" if over == "local" else "federation-pooled"
    return Table(f"PSNR gained over {over} training (dB)", [*columns, *_operators(operators)], rows, note, name)


def _payoff(findings: Findings, pay: Payoff, operators: Sequence[TestOperator | None]) -> list[Value]:
    marks = {at: "*" if test.significant else "" for at, test in pay.tests.items()}
    cells = [_difference(pay.mean.get(at, Estimate(None)), marks.get(at, "")) for at in operators]
    head = [_named(findings, pay.method), *map(plain, (pay.alone, pay.group.where, pay.group.how))]
    return [*head, number(pay.n_sites, ".0f"), number(pay.slices, ".0f"), *cells]


def missing(findings: Findings) -> Table:
    """The missing cells, each with its reason."""
    order = [method.name for method in findings.methods]
    own = sorted(
        findings.missing,
        key=lambda one: (
            order.index(one.method),
            (one.trained_on, one.tested_on, one.mask, one.acceleration, one.noise),
            (-1 if one.seed is None else one.seed, one.reason),
        ),
    )
    rows = []
    for one in own:
        seed = "all" if one.seed is None else str(one.seed)
        texts = (one.trained_on, one.tested_on, one.operator, f"{one.noise:g}", seed, one.reason)
        rows.append(Row([_named(findings, one.method), *map(plain, texts)]))
    columns = words("method", "trained on", "tested on", "operator", "noise", "seed", "reason")
    return Table("Missing cells", columns, rows, "A mean that needs a missing cell is missing too.")


def all_tables(findings: Findings, statistics: Statistics) -> list[Table]:
    """The tables with a name and rows: a user can copy them into a paper. Their notes explain the marks in them."""
    found = [use(findings, statistics)]
    for at, group in enumerate(statistics.tables, 1):
        for metric in METRICS:
            table = scores(findings, statistics, group, metric, f"{metric}-{at}")
            found.append(replace(table, note=f"{of_scores(findings, metric)} {table.note}".strip()))
        found.append(by_site(findings, statistics, group, "psnr", f"psnr-by-site-{at}"))
        found.append(tests(findings, statistics, group, f"tests-{at}", "psnr"))
        found.append(tests(findings, statistics, group, f"tests-ssim-{at}", "ssim"))
    found += [*gaps(findings, statistics), *(payoffs(findings, statistics, over) for over in ("local", "pooled"))]
    return [_explained(table) for table in found if table.rows]


def _unlike(table: Table) -> Table:
    """The table with the meaning of :data:`UNLIKE` in its note, where it stands."""
    if not any(UNLIKE in value.text for row in table.rows for value in row.values):
        return table
    return replace(
        table,
        note=f"{table.note} {UNLIKE} is another network or has other settings: the strategy is not the only cause.",
    )


def _explained(table: Table) -> Table:
    texts = "".join(value.text for row in table.rows for value in row.values)
    meanings = [meaning for mark, meaning in MARKS.items() if mark in texts]
    return replace(table, note=". ".join(one.rstrip(".") for one in (table.note, *meanings) if one))
