"""The style of all figures: colours, a canvas with a title, panels that share it, and reproducible PNG and SVG."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.platform.reporting.document import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which is hard to see on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TEXT, FAINT, GRID, BELOW = "#22262d", "#626b78", "#e3e6ea", "#b3270a"
WIDTH, DPI = 12.0, 200
"""The width of a figure in inches, and the resolution of its PNG in dots per inch."""
_ENTRIES = 20
"""The largest number of entries in a legend."""
Entry = tuple[str, dict[str, Any]]
"""An entry of a legend: its label, and the style of its line."""


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


def panels(
    title: str, subtitle: str, names: Sequence[str], columns: int, height: tuple[float, float], **share: bool
) -> tuple[Figure, list[Axes]]:
    """A figure with one tidy panel for each name. The lowest panel of each column shows the ticks of a shared x axis.

    Args:
        columns: the largest number of panels side by side.
        height: the height in inches of all that is not a panel, and of one line of panels.
        share: ``sharex`` and ``sharey``, as in Matplotlib.
    """
    columns = min(len(names), columns)
    lines = -(-len(names) // columns)
    figure = canvas(title, subtitle, height[0] + lines * height[1])
    shared: Any = share
    grid: list[Axes] = list(figure.subplots(lines, columns, squeeze=False, **shared).flat)
    for at, ax in enumerate(grid):
        ax.set_visible(at < len(names))
        tidy(ax)
        if at < len(names):
            ax.set_title(plain(textwrap.fill(names[at], 46)), loc="left", fontsize=9.5, color=TEXT)
            if at + columns >= len(names):
                ax.tick_params(labelbottom=True)
    return figure, grid[: len(names)]


def tidy(ax: Axes) -> None:
    """Gives the axes the common style."""
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(colors=TEXT, length=3, labelsize=9.5)
    ax.xaxis.label.set_color(TEXT)
    ax.yaxis.label.set_color(TEXT)


def style(at: int) -> dict[str, Any]:
    """Colour and marker of entry ``at`` of a list. If a colour is used again, its marker differs."""
    return {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[(at + at // len(COLOURS)) % len(MARKERS)]}


def legend(figure: Figure, entries: Sequence[Entry], title: str = "", notes: Sequence[Entry] = ()) -> None:
    """Draws the legend beside the panels.

    Args:
        entries: the lines. If they are too many, the legend shows the first ones and the number of the others.
        title: the title of the legend. notes: further entries, below the lines.
    """
    from matplotlib.lines import Line2D

    if not (entries or notes):
        return
    room = _ENTRIES - len(notes)
    if len(entries) > room:
        entries = [*entries[: room - 1], (f"and {len(entries) - room + 1} more", {"ls": ""})]
    handles = [Line2D([], [], **{"lw": 1.8, **look}) for _, look in (*entries, *notes)]
    labels = [plain(label, 26) for label, _ in (*entries, *notes)]
    drawn = figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=10, title=plain(title))
    drawn.get_title().set_color(FAINT)


def colours(low: float, high: float, reverse: bool = False) -> ScalarMappable:
    """The colours of scores from ``low`` to ``high``."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(low, high if high > low else low + 1e-9), "viridis_r" if reverse else "viridis")


def colour_bar(figure: Figure, scale: ScalarMappable, axes: Any, label: str, **more: Any) -> None:
    """Draws the scale of the colours beside the panels."""
    bar = figure.colorbar(scale, ax=axes, aspect=30, **more)
    bar.set_label(label, color=TEXT)
    bar.outline.set_visible(False)


def plain(text: str, most: int = 600) -> str:
    """The text as Matplotlib has to get it to show it unchanged, with at most ``most`` characters.

    Dollars do not start mathematics. A leading underscore does not hide a legend's entry.
    """
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return (" " + cut if cut.startswith("_") else cut).replace("$", r"\$")


def upper(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def picture(name: str, caption: str, figure: Figure, runs: Sequence[str] = ()) -> Picture:
    """The figure as PNG and SVG, without dates and versions, so that equal figures have equal bytes.

    It is laid out once, for both. With a layout engine each file would cost a second drawing and a search for room.
    """
    from matplotlib import rc_context

    figure.draw_without_rendering()
    svg = io.BytesIO()
    # A user's file of settings may ask for a layout of every figure.
    settings = {"svg.hashsalt": "fedrecon", "figure.autolayout": False, "figure.constrained_layout.use": False}
    with rc_context(settings):  # type: ignore[arg-type]
        figure.set_layout_engine(None)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(name, caption, _png(figure), _numbered(svg.getvalue()), runs)


def _numbered(svg: bytes) -> bytes:
    """The SVG with numbered ids: Matplotlib makes some ids of addresses in memory."""
    ids = dict.fromkeys(re.findall(rb'(?<= id=")[a-zA-Z][0-9a-f]{10}(?=")', svg))
    ids |= dict.fromkeys(re.findall(rb"(?<=url\(#)[a-zA-Z][0-9a-f]{10}(?=\))", svg))
    numbers = {one: b"i%d" % at for at, one in enumerate(sorted(ids, key=svg.index))}
    return re.sub(rb"\b[a-zA-Z][0-9a-f]{10}\b", lambda found: numbers.get(found[0], found[0]), svg)


def _png(figure: Figure) -> bytes:
    """The figure as PNG with a colour palette. It needs a third of the bytes of a PNG without one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas, small = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    known = Image.new("P", (1, 1))
    known.putpalette(_palette())
    flat = pixels.convert("RGB").quantize(palette=known, dither=Image.Dither.NONE)
    flat.save(small, "PNG", dpi=(DPI, DPI))
    return small.getvalue()


@cache
def _palette() -> list[int]:
    """The palette: shades of all colours of the figures, and the colours of the maps.

    It is fixed, because a palette that is chosen by area loses rare colours.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    inks = [to_rgb(one) for one in (*COLOURS, TEXT, FAINT, BELOW, "black")]
    shades = [[1 - share * (1 - part) for part in ink] for ink in inks for share in np.linspace(1 / 12, 1, 12)]
    shades += [colormaps["viridis"](at)[:3] for at in np.linspace(0, 1, 122)] + [to_rgb(GRID), (1.0, 1.0, 1.0)]
    return [round(255 * part) for shade in shades for part in shade]
