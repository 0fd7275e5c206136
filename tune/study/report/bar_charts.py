"""Bar charts and curves of differences: generalisation gaps, and gains over local training."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.tune.study.analysis.inputs import Findings, shortened
from fedrecon.tune.study.analysis.results import Payoff, Statistics
from fedrecon.tune.study.analysis.samples import Estimate
from fedrecon.tune.trials.plotting import COLOURS, FAINT, TEXT, canvas, plain, style, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Bars = Mapping[str, Estimate]


def gaps(findings: Findings, statistics: Statistics) -> Figure | None:
    """The generalisation gap of every trained method, with one panel for each comparison."""
    panels: dict[str, Bars] = {}
    for what, compared in dict.fromkeys((gap.what, gap.compared) for gap in statistics.gaps):
        own = {gap.method: gap for gap in statistics.gaps if (gap.what, gap.compared) == (what, compared)}
        names = [method.name for method in findings.methods if method.trains and method.name in own]
        panels[compared] = {findings.label(name): own[name].overall for name in names}
    subtitle = "PSNR where the training fits, less where it does not, of the same subjects, with their 95 % interval. "
    return _figure("What is lost outside of the training", subtitle + "To the right: lost.", panels, "dB lost")


def gains(findings: Findings, statistics: Statistics) -> Figure | None:
    """The gain of each trained method over local training, with one panel for each group."""
    panels: dict[str, dict[str, Estimate]] = defaultdict(dict)
    several = len({pay.alone for pay in statistics.payoffs}) > 1
    for pay in statistics.payoffs:
        title = str(pay.group) + (f", against {pay.alone}" if several else "")
        panels[title][findings.label(pay.method)] = next(iter(pay.mean.values()))
    subtitle = (
        "Mean PSNR less that of each site's own network, of the same subjects, with a 95 % interval over subjects."
    )
    return _figure("Does federation pay?", subtitle, panels, "dB gained over local training")


def _figure(title: str, subtitle: str, panels: Mapping[str, Bars], unit: str) -> Figure | None:
    panels = {name: bars for name, bars in panels.items() if any(bar.mean is not None for bar in bars.values())}
    if not panels:
        return None
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    most = max(map(len, panels.values()))
    figure = canvas(title, subtitle, 1.1 + lines * (1.0 + 0.29 * most))
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for ax in list(grid.flat)[len(panels) :]:
        ax.set_visible(False)
    for at, (ax, (name, bars)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        tidy(ax)
        _bars(ax, bars, at % columns == 0 or list(bars) != list(list(panels.values())[at - 1]))
        ax.set_title(plain(textwrap.fill(name, 44)), loc="left", fontsize=9, color=TEXT)
        if at + columns >= len(panels):
            ax.set_xlabel(unit)
            ax.tick_params(labelbottom=True)
    return figure


def _bars(ax: Axes, bars: Bars, names: bool) -> None:
    for y, bar in enumerate(bars.values()):
        if bar.mean is None:
            text = "\n".join(textwrap.wrap(bar.reason or "not run", 44, max_lines=2, placeholder=" …"))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            where: Any = {"transform": ax.get_yaxis_transform(), "va": "center"}
            ax.text(0.02, y, plain(text), fontsize=7.5, color=FAINT, bbox=box, zorder=3, **where)
            continue
        ax.barh(y, bar.mean, 0.62, color=COLOURS[0] if bar.mean > 0 else COLOURS[1])
        if bar.low is not None and bar.high is not None:
            ax.plot([bar.low, bar.high], [y, y], "-|", color=TEXT, lw=1.2, ms=5)
    ax.axvline(0, color=FAINT, lw=1)
    ax.set_yticks(range(len(bars)), [plain(shortened(name, 24)) for name in bars] if names else [])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


def against_sites(findings: Findings, statistics: Statistics) -> Figure | None:
    """The gain against the number of sites that trained."""
    return _curves(findings, statistics.payoffs, "n_sites", "sites that trained", ("slices", "slices a site"))


def against_slices(findings: Findings, statistics: Statistics) -> Figure | None:
    """The gain against the training slices of a site."""
    return _curves(findings, statistics.payoffs, "slices", "training slices a site", ("n_sites", "sites trained"))


def _curves(findings: Findings, payoffs: Sequence[Payoff], x: str, unit: str, other: tuple[str, str]) -> Figure | None:
    """Curves of the gain against the attribute ``x`` of the payoffs, with one panel for each value of the other one."""
    several = len({round(float(getattr(pay, other[0])), 1) for pay in payoffs}) > 1
    panels: dict[str, dict[str, dict[float, Estimate]]] = defaultdict(lambda: defaultdict(dict))
    for pay in payoffs:
        group = pay.group
        name = group.where + (f", trained with {group.trained_with}" if group.trained_with else "")
        name += f", noise x {group.noise:g}" if group.noise != 1 else ""
        name += f", {getattr(pay, other[0]):.0f} {other[1]}" if several else ""
        at = round(float(getattr(pay, x)), 1)
        panels[name][pay.method].setdefault(at, next(iter(pay.mean.values())))
    drawn = {name: own for name, own in panels.items() if len({at for line in own.values() for at in line}) > 1}
    if not drawn:
        return None
    columns = min(len(drawn), 3)
    lines = -(-len(drawn) // columns)
    subtitle = "Mean PSNR less that of each site's own network; bands: 95 % interval over subjects."
    figure = canvas(f"Does federation pay? Against {unit}", subtitle, 1.0 + 3.6 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for ax in list(grid.flat)[len(drawn) :]:
        ax.set_visible(False)
    order = [method.name for method in findings.methods]
    for ax, (name, own) in zip(grid.flat, drawn.items(), strict=False):
        tidy(ax)
        for method in sorted(own, key=order.index):
            _line(ax, own[method], style(order.index(method)))
        ax.axhline(0, color=FAINT, lw=1)
        ax.set_xticks(sorted({at for line in own.values() for at in line}))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_title(plain(textwrap.fill(name, 46)), loc="left", fontsize=9.5, color=TEXT)
        ax.set_xlabel(unit)
    grid[0, 0].set_ylabel("dB gained over local training")
    legend(figure, findings, sorted({method for own in drawn.values() for method in own}, key=order.index))
    return figure


def _line(ax: Axes, points: Mapping[float, Estimate], look: tuple[str, str]) -> None:
    x, found = list(points), list(points.values())
    order = sorted(range(len(x)), key=x.__getitem__)
    band(ax, [x[i] for i in order], [found[i] for i in order], (*look, "-"))


def band(ax: Axes, x: Sequence[float], points: Sequence[Estimate], look: tuple[str, str, str]) -> None:
    """Draws a line with its intervals as a band. The line has a gap where a point is missing."""
    nan, (colour, marker, ls) = float("nan"), look
    mean, low, high = (
        [nan if value is None else value for value in side]
        for side in ([one.mean for one in points], [one.low for one in points], [one.high for one in points])
    )
    ax.plot(x, mean, color=colour, marker=marker, ls=ls, lw=1.7, ms=5)
    ax.fill_between(x, low, high, color=colour, alpha=0.14, lw=0)


def legend(figure: Figure, findings: Findings, names: Sequence[str]) -> None:
    """Draws the legend beside the axes: the methods with their marks."""
    from matplotlib.lines import Line2D

    order = [method.name for method in findings.methods]
    looks = [style(order.index(name)) for name in names]
    dashes = [dash(findings, name) for name in names]
    handles = [
        Line2D([], [], color=colour, marker=marker, ls=ls, lw=1.8)
        for (colour, marker), ls in zip(looks, dashes, strict=True)
    ]
    labels = [plain(shortened(findings.label(name), 26)) for name in names]
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=10)


def dash(findings: Findings, name: str) -> str:
    """The line style of a method. Methods without training are dashed, because colours are used several times."""
    return "-" if findings.method(name).trains else "--"
