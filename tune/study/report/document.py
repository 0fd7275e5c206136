"""A report as parts that Markdown, HTML and LaTeX are made from: one content, three ways to write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Value:
    """One cell of a table.

    Attributes:
        small: what stands below the number, such as its interval. key: what it is sorted by.
        title: what is seen when it is pointed at.
    """

    text: str
    small: str = ""
    key: str = ""
    title: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table, and for each row the runs that it is from.

    Attributes:
        name: of its LaTeX file; empty where it has none.
        numeric: how many of the last columns are numbers. folded: shown on demand.
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
class Words:
    """A paragraph, or with ``points`` a list; ``short`` is what a reader sees first, ``folded`` shown on demand."""

    text: str = ""
    points: Sequence[str] = ()
    short: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure by its name, or a panel, and the runs that it is from."""

    name: str
    caption: str
    png: bytes
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class Code:
    """Text to copy, shown on demand."""

    title: str
    text: str
    language: str = ""


Part = Table | Words | Picture | Code


@dataclass(frozen=True)
class Section:
    """A chapter."""

    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


@dataclass(frozen=True)
class Document:
    """A whole report. ``facts`` stand below its title."""

    title: str
    facts: Mapping[str, str]
    sections: Sequence[Section]


def plain(text: str) -> Value:
    """A cell of words."""
    return Value(text, key=text)


def number(value: float | None, shown: str) -> Value:
    """A cell of a number; ``shown`` is a format such as ``.2f``."""
    return Value("–") if value is None else Value(signed(value, shown), key=f"{value:.9g}")


def signed(value: float, shown: str) -> str:
    """With a real minus, and never a minus zero."""
    text = format(value, shown)
    if float(text) == 0:
        text = text.replace("-", "+" if "+" in shown else "")
    return text.replace("-", "−")


def runs(whole: Document) -> list[str]:
    """All runs that any table or figure is from, sorted: these name them by their place here."""
    parts = [part for section in whole.sections for part in section.parts]
    own = [row for part in parts if isinstance(part, Table) for row in part.runs]
    own += [part.runs for part in parts if isinstance(part, Picture)]
    return sorted({run for one in own for run in one})


def grid(table: Table, links: Callable[[Sequence[str]], str] | None = None) -> str:
    """A table in Markdown.

    Args:
        links: those to a row's runs; they are its last column.
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
    """One line of Markdown that neither ends a cell nor opens a tag."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")
