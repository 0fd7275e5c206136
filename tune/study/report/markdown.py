"""A study's report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.report.document import Code, Part, Picture, Section, Text, flat, grid, runs
from fedrecon.tune.study.report.sections import PASTE, document

LINKS = 4
"""The largest number of links to runs in one row or below one figure. The HTML page has all links."""


def markdown(findings: Findings, statistics: Statistics, figures: Sequence[Picture]) -> str:
    """The report as Markdown. It refers to the files ``figures/NAME.png`` and ``tables/NAME.tex`` beside it."""
    whole = document(findings, statistics, figures)
    facts = [f"- {flat(key)}: {flat(text)}" for key, text in whole.facts.items()]
    lines = [f"# {flat(whole.title)}", "", *facts, ""]
    numbers = {run: at for at, run in enumerate(runs(whole), 1)}
    for section in whole.sections:
        lines += [f"## {section.title}", "", *_body(section, numbers)]
    lines += [f"[r{at}]: <{findings.run_url(run)}>" for run, at in numbers.items()]
    return "\n".join(lines).rstrip() + "\n"


def _body(section: Section, numbers: Mapping[str, int]) -> list[str]:
    if section.title != PASTE:
        return [line for part in section.parts for line in (_part(part, numbers), "")]
    files = [part.title for part in section.parts if isinstance(part, Code) and part.language == "latex"]
    return ["LaTeX with booktabs, in `tables/`:", "", *(f"- {flat(one)}" for one in files), ""]


def _part(part: Part, numbers: Mapping[str, int]) -> str:
    if isinstance(part, Text):
        points = "\n".join(f"- {flat(one)}" for one in part.points)
        if part.folded:
            return _folded(part.text, points)
        text = [f"**{flat(part.text)}**" if part.points else flat(part.text), ""] if part.text else []
        return "\n".join([*text, points]).rstrip()
    if isinstance(part, Picture):
        shown = f"![{flat(part.caption)}](figures/{part.name}.png)\n\n*{flat(part.caption)}*"
        return shown + (f"\n\n{_folded('Its runs', _links(part.runs, numbers))}" if part.runs else "")
    if isinstance(part, Code):
        return _folded(part.title, f"```{part.language}\n{part.text.strip()}\n```")
    body = "\n\n".join(filter(None, [grid(part, lambda own: _links(own, numbers)), flat(part.note)]))
    return _folded(part.title, body) if part.folded else f"**{flat(part.title)}**\n\n{body}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{flat(title)}</summary>\n\n{body}\n\n</details>"


def _links(own: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Short references to runs. The end of the report has the addresses."""
    shown = " ".join(f"[{at}][r{numbers[run]}]" for at, run in enumerate(own[:LINKS], 1)) or "–"
    return shown + (f" and {len(own) - LINKS} more in index.html" if len(own) > LINKS else "")
