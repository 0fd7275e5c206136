"""The table model. :mod:`terminal`, :mod:`markdown`, :mod:`html` and :mod:`latex` write a table from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "good", "bad", "faint"]
"""How a cell is coloured, in a terminal and on a page: green, red, grey, or as the text."""


@dataclass(frozen=True)
class Value:
    """One cell.

    Attributes:
        text: the number or text. below: small lines under it, such as an interval.
        key: the sort key. title: the tooltip. bold: whether the text is bold. tone: the colour.
        more: a long text, such as an error, that the page shows on demand.
    """

    text: str
    below: tuple[str, ...] = ()
    key: str = ""
    title: str = ""
    bold: bool = False
    tone: Tone = ""
    more: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: the title. numeric: whether it holds numbers, which stand on the right.
        title: the tooltip of the title. hidden: whether the page shows the column only on demand.
    """

    name: str
    numeric: bool = False
    title: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Row:
    """One row. ``runs`` are the runs behind it; ``marked`` rows stand out."""

    values: Sequence[Value]
    runs: Sequence[str] = ()
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: the name of its LaTeX file, without suffix; empty if it has no file.
        note: text below the table. folded: whether a page shows the table only on demand.
        filtered: whether a page has a field that filters the rows.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str = ""
    name: str = ""
    folded: bool = False
    filtered: bool = False

    @property
    def has_runs(self) -> bool:
        """Whether a row names its runs."""
        return any(row.runs for row in self.rows)


def words(*names: str) -> list[Column]:
    """Columns with text."""
    return [Column(name) for name in names]


def numbers(*names: str) -> list[Column]:
    """Columns with numbers."""
    return [Column(name, numeric=True) for name in names]


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
