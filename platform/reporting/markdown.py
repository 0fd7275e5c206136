"""Tables and documents as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from fedrecon.platform.reporting.document import Code, Document, Files, Part, Picture, Text
from fedrecon.platform.reporting.table import Table, Value

LINKS = 4
"""The largest number of links to runs in one row or below one figure. The HTML page has all links."""


def markdown(document: Document, address: Callable[[str], str]) -> str:
    """A document as Markdown. It refers to the files ``figures/NAME.png`` and ``tables/NAME.tex`` beside it.

    Args:
        address: a function that gives the address of a run's page.
    """
    lines = [f"# {flat(document.title)}", "", *(f"- {flat(key)}: {flat(text)}" for key, text in document.facts.items())]
    numbers = {run: at for at, run in enumerate(document.runs, 1)}
    for section in document.shown:
        lines += ["", f"## {flat(section.title)}"]
        for part in section.parts:
            lines += ["", _part(part, numbers)]
    lines += ["", *(f"[r{at}]: <{address(run)}>" for run, at in numbers.items())]
    return "\n".join(lines).rstrip() + "\n"


def grid(table: Table, links: Callable[[Sequence[str]], str] | None = None) -> str:
    """A table in Markdown, without its title and note.

    Args:
        links: a function that writes the links to the runs of a row, for the last column; None adds no such column.
    """
    linked = links if table.has_runs else None
    lines = [[*(flat(column.name) for column in table.columns), *(["runs"] if linked else [])]]
    lines.append([*("--:" if column.numeric else "---" for column in table.columns), *(["---"] if linked else [])])
    lines += [[*map(_cell, row.values), *([linked(row.runs)] if linked else [])] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def flat(text: str) -> str:
    """Text as one line of Markdown. It is escaped: it ends no table cell, opens no HTML tag and makes no link."""
    return re.sub(r"[\\|*\[\]]", r"\\\g<0>", " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;"))


def _cell(value: Value) -> str:
    text = flat(value.text)
    return " ".join([f"**{text}**" if value.bold and text else text, *map(flat, value.below)]).rstrip()


def _part(part: Part, numbers: Mapping[str, int]) -> str:
    if isinstance(part, Text):
        points = "\n".join(f"- {flat(one)}" for one in part.points)
        if part.folded:
            return _folded(part.text, points)
        title = f"**{flat(part.text)}**" if part.points and part.text else flat(part.text)
        return "\n\n".join(filter(None, [title, points]))
    if isinstance(part, Picture):
        shown = f"![{flat(part.caption)}](figures/{part.name}.png)\n\n*{flat(part.caption)}*"
        return shown + (f"\n\n{_folded('Its runs', _links(part.runs, numbers))}" if part.runs else "")
    if isinstance(part, Code):
        return _folded(part.title, f"```{part.language}\n{part.text.strip()}\n```")
    if isinstance(part, Files):
        return "\n".join(f"- `tables/{table.name}.tex`: {flat(table.title)}" for table, _, _ in part.tables)
    body = "\n\n".join(filter(None, [grid(part, lambda own: _links(own, numbers)), flat(part.note)]))
    return _folded(part.title, body) if part.folded else f"**{flat(part.title)}**\n\n{body}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{flat(title)}</summary>\n\n{body}\n\n</details>"


def _links(own: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Short references to runs. The end of the document has the addresses."""
    shown = " ".join(f"[{at}][r{numbers[run]}]" for at, run in enumerate(own[:LINKS], 1)) or "–"
    return shown + (f" and {len(own) - LINKS} more in index.html" if len(own) > LINKS else "")
