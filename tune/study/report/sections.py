"""The sections of a study's report, with the definitions of its terms and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedrecon.platform.reporting.document import Code, Document, Files, Part, Picture, Section, Text
from fedrecon.platform.reporting.latex import latex
from fedrecon.platform.reporting.markdown import grid
from fedrecon.platform.reporting.table import Row, Table, plain, words
from fedrecon.platform.runs.report import DEFINITIONS
from fedrecon.sites.extension.bibtex import entries
from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.study.analysis.analyse import TESTED
from fedrecon.tune.study.analysis.inputs import MOVED, PUBLISHED, Findings
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.analysis.significance import MIN_AT_A_SITE, MIN_SEEDS, MIN_SUBJECTS, RESAMPLES
from fedrecon.tune.study.report import tables
from fedrecon.tune.study.report.sentences import BELOW, in_short

TERMS = (
    "Scanned with: the mask that undersamples the test k-space, and its acceleration R. Trained with: the same of the "
    "training; a method without training, or a prior, has none.",
    "At hospitals that trained: other subjects of the tested hospital trained. At hospitals that did not train: nobody "
    "of it did.",
    "The base: what all methods share. What ran lists what each method changes.",
    "Local: each hospital trains its own network. Private part: what of a network a hospital keeps. Update: one step "
    "of the optimiser.",
    "Level with the best: the test finds no difference. That is no proof that there is none.",
)
HOW = (
    "The unit is the subject. A subject's score is the mean over seeds, a site's the mean over its subjects, and the "
    "mean over sites is unweighted.",
    "± is the standard deviation over seeds, σ that over subjects. The 95 % interval is a percentile bootstrap "
    f"({RESAMPLES} resamples), from {MIN_SUBJECTS} subjects on with at least {MIN_AT_A_SITE} at each site. A resample "
    f"draws subjects within sites, and from {MIN_SEEDS} seeds on seeds too, for each method its own. So it speaks of "
    "new subjects of these hospitals and of new trainings. With fewer seeds it draws subjects alone and speaks of "
    "these very networks.",
    "Methods are compared over the subjects that both have: Wilcoxon's signed-rank test, two-sided, with Holm's "
    "correction over all different comparisons of the same hospitals and trainings, the choice of the best among them. "
    f"PSNR and SSIM are each a family of their own. Below {MIN_SUBJECTS} subjects, or where a method trained with "
    f"fewer than {MIN_SEEDS} seeds, no p-value is given. Significant: p below .05 after Holm, and the interval does "
    "not hold 0.",
    "The effect is the matched-pairs rank-biserial correlation: 1 where the method is ahead for every subject. The "
    "difference is the mean over sites; where a significant test disagrees with it, the table says so.",
    "The best is chosen by its mean on the validation subjects, and tested on the test subjects: the choice does not "
    "favour its lead. It can be behind another there.",
    "A mean with a missing member is missing. Where several trainings of one kind saw a site, their mean counts.",
)


def document(findings: Findings, statistics: Statistics, figures: Sequence[Picture]) -> Document:
    """The whole report, section by section. A section that has nothing to show is left out."""

    def drawn(*kinds: str) -> list[Part]:
        return [one for one in figures if one.name.rpartition("-")[0] in kinds or one.name in kinds]

    groups = list(statistics.tables)
    gaps = tables.gaps(findings, statistics)
    paid = [one for over in ("local", "pooled") if (one := tables.payoffs(findings, statistics, over)).rows]
    scores = [tables.scores(findings, statistics, group, metric) for group in groups for metric in METRICS]
    by_site = [tables.by_site(findings, statistics, group, metric) for group in groups for metric in METRICS]
    files = Files([(table, latex(table), grid(table)) for table in tables.all_tables(findings, statistics)])
    lost = Text("PSNR where the training fits, less where it does not, of the same subjects: positive is lost.")
    sections = [
        Section("In short", [*_short(findings, statistics), *_reading(findings)]),
        Section("Scores", [Text(tables.of_scores(findings)), *scores] if scores else ()),
        Section("Scores by site", by_site),
        Section("Pictures", drawn("map-sites", "map-operators", "curve", "box", "panel")),
        Section("Tests", list(_tests(findings, statistics))),
        Section("What is lost outside of the training", [lost, *drawn("gaps"), *gaps] if gaps else ()),
        Section("Does federation pay?", [*drawn("gains", "gains-sites", "gains-slices"), *paid] if paid else ()),
        Section("Missing cells", [tables.missing(findings)] if findings.missing else ()),
        Section("What ran", list(_ran(findings))),
        Section("Tables to paste", [files] if files.tables else ()),
        Section("Cite what ran", _cited(findings) if findings.citations else ()),
    ]
    counts = {site: statistics.subjects.get(site, 0) for site in statistics.sites}
    sites = ", ".join(f"{site} ({n} test subject{'s' * (n != 1)})" for site, n in counts.items())
    facts = {"study": findings.study, "status": findings.status, "sites": sites}
    return Document(findings.title, "study", facts, sections)


def _short(findings: Findings, statistics: Statistics) -> Iterable[Part]:
    for title, lines in in_short(findings, statistics).items():
        yield Text(title, lines, short=True, tone="bad" if title == BELOW else "")
    if (use := tables.use(findings, statistics)).rows:
        yield use


def _reading(findings: Findings) -> list[Part]:
    """The definitions of the terms, scores and statistics of the report."""
    labels = "".join(method.label for method in findings.methods)
    marks = {
        MOVED: "data were moved to one place: a control, not federated, and never the best here.",
        PUBLISHED: "private parts of networks left their sites.",
    }
    terms = [*TERMS, *(f"{mark}: {meaning}" for mark, meaning in marks.items() if mark in labels)]
    scores = [" ".join(one.split()).replace("*", "") for one in DEFINITIONS.removeprefix("- ").split("\n- ")]
    kinds = {"The words of this report": terms, "The scores": scores, "Means, spreads and tests": HOW}
    return [Text(title, points, folded=True) for title, points in kinds.items()]


def _tests(findings: Findings, statistics: Statistics) -> Iterable[Part]:
    if not statistics.references:
        return
    named = ", ".join(f"{findings.label(name)} ({statistics.why[name]})" for name in statistics.references)
    yield Text(f"Every method is compared with {named}. Differences are method minus reference.")
    for group in statistics.tables:
        for metric in TESTED:
            yield tables.tests(findings, statistics, group, "", metric)
            yield tables.site_tests(findings, statistics, group, metric)


def _ran(findings: Findings) -> Iterable[Part]:
    rows = []
    for method in findings.methods:
        network = "each site its own" if method.personal else "one for all" if method.trains else "–"
        texts = (method.label, method.about or "–", method.settings or "–", "yes" if method.trains else "no", network)
        budget = (method.updates or "–", method.passes or "–")
        rows.append(Row([plain(text) for text in (*texts, *budget)]))
    columns = words("method", "what it is", "settings", "trains", "network", "updates", "passes")
    note = (
        "Updates: optimiser steps of one site (of the one network where data were moved) in one training. Passes: how "
        "often each of its training slices is seen. A range: of the sites of all trainings, with all limits of slices."
    )
    yield Table("Methods", columns, rows, note)
    if findings.facts:
        facts = [Row([plain(name), plain(text)]) for name, text in findings.facts.items()]
        yield Table("Facts", words("what", "how it was"), facts)


def _cited(findings: Findings) -> list[Part]:
    rows = []
    for work, used in findings.citations.items():
        entry = entries(work)[0]
        rows.append(Row([plain(f"{entry.title}, {entry.key}"), plain(", ".join(used))]))
    return [
        Table("What to cite for what", words("work", "for"), rows),
        Code("BibTeX", "\n\n".join(findings.citations), "bibtex"),
    ]
