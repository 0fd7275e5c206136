"""The document model: a page or a Markdown file with sections of texts, tables, pictures and code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedrecon.platform.reporting.table import Table, Tone


@dataclass(frozen=True)
class Text:
    """A paragraph, or a list with a title.

    Attributes:
        text: the paragraph, or the title of the list. points: the items of the list. tone: the colour.
        short: whether the page highlights it. folded: whether the list is shown only on demand.
    """

    text: str = ""
    points: Sequence[str] = ()
    short: bool = False
    folded: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Picture:
    """A figure: file name without suffix, caption, PNG, SVG (empty for photographs), and the runs behind it."""

    name: str
    caption: str
    png: bytes
    svg: bytes = b""
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class Code:
    """Text to copy, shown on demand. Its ``language`` is that of the Markdown code block."""

    title: str
    text: str
    language: str = ""


@dataclass(frozen=True)
class Files:
    """Tables to copy into a paper, as LaTeX and as Markdown, shown on demand; they are also files beside the page."""

    tables: Sequence[tuple[Table, str, str]]
    """Each table with its LaTeX and its Markdown."""


Part = Table | Text | Picture | Code | Files


@dataclass(frozen=True)
class Section:
    """A section: its title and its parts."""

    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


@dataclass(frozen=True)
class Document:
    """A whole report. Its ``facts`` are shown below the title, by label. A section without parts is not shown."""

    title: str
    kind: str
    facts: Mapping[str, str]
    sections: Sequence[Section]

    @property
    def shown(self) -> list[Section]:
        """The sections that have parts."""
        return [section for section in self.sections if section.parts]

    @property
    def runs(self) -> list[str]:
        """All runs behind tables and pictures, sorted. A report numbers the runs in this order."""
        parts = [part for section in self.sections for part in section.parts]
        own = [row.runs for part in parts if isinstance(part, Table) for row in part.rows]
        own += [part.runs for part in parts if isinstance(part, Picture)]
        return sorted({run for one in own for run in one})
