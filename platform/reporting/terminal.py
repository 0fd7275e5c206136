"""A table on the terminal."""

from __future__ import annotations

from typing import Any, TextIO

from fedrecon.platform.reporting.table import Table, Value
from fedrecon.sites.errors import visible

STYLES = {"good": "green", "bad": "red", "faint": "dim", "": ""}


def print_table(table: Table, stream: TextIO | None = None, title: bool = True) -> None:
    """Prints a table. A pipe has no width, so nothing is cut there; a terminal that is too narrow wraps its cells.

    Args:
        stream: the output; None takes stdout. title: whether the title stands above the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Rich
    from rich.text import Text

    shown = [at for at, column in enumerate(table.columns) if not column.hidden]
    grid = Rich(
        title=Text(visible(table.title), style="table.title") if title else None,
        box=SIMPLE_HEAD,
        title_justify="left",
        show_edge=False,
        pad_edge=False,
    )
    for at in shown:
        justify: Any = "right" if table.columns[at].numeric else "left"
        grid.add_column(Text(visible(table.columns[at].name)), justify=justify, overflow="fold")
    for row in table.rows:
        grid.add_row(*(_cell(row.values[at]) for at in shown), style="bold" if row.marked else "")
    console = Console(file=stream)
    if not console.is_terminal:
        console = Console(file=stream, width=2000)
    console.print(grid, highlight=False)
    if table.note:
        console.print(visible(table.note), style="dim", highlight=False, markup=False)


def _cell(value: Value) -> Any:
    from rich.text import Text

    return Text(visible(value.text), style=" ".join(filter(None, [STYLES[value.tone], "bold" if value.bold else ""])))
