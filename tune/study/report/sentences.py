"""The statistics of a study as sentences. A sentence states only what the statistics support."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.results import Candidate, Choice, Comparison, Gap, Payoff, Rival, Statistics
from fedrecon.tune.study.analysis.samples import Estimate
from fedrecon.tune.study.analysis.significance import ALPHA, MIN_SUBJECTS
from fedrecon.tune.study.report.document import signed

MANY = 6
"""The largest number of conditions with a sentence. The table has all conditions."""


def p_value(p: float | None) -> str:
    """A p-value as papers write it."""
    if p is None:
        return "–"
    if p < 0.001 or p > 0.9995:
        return "< .001" if p < 0.001 else "1"
    near = round(p, 3) == ALPHA and p != ALPHA  # one more digit shows on which side of ALPHA it is
    return f"{p:.{4 if near else 3}f}".removeprefix("0")


def subjects(n: int) -> str:
    """A number of subjects as text; it says if they are too few for a test."""
    return f"n = {n} subject{'s' * (n != 1)}" + ("" if n >= MIN_SUBJECTS else ": no claim can be made")


def under(operator: TestOperator | None, statistics: Statistics, group: Group) -> str:
    """A test operator as text; None is the mean over the operators of the group, or each site's own operator."""
    if operator is not None:
        return str(operator)
    return (
        "each site's own"
        if statistics.own_operators(group)
        else f"mean of {len(statistics.operators(group))} operators"
    )


def candidate(findings: Findings, one: Candidate) -> str:
    """A candidate as text: the method, with the training's operator if it distinguishes candidates."""
    return findings.label(one.method) + (f" trained with {one.trained_with}" if one.trained_with else "")


def interval(one: Estimate | Comparison, shown: str = ".2f") -> str:
    """The interval as text; empty if there is no interval."""
    if one.low is None or one.high is None:
        return ""
    return f"{signed(one.low, shown)} to {signed(one.high, shown)}"


def in_short(findings: Findings, statistics: Statistics) -> dict[str, list[str]]:
    """The report in sentences, by question."""
    found = {
        "Which method is best?": list(_best(findings, statistics)),
        "What is lost outside of the training": list(_gaps(findings, statistics)),
        "Does federation pay?": list(_pays(findings, statistics)),
        "What to know before it is quoted": [
            *_no_claims(statistics),
            *_missing(findings),
            *findings.notes,
            *_scope(findings, statistics),
            *_simulated(findings),
        ],
    }
    return {title: lines for title, lines in found.items() if lines}


def _best(findings: Findings, statistics: Statistics) -> Iterable[str]:
    chosen = [own for own in statistics.choices.values() if own]
    for own in chosen[:MANY]:
        overall, *others = own
        yield _choice(findings, statistics, overall) + _under_others(findings, overall, others)
    if len(chosen) > MANY:
        yield f"{len(chosen) - MANY} more conditions are in the table below."


def _choice(findings: Findings, statistics: Statistics, choice: Choice) -> str:
    best = choice.best
    one = statistics.at(best.group, choice.operator, best.method)
    where = choice.condition.where[0].upper() + choice.condition.where[1:]
    known = ", ".join(filter(None, [_between(one), under(choice.operator, statistics, best.group)]))
    scores = [
        statistics.at(other.candidate.group, choice.operator, other.candidate.method).mean for other in choice.others
    ]
    rivals = [other for other, mean in zip(choice.others, scores, strict=True) if mean is not None]
    sure = rivals and all(other.test.significant for other in choice.others)
    has = "has the best PSNR" if sure else "has the highest mean PSNR"
    text = f"{where} ({choice.condition.how}), {candidate(findings, best)} {has} of the methods that moved no data: "
    text += f"{one.mean:.2f} dB ({known})"
    if rivals:
        text += f", {_ahead(findings, rivals[0])}"
        text += _of_untrained(findings, statistics, rivals)
    if choice.in_ssim != best:
        text += f". The highest mean SSIM is that of {candidate(findings, choice.in_ssim)}"
    return text + "."


def _between(one: Estimate) -> str:
    return f"95 % interval {interval(one)}" if one.low is not None else ""


def _ahead(findings: Findings, rival: Rival) -> str:
    """The lead of the best method over another one, as text."""
    other, name = rival.test, candidate(findings, rival.candidate)
    by = -(other.mean or 0.0)
    if other.p_holm is None:
        return f"{signed(by, '+.2f')} dB from {name} ({subjects(other.n)})"
    how = f"p {_equals(other.p_holm)} after Holm, n = {other.n} subjects{_without(other)}"
    how += _by_site(other)
    if not other.significant:
        return f"not distinguishable from {name} (difference {signed(by, '+.2f')} dB, {how})"
    if other.split:
        return f"{signed(by, '+.2f')} dB from {name} in the mean, though behind it for most subjects ({how})"
    return f"{signed(by, '.2f')} dB ahead of {name} ({how})"


def _by_site(other: Comparison) -> str:
    """The lead of the best method at each hospital, as text; empty for one hospital."""
    found: dict[str, list[float]] = {}
    for (site, _), by in other.differences:
        found.setdefault(site, []).append(-by)
    each = [f"{site} {signed(sum(own) / len(own), '+.2f')}" for site, own in sorted(found.items())]
    return f"; {', '.join(each)}" if len(each) > 1 else ""


def _equals(p: float) -> str:
    return p_value(p) if p < 0.001 else f"= {p_value(p)}"


def _of_untrained(findings: Findings, statistics: Statistics, rivals: Sequence[Rival]) -> str:
    """The lead over the first reference without training, if the first rival is a method that trains."""
    own = [
        one
        for one in rivals[1:]
        if not findings.method(one.candidate.method).trains and one.candidate.method in statistics.references
    ]
    first = findings.method(rivals[0].candidate.method)
    return f", and {_ahead(findings, own[0])}" if own and first.trains else ""


def _under_others(findings: Findings, overall: Choice, others: Sequence[Choice]) -> str:
    """A sentence with the operators under which another candidate has the highest mean; empty without any."""
    best: dict[str, list[str]] = {}
    for one in others:
        if one.best != overall.best:
            best.setdefault(candidate(findings, one.best), []).append(str(one.operator))
    listed = "; ".join(f"{name} ({', '.join(where)})" for name, where in best.items())
    return f" Under some operators the highest mean is that of {listed}." if listed else ""


def _gaps(findings: Findings, statistics: Statistics) -> Iterable[str]:
    for what, compared in dict.fromkeys((gap.what, gap.compared) for gap in statistics.gaps):
        own = [gap for gap in statistics.gaps if (gap.what, gap.compared) == (what, compared)]
        known = sorted((gap for gap in own if gap.overall.mean is not None), key=lambda gap: -(gap.overall.mean or 0.0))
        if known:
            name = "At another hospital" if what == "site" else "Under another operator"
            yield f"{name} ({compared}): {'; '.join(_lost(findings, gap) for gap in known)}."


def _lost(findings: Findings, gap: Gap) -> str:
    one, extent = gap.overall, interval(gap.overall)
    verb = "loses" if (one.mean or 0.0) >= 0 else "gains"
    known = f" ({extent})" if extent else f" ({subjects(one.n)})"
    return f"{findings.label(gap.method)} {verb} {abs(one.mean or 0.0):.2f} dB{known}"


def _pays(findings: Findings, statistics: Statistics) -> Iterable[str]:
    groups: dict[tuple[Group, str], list[Payoff]] = {}
    for pay in statistics.payoffs:
        groups.setdefault((pay.group, pay.alone), []).append(pay)
    for (group, alone), own in list(groups.items())[:MANY]:
        tests = [next(iter(pay.tests.values())) for pay in own if pay.tests]
        name = "local training" if alone == "local" else alone
        name += "" if group.seen else " of the tested hospital"
        where = f"{group.where[0].upper()}{group.where[1:]} ({group.how})"
        yield f"{where}, against {name} (mean differences): {_counted(findings, tests)}."
    paid = {pay.method for pay in statistics.payoffs}
    if paid and (
        left := [one.label for one in findings.methods if one.trains and one.name not in paid and not one.alone]
    ):
        yield f"Nothing is said of {', '.join(left)}: no local training of the same network ran."


def _counted(findings: Findings, tests: Sequence[Comparison]) -> str:
    def listed(which: Iterable[Comparison]) -> str:
        return ", ".join(
            f"{findings.label(one.method)} ({signed(one.mean or 0.0, '+.2f')} dB{_without(one)})" for one in which
        )

    kinds = {
        "ahead": [one for one in tests if one.significant and one.ahead],
        "behind": [one for one in tests if one.significant and not one.ahead],
        "not distinguishable": [one for one in tests if one.p_holm is not None and not one.significant],
        "no claim can be made": [one for one in tests if one.p_holm is None],
    }
    return "; ".join(f"{name}: {listed(which)}" for name, which in kinds.items() if which) or "nothing to compare"


def _without(one: Comparison) -> str:
    """The sites that a paired difference leaves out, as text."""
    return f", without {', '.join(one.left_out)}" if one.left_out else ""


def _no_claims(statistics: Statistics) -> Iterable[str]:
    few = sorted(site for site, n in statistics.subjects.items() if n < MIN_SUBJECTS)
    if few:
        counts = ", ".join(f"{site} {statistics.subjects[site]}" for site in few)
        yield (
            f"Too few subjects for a claim about one site alone: {counts}. Below {MIN_SUBJECTS} subjects the report "
            "gives neither a p-value nor an interval, and lists the differences of the subjects instead."
        )


def _missing(findings: Findings) -> Iterable[str]:
    if n := len(findings.missing):
        yield f"{n} cell{'s are' if n > 1 else ' is'} missing: a mean that needs one is missing too."


def _scope(findings: Findings, statistics: Statistics) -> Iterable[str]:
    """Yields the limits of tests over subjects: other seeds, other hospitals, other networks, pooled training."""
    if not any(method.trains for method in findings.methods):
        return
    seeds: dict[str, set[int]] = {}
    for row in findings.scores:
        if row.seed is not None:
            seeds.setdefault(row.method, set()).add(row.seed)
    counts = sorted({len(own) for own in seeds.values()})
    how_many = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"
    yield (
        f"Tests are over subjects, of these very networks ({how_many} seed{'s' * (how_many != '1')} a method): trained "
        "again, close methods may change places. They are of PSNR; SSIM and NMSE are in the tables."
    )
    if (n := len(statistics.sites)) > 1:
        yield (
            f"Intervals and tests are about new subjects of these {n} hospitals; they do not say how far one more "
            "hospital would differ."
        )
    networks: dict[str, list[str]] = {}
    for method in findings.methods:
        if method.network:
            networks.setdefault(method.network, []).append(method.label)
    if len(networks) > 1:
        listed = "; ".join(f"{name}: {', '.join(own)}" for name, own in networks.items())
        yield (
            f"Networks differ ({listed}), and with them what they know of the measurement and how long they train: a "
            "difference between two of them is none of the federation alone."
        )
    if moved := [method.label for method in findings.methods if method.moved_data]:
        yield (
            f"{', '.join(moved)}: where it is behind, that does not say that moving data hurts; 'pooled' under What "
            "ran says how much it trained."
        )


def _simulated(findings: Findings) -> Iterable[str]:
    if findings.synthetic:
        yield "The data are simulated: scores on measured raw data will differ."
