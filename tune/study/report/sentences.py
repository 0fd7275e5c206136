"""The statistics of a study as sentences. A sentence states only what the statistics support."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fedrecon.platform.reporting.figure import upper
from fedrecon.platform.reporting.table import signed
from fedrecon.tune.study.analysis.generalisation_gap import controls
from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.results import Candidate, Choice, Comparison, Gap, Payoff, Rival, Statistics, pair_of
from fedrecon.tune.study.analysis.samples import Estimate
from fedrecon.tune.study.analysis.significance import ALPHA, MIN_SEEDS, MIN_SUBJECTS

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


def networks(one: Comparison) -> str:
    """A comparison of a method with few seeds as text: of its networks alone, without a p-value."""
    return f"these very networks: ahead for {one.n_ahead} of {subjects(one.n).removeprefix('n = ')}"


def under(operator: TestOperator | None, statistics: Statistics, group: Group) -> str:
    """A test operator as text; None is the mean over the operators of the group, or each site's own operator."""
    if operator is not None:
        return str(operator)
    own, n = statistics.own_operators(group), statistics.n_operators(group)
    mean = f"mean of {n} operators"
    return (f"{mean}, each site's own" if n > 1 else "each site's own") if own else mean


def candidate(findings: Findings, one: Candidate, beside: str = "") -> str:
    """A candidate as text: the method, with the training's operator if it distinguishes candidates.

    ``beside`` is the method that it is compared with (see :meth:`Findings.label`).
    """
    return findings.label(one.method, beside) + (f" trained with {one.trained_with}" if one.trained_with else "")


def interval(one: Estimate | Comparison, shown: str = ".2f") -> str:
    """The interval as text; empty if there is no interval."""
    if one.low is None or one.high is None:
        return ""
    return f"{signed(one.low, shown)} to {signed(one.high, shown)}"


BELOW = "Below zero-filled: worse than no reconstruction"
"""The title of the sentences that come first."""


def in_short(findings: Findings, statistics: Statistics) -> dict[str, list[str]]:
    """The report in sentences, by question. What is below zero-filled comes first."""
    caveats = [*_few(statistics), *_missing(findings), *_coverage(statistics), *findings.notes]
    found = {
        BELOW: list(_below(findings, statistics)),
        "Which method is best?": list(_best(findings, statistics)),
        "What is lost outside of the training": list(_gaps(findings, statistics)),
        "Does federation pay?": list(_pays(findings, statistics)),
        "What to know before it is quoted": [*caveats, *_scope(findings, statistics)],
    }
    return {title: lines for title, lines in found.items() if lines}


def _below(findings: Findings, statistics: Statistics) -> Iterable[str]:
    """Yields the places where a method is below zero-filled: over all sites, else at single sites."""
    for group in statistics.tables:
        for method in next(iter(statistics.tables[group].values())):
            parts = []
            for operator in statistics.operators(group):
                whole = statistics.below.get((group, operator, method, ""))
                sites = {site: statistics.below.get((group, operator, method, site)) for site in statistics.sites}
                named = [(f" at {site}", by) for site, by in sites.items() if by is not None]
                shown = [("", whole)] if whole is not None else named
                parts += [f"{signed(by, '.2f')} dB{at} under {operator}" for at, by in shown]
            if parts:
                yield f"{findings.label(method)} {group}: {'; '.join(parts)}."


def _best(findings: Findings, statistics: Statistics) -> Iterable[str]:
    chosen = [own for own in statistics.choices.values() if own]
    for overall, *others in chosen[:MANY]:
        yield _choice(findings, statistics, overall) + _under_others(findings, overall, others)
    if len(chosen) > MANY:
        yield f"{len(chosen) - MANY} more conditions are in the table below."


def _choice(findings: Findings, statistics: Statistics, choice: Choice) -> str:
    best = choice.best
    one = statistics.at(best.group, choice.operator, best.method)
    rivals = [
        other
        for other in choice.others
        if statistics.at(other.candidate.group, choice.operator, other.candidate.method).mean is not None
    ]
    known = f"95 % interval {interval(one)}, " if one.low is not None else ""
    on = "validation subjects" if choice.by_validation else "test subjects themselves"
    how = f"{known}{under(choice.operator, statistics, best.group)}"
    text = f"{upper(choice.condition.where)} ({choice.condition.how}), {candidate(findings, best)} is chosen, by its "
    text += f"PSNR on the {on}. On the test subjects: {one.mean:.2f} dB ({how})"
    if rivals:
        text += f", {_ahead(findings, rivals[0])}{_of_untrained(findings, statistics, rivals)}"
    return text + _by_ssim(findings, statistics, choice) + "."


def _by_ssim(findings: Findings, statistics: Statistics, choice: Choice) -> str:
    """The candidate that SSIM chooses, if it is another one, as text."""
    own = statistics.in_ssim(choice)
    return "" if own.best == choice.best else f". By SSIM {candidate(findings, own.best)} is chosen"


def _ahead(findings: Findings, rival: Rival) -> str:
    """The lead of the best method over another one, as text."""
    other, name = rival.test, candidate(findings, rival.candidate)
    by = -(other.mean or 0.0)
    if other.p_holm is None and other.few_seeds and other.n >= MIN_SUBJECTS:
        known = f", 95 % interval {signed(-other.high, '+.2f')} to {signed(-other.low, '+.2f')}" if (
            other.low is not None and other.high is not None
        ) else ""  # fmt: skip
        behind = sum(difference < 0 for _, difference in other.differences)
        return (
            f"{signed(by, '+.2f')} dB from {name} (of these very networks, fewer than {MIN_SEEDS} seeds: ahead for "
            f"{behind} of {other.n} subjects{known}{_without(other)}{_by_site(other)})"
        )
    if other.p_holm is None:
        return f"{signed(by, '+.2f')} dB from {name} ({subjects(other.n)})"
    p = p_value(other.p_holm) if other.p_holm < 0.001 else f"= {p_value(other.p_holm)}"
    how = f"p {p} after Holm, n = {other.n} subjects{_without(other)}{_by_site(other)}"
    if not other.significant:
        return f"not distinguishable from {name} (difference {signed(by, '+.2f')} dB, {how})"
    if other.split:
        most = "ahead of" if by < 0 else "behind"
        return f"{signed(by, '+.2f')} dB from {name} in the mean, though {most} it for most subjects ({how})"
    return f"{abs(by):.2f} dB {'behind' if other.ahead else 'ahead of'} {name} ({how})"


def _by_site(other: Comparison) -> str:
    """The lead of the best method at each hospital, as text; empty for one hospital."""
    found: dict[str, list[float]] = {}
    for (site, _), by in other.differences:
        found.setdefault(site, []).append(-by)
    each = [f"{site} {signed(sum(own) / len(own), '+.2f')}" for site, own in sorted(found.items())]
    return f"; {', '.join(each)}" if len(each) > 1 else ""


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
    """A sentence with the operators under which another candidate is chosen; empty without any."""
    best: dict[str, list[str]] = {}
    for one in others:
        if one.best != overall.best:
            best.setdefault(candidate(findings, one.best), []).append(str(one.operator))
    listed = "; ".join(f"{name} ({', '.join(where)})" for name, where in best.items())
    return f" Elsewhere the choice is {listed}." if listed else ""


def _gaps(findings: Findings, statistics: Statistics) -> Iterable[str]:
    found: dict[tuple[str, str], list[Gap]] = {}
    for gap in statistics.gaps:
        if gap.overall.mean is not None:
            found.setdefault((gap.what, gap.compared), []).append(gap)
    for (what, compared), own in found.items():
        own.sort(key=lambda gap: -(gap.overall.mean or 0.0))
        name = "At another hospital" if what == "site" else "Under another operator"
        yield f"{name} ({compared}): {'; '.join(_lost(findings, gap) for gap in own)}."


def _lost(findings: Findings, gap: Gap) -> str:
    one = gap.overall
    mean, verb = one.mean or 0.0, "loses"
    if mean < 0:
        low, high = (None if end is None else -end for end in (one.high, one.low))
        mean, verb, one = -mean, "gains", replace(one, low=low, high=high)
    return f"{findings.label(gap.method)} {verb} {mean:.2f} dB ({interval(one) or subjects(one.n)})"


def _pays(findings: Findings, statistics: Statistics) -> Iterable[str]:
    yield from (line for over in ("local", "pooled") for line in _gained(findings, statistics, over))
    yield from _without_twin(findings, statistics)


def _gained(findings: Findings, statistics: Statistics, over: str) -> Iterable[str]:
    groups: dict[tuple[Group, str], list[Payoff]] = {}
    for pay in statistics.over(over):
        groups.setdefault((pay.group, pay.alone), []).append(pay)
    for (group, alone), own in list(groups.items())[:MANY]:
        tests = [next(iter(pay.tests.values())) for pay in own if pay.tests]
        name = f"{over} training" if alone == over else alone
        name += "" if group.seen or over == "pooled" else " of the tested hospital"
        yield f"{upper(group.where)} ({group.how}), against {name}: {_counted(findings, tests)}."


def _without_twin(findings: Findings, statistics: Statistics) -> Iterable[str]:
    """Yields the methods for which no gain is given, if the study has controls of this kind at all."""
    local, pooled = controls(findings)
    for over, kind, others in (("local", local, local), ("pooled", pooled, [*local, *pooled])):
        paid, none = {pay.method for pay in statistics.over(over)}, f"No gain over {over} training is given of"
        left = [one for one in findings.methods if one.trains and one.name not in paid and one not in others]
        alone = [one.label for one in left if not any(one.is_twin(twin) for twin in kind)]
        apart = [one.label for one in left if one.label not in alone]
        if kind and alone:
            yield f"{none} {', '.join(alone)}: no {over} twin of the same network and settings ran."
        if kind and apart:
            yield f"{none} {', '.join(apart)}: the {over} twin has no scores to compare with."


def _counted(findings: Findings, tests: Sequence[Comparison]) -> str:
    def listed(which: Iterable[Comparison]) -> str:
        return ", ".join(
            f"{findings.label(one.method)} ({signed(one.mean or 0.0, '+.2f')} dB{_without(one)})" for one in which
        )

    def few(one: Comparison) -> bool:
        return one.p_holm is None and one.few_seeds and one.n >= MIN_SUBJECTS

    kinds = {
        "ahead": [one for one in tests if one.significant and one.ahead],
        "behind": [one for one in tests if one.significant and not one.ahead],
        "not distinguishable": [one for one in tests if one.p_holm is not None and not one.significant],
        f"of these very networks, of fewer than {MIN_SEEDS} seeds": [one for one in tests if few(one)],
        "no claim can be made": [one for one in tests if one.p_holm is None and not few(one)],
    }
    return "; ".join(f"{name}: {listed(which)}" for name, which in kinds.items() if which) or "nothing to compare"


def _without(one: Comparison) -> str:
    """The sites that a paired difference leaves out, as text."""
    return f", without {', '.join(one.left_out)}" if one.left_out else ""


# --- caveats ---


def _few(statistics: Statistics) -> Iterable[str]:
    few = sorted(site for site, n in statistics.subjects.items() if n < MIN_SUBJECTS)
    if few:
        counts = ", ".join(f"{site} {statistics.subjects[site]}" for site in few)
        yield f"Too few subjects for a claim about one site alone (below {MIN_SUBJECTS}): {counts}."


def _missing(findings: Findings) -> Iterable[str]:
    if n := len(findings.missing):
        yield f"{n} cell{'s are' if n > 1 else ' is'} missing: a mean that needs one is missing too."


def _coverage(statistics: Statistics) -> Iterable[str]:
    """Yields how many of the comparisons were tested (PSNR and SSIM alike), and what the tested ones leave out."""
    every = [one for tests in statistics.tests.values() for one in tests]
    every += [rival.test for chosen in statistics.choices.values() for one in chosen for rival in one.others]
    own = list({pair_of(one): one for one in every}.values())  # a pair may be a test and a choice
    if not own:
        return
    tested = [one for one in own if one.p is not None]
    partly = [one for one in tested if one.left_out]
    text = f"{len(tested)} of {len(own)} comparisons have a test"
    if n := sum(not one.n for one in own):
        text += f"; {n} have no subject in common"
    if n := sum(0 < one.n < MIN_SUBJECTS for one in own):
        text += f"; {n} have fewer than {MIN_SUBJECTS} subjects"
    if n := sum(one.few_seeds and one.n >= MIN_SUBJECTS for one in own):
        text += f"; {n} are of networks of fewer than {MIN_SEEDS} seeds"
    if partly:
        sites = sorted({site for one in partly for site in one.left_out})
        text += f"; {len(partly)} of the tested ones leave out {', '.join(sites)}"
    yield text + "."


def _scope(findings: Findings, statistics: Statistics) -> Iterable[str]:
    """Yields the limits of tests over subjects: other seeds, other hospitals, other networks, pooled training."""
    if findings.synthetic:
        yield "The data are simulated: scores on measured raw data will differ."
    if not any(method.trains for method in findings.methods):
        return
    seeds: dict[str, set[int]] = {}
    for row in findings.scores:
        if row.seed is not None:
            seeds.setdefault(row.method, set()).add(row.seed)
    if few := {name: len(own) for name, own in seeds.items() if len(own) < MIN_SEEDS}:
        named = ", ".join(f"{findings.label(name)} {n}" for name, n in few.items())
        yield (
            f"Fewer than {MIN_SEEDS} seeds ({named}): what is said of these methods is of these very networks, and has "
            "no p-value. Trained again, close methods may change places."
        )
    if not all(choice.by_validation for own in statistics.choices.values() for choice in own):
        yield (
            "There are no scores of the validation subjects (of every candidate): the best is chosen by the same "
            "subjects that it is tested with, so its lead is a little too favourable."
        )
    if (n := len(statistics.sites)) > 1:
        yield f"Intervals and tests speak of new subjects of these {n} hospitals, not of another hospital."
    networks: dict[str, list[str]] = {}
    for method in findings.methods:
        if method.network:
            networks.setdefault(method.network, []).append(method.label)
    if len(networks) > 1:
        listed = "; ".join(f"{name}: {', '.join(own)}" for name, own in networks.items())
        yield f"Networks differ ({listed}): a difference between two of them is not due to the federation alone."
    if moved := [method.label for method in findings.methods if method.moved_data]:
        yield (
            f"Where {', '.join(moved)} is behind, that does not say that moving data hurts: 'pooled' under What ran "
            "says how it trained."
        )
