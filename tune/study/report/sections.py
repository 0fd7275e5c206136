"""The sections of a study's report, with the definitions of its terms and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedrecon.platform.runs.report import DEFINITIONS
from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.study.analysis.inputs import MOVED, PUBLISHED, Findings
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.analysis.significance import MIN_AT_A_SITE, MIN_SUBJECTS, RESAMPLES
from fedrecon.tune.study.report import tables
from fedrecon.tune.study.report.bibtex import bibtex, cited
from fedrecon.tune.study.report.document import Code, Document, Part, Picture, Section, Table, Text, grid, plain
from fedrecon.tune.study.report.latex import latex
from fedrecon.tune.study.report.sentences import in_short

TERMS = """\
- *Scanned with*: how the test subjects were measured: the mask that undersamples k-space and its acceleration R.
  *Trained with*: the same of the training. A method without training, or a prior, knows no such operator.
- *At hospitals that trained*: the test subjects are new, but other subjects of their hospital trained. *At hospitals
  that did not train*: nobody of that hospital did.
- *The base*: what all methods share; each method's settings under What ran are what differs from it.
- *Local*: each hospital trains its own network and nothing is shared. *Private part*: what of a network a hospital
  keeps. *Update*: one step of the optimiser, on one batch of slices.
- *Level with the best*: the test finds no difference, which is no proof that there is none."""
HOW = f"""\
- The unit is the subject, never the slice: of each subject the mean over seeds is taken, of each site the mean over
  its subjects, and the mean over sites is unweighted, so a hospital with many patients counts as one.
- ± is the standard deviation over seeds, σ that over subjects; they are never added up. The 95 % interval is a
  percentile bootstrap over subjects ({RESAMPLES} resamples, drawn within sites, always the same ones). It is given from
  {MIN_SUBJECTS} subjects on, of a mean over sites with at least {MIN_AT_A_SITE} at each. It does not hold the spread
  over seeds.
- Methods are compared over the subjects that both have, by Wilcoxon's signed-rank test, two-sided, with Holm's
  correction over all different comparisons of one place: its tables of tests and its choice of the best together.
  With fewer than {MIN_SUBJECTS} subjects no p-value is given: with 6 a test can just reach .05, with a correction
  never. The effect size is the matched-pairs rank-biserial correlation: 1
  where the method is ahead for every subject, −1 where it is behind for every one. The difference shown with it is
  the mean over sites, as in the tables; the test is about ranks, and where a significant one
  disagrees with the mean the table says so.
- The best of a condition is chosen by the same subjects that it is tested with, so its lead is a little too favourable.
- Not significant does not mean equal: of few subjects and many comparisons nothing can be significant, and the table
  says so.
- A mean with a missing member is missing. A pooled test goes over the subjects that both methods have, and says who is
  left out.
- Where several trainings of one kind saw a site (those that left another one out), their mean counts."""
PASTE = "Tables to paste"
NO_LOCAL = "No method of this study is local training, so nothing can be said."


def document(findings: Findings, statistics: Statistics, figures: Sequence[Picture]) -> Document:
    """The whole report, section by section."""

    def drawn(*kinds: str) -> list[Part]:
        return [one for one in figures if one.name.startswith(kinds)]

    groups = list(enumerate(statistics.tables, 1))
    gaps = tables.gaps(findings, statistics)
    paid = tables.payoffs(findings, statistics)
    sections = [
        Section("In short", [*_short(findings, statistics), *_reading(findings)]),
        Section("Scores", [Text(tables.OF_SCORES), *_scores(findings, statistics)]),
        Section(
            "Scores by site",
            [tables.by_site(findings, statistics, group, metric, "") for _, group in groups for metric in METRICS],
        ),
        Section("Pictures", [*drawn("map", "curve", "box", "panel")]),
        Section("Tests", [_references(findings, statistics), *_tests(findings, statistics)]),
        Section("What is lost outside of the training", [*_why_gaps(gaps), *drawn("gaps"), *gaps]),
        Section("Does federation pay?", [*drawn("gains"), paid] if paid else [Text(NO_LOCAL)]),
        Section("Missing cells", _missing(findings)),
        Section("What ran", [_methods(findings), *_facts(findings)]),
        Section(PASTE, list(_pasted(findings, statistics))),
        Section("Cite what ran", _cited(findings)),
    ]
    facts = {"study": findings.study, "status": findings.status, "sites": _sites(statistics)}
    return Document(findings.title, facts, sections if findings.citations else sections[:-1])


def _short(findings: Findings, statistics: Statistics) -> list[Part]:
    short = [Text(title, lines, short=True) for title, lines in in_short(findings, statistics).items()]
    return [*short, tables.use(findings, statistics)]


def _reading(findings: Findings) -> list[Part]:
    """The definitions of the terms, scores and statistics of the report."""
    kinds = {
        "The words of this report": [*_listed(TERMS), *_marks(findings)],
        "The scores": _listed(DEFINITIONS),
        "Means, spreads and tests": _listed(HOW),
    }
    return [Text(title, points, folded=True) for title, points in kinds.items()]


def _cited(findings: Findings) -> list[Part]:
    rows = [[plain(cited(paper)), plain(", ".join(used))] for paper, used in findings.citations.items()]
    entries = "\n\n".join(bibtex(paper, at) for at, paper in enumerate(findings.citations, 1))
    return [Table("What to cite for what", ("work", "for"), rows), Code("BibTeX", entries, "bibtex")]


def _scores(findings: Findings, statistics: Statistics) -> list[Part]:
    return [tables.scores(findings, statistics, group, metric, "") for group in statistics.tables for metric in METRICS]


def _tests(findings: Findings, statistics: Statistics) -> Iterable[Part]:
    for group in statistics.tables:
        yield tables.tests(findings, statistics, group, "")
        yield tables.site_tests(findings, statistics, group, "")


def _references(findings: Findings, statistics: Statistics) -> Text:
    named = ", ".join(f"{findings.label(name)} ({statistics.why[name]})" for name in statistics.references)
    return Text(f"Every method is compared with {named or 'nothing'}. Differences are method minus reference.")


def _why_gaps(gaps: Sequence[Table]) -> list[Part]:
    if not gaps:
        return [Text("No method was tested both where its training fits and where it does not.")]
    return [Text("PSNR where the training fits, less where it does not, of the same subjects: positive is lost.")]


def _missing(findings: Findings) -> list[Part]:
    if not findings.missing:
        return [Text("None.")]
    return [Text("Nothing is averaged over what is left of a missing cell."), tables.missing(findings)]


def _methods(findings: Findings) -> Table:
    rows = [
        [
            plain(method.label),
            plain(method.about or "–"),
            plain(method.settings or "–"),
            plain("yes" if method.trains else "no"),
            plain("each site its own" if method.personal else "one for all" if method.trains else "–"),
        ]
        for method in findings.methods
    ]
    return Table("Methods", ("method", "what it is", "settings", "trains", "network"), rows)


def _facts(findings: Findings) -> list[Part]:
    rows = [[plain(name), plain(text)] for name, text in findings.facts.items()]
    return [Table("Facts", ("what", "how it was"), rows)] if rows else []


def _marks(findings: Findings) -> list[str]:
    points = [
        f"{MOVED}: data were moved to one place. It is a control, not federated, and never counts as the best here.",
        f"{PUBLISHED}: private parts of networks left their sites.",
    ]
    if findings.synthetic:
        points.append("Simulated data: k-space was made from a phantom or from magnitude images.")
    return points


def _listed(bullets: str) -> list[str]:
    return [" ".join(one.split()).replace("*", "") for one in bullets.removeprefix("- ").split("\n- ")]


def _pasted(findings: Findings, statistics: Statistics) -> Iterable[Part]:
    for table in tables.all_tables(findings, statistics):
        if table.name and table.rows:
            yield Code(f"{table.name}.tex: {table.title}", latex(table), "latex")
            yield Code(f"{table.name}.md: {table.title}", grid(table), "markdown")


def _sites(statistics: Statistics) -> str:
    counts = {site: statistics.subjects.get(site, 0) for site in statistics.sites}
    return ", ".join(f"{site} ({n} test subject{'s' * (n != 1)})" for site, n in counts.items())
