"""The parts of a report. Markdown, HTML and LaTeX are written from the same parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Value:
    """One cell of a table.

    Attributes:
        text: the number or text. small: text below it, such as an interval; "; " separates lines.
        key: the sort key. title: the tooltip. bold: whether the text is bold.
    """

    text: str
    small: str = ""
    key: str = ""
    title: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table, and for each row the runs behind it.

    Attributes:
        name: the name of the LaTeX file, without suffix; empty if the table has no file.
        numeric: the number of columns with numbers; they are the last ones.
        note: text below the table. runs: the runs of each row.
        folded: whether the table is shown only on demand.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Value]]
    numeric: int = 0
    note: str = ""
    name: str = ""
    runs: Sequence[Sequence[str]] = ()
    folded: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph, or a list with a title.

    Attributes:
        text: the paragraph, or the title of the list. points: the items of the list.
        short: whether the page highlights the list. folded: whether the list is shown only on demand.
    """

    text: str = ""
    points: Sequence[str] = ()
    short: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure or a panel: its file name without suffix, its caption, its PNG and the runs behind it."""

    name: str
    caption: str
    png: bytes
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class Code:
    """Text to copy, shown on demand. Its ``language`` is that of the Markdown code block."""

    title: str
    text: str
    language: str = ""


Part = Table | Text | Picture | Code


@dataclass(frozen=True)
class Section:
    """A section of a report: its title and its parts."""

    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


@dataclass(frozen=True)
class Document:
    """A whole report. Its ``facts`` are shown below the title, by label."""

    title: str
    facts: Mapping[str, str]
    sections: Sequence[Section]


def plain(text: str) -> Value:
    """A cell with text."""
    return Value(text, key=text)


def number(value: float | None, shown: str) -> Value:
    """A cell with a number, or with a dash for None. ``shown`` is a format such as ``.2f``."""
    return Value("–") if value is None else Value(signed(value, shown), key=f"{value:.9g}")


def signed(value: float, shown: str) -> str:
    """A number as text, with the typographic minus sign. Zero has no minus sign."""
    text = format(value, shown)
    if float(text) == 0:
        text = text.replace("-", "+" if "+" in shown else "")
    return text.replace("-", "−")


def runs(whole: Document) -> list[str]:
    """All runs behind the tables and figures, sorted. A report numbers the runs in this order."""
    parts = [part for section in whole.sections for part in section.parts]
    own = [row for part in parts if isinstance(part, Table) for row in part.runs]
    own += [part.runs for part in parts if isinstance(part, Picture)]
    return sorted({run for one in own for run in one})


def grid(table: Table, links: Callable[[Sequence[str]], str] | None = None) -> str:
    """A table in Markdown.

    Args:
        links: a function that writes the links to the runs of a row, for the last column; None adds no such column.
    """
    linked = links if table.runs else None
    rule = ["---"] * (len(table.header) - table.numeric) + ["--:"] * table.numeric
    lines = [[*map(flat, table.header), *(["runs"] if linked else [])], [*rule, *(["---"] if linked else [])]]
    for at, row in enumerate(table.rows):
        lines.append([*map(_cell, row), *([linked(table.runs[at])] if linked else [])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Value) -> str:
    text = flat(value.text)
    return (f"**{text}**" if value.bold else text) + (f" {flat(value.small)}" if value.small else "")


def flat(text: str) -> str:
    """Text as one line of Markdown. It is escaped: it does not end a table cell or open an HTML tag."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")
