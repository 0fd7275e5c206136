"""The common style of all figures of floor 4: colours, a canvas with a title, axes, and PNGs that are reproducible."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which is hard to see on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TEXT, FAINT, GRID = "#22262d", "#626b78", "#e3e6ea"
WIDTH, DPI = 12.0, 100


def canvas(title: str, subtitle: str, height: float) -> Figure:
    """An empty figure with a title and a subtitle; ``height`` is in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    wrapped = textwrap.fill(subtitle, 135)
    top = 0.62 + 0.21 * (wrapped.count("\n") + 1)
    figure = Figure((WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0.005, 0.01, 0.99, 1 - top / height - 0.01)))
    figure.text(0.14 / WIDTH, 1 - 0.16 / height, plain(title), va="top", fontsize=14, weight="bold", color=TEXT)
    figure.text(0.14 / WIDTH, 1 - 0.5 / height, plain(wrapped), va="top", fontsize=10, color=FAINT)
    return figure


def tidy(ax: Axes) -> None:
    """Gives the axes the common style."""
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(colors=TEXT, length=3, labelsize=9.5)
    ax.xaxis.label.set_color(TEXT)
    ax.yaxis.label.set_color(TEXT)


def style(at: int) -> tuple[str, str]:
    """Colour and marker of entry ``at`` of a list. If a colour is used again, its marker differs."""
    return COLOURS[at % len(COLOURS)], MARKERS[(at + at // len(COLOURS)) % len(MARKERS)]


def plain(text: str, most: int = 600) -> str:
    """The text as Matplotlib has to get it to show it unchanged, with at most ``most`` characters.

    Dollars do not start mathematics. A leading underscore does not hide a legend's entry.
    """
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return (" " + cut if cut.startswith("_") else cut).replace("$", r"\$")


def upper(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def png(figure: Figure) -> bytes:
    """The figure as PNG, without a date or a version, so that equal figures have equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
