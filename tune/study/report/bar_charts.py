"""Bar charts and curves of differences: generalisation gaps, and gains over local training."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.platform.reporting.figure import COLOURS, FAINT, TEXT, legend, panels, plain, style
from fedrecon.tune.study.analysis.inputs import Findings, shortened
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.analysis.samples import Estimate
from fedrecon.tune.study.report.tables import by_comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Bars = Mapping[str, Estimate]


def gaps(findings: Findings, statistics: Statistics) -> Figure | None:
    """The generalisation gap of every trained method, with one panel for each comparison."""
    found: dict[str, Bars] = {}
    for (_, compared), gaps_ in by_comparison(statistics.gaps).items():
        own = {gap.method: gap.overall for gap in gaps_}
        found[compared] = {one.label: own[one.name] for one in findings.methods if one.trains and one.name in own}
    subtitle = "PSNR where the training fits, less where it does not, of the same subjects; lines: 95 % interval."
    return _bar_charts("What is lost outside of the training", subtitle, found, "dB lost")


def gains(findings: Findings, statistics: Statistics) -> Figure | None:
    """The gain of each trained method over local training, with one panel for each group."""
    found: dict[str, dict[str, Estimate]] = defaultdict(dict)
    several = len({pay.alone for pay in statistics.over("local")}) > 1
    for pay in statistics.over("local"):
        title = str(pay.group) + (f", against {pay.alone}" if several else "")
        found[title][findings.label(pay.method)] = next(iter(pay.mean.values()))
    subtitle = "Mean PSNR less that of each site's own network, of the same subjects; lines: 95 % interval."
    return _bar_charts("Does federation pay?", subtitle, found, "dB gained over local training")


def _bar_charts(title: str, subtitle: str, charts: Mapping[str, Bars], unit: str) -> Figure | None:
    charts = {name: bars for name, bars in charts.items() if any(bar.mean is not None for bar in bars.values())}
    if not charts:
        return None
    height = (1.1, 1.0 + 0.29 * max(map(len, charts.values())))
    figure, axes = panels(title, subtitle, list(charts), 3, height, sharex=True)
    columns, before = min(len(charts), 3), None
    for at, (ax, bars) in enumerate(zip(axes, charts.values(), strict=True)):
        _bars(ax, bars, at % columns == 0 or list(bars) != before)
        before = list(bars)
        if at + columns >= len(charts):
            ax.set_xlabel(unit)
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
    return _curves(findings, statistics, "n_sites", "sites that trained", ("slices", "slices a site"))


def against_slices(findings: Findings, statistics: Statistics) -> Figure | None:
    """The gain against the training slices of a site."""
    return _curves(findings, statistics, "slices", "training slices a site", ("n_sites", "sites trained"))


def _curves(findings: Findings, statistics: Statistics, x: str, unit: str, other: tuple[str, str]) -> Figure | None:
    """Curves of the gain against the attribute ``x`` of the payoffs, with one panel for each value of the other one."""
    several = len({round(float(getattr(pay, other[0])), 1) for pay in statistics.over("local")}) > 1
    found: dict[str, dict[str, dict[float, Estimate]]] = defaultdict(lambda: defaultdict(dict))
    for pay in statistics.over("local"):
        group = pay.group
        name = group.where + (f", trained with {group.trained_with}" if group.trained_with else "")
        name += f", noise x {group.noise:g}" if group.noise != 1 else ""
        name += f", {getattr(pay, other[0]):.0f} {other[1]}" if several else ""
        at = round(float(getattr(pay, x)), 1)
        found[name][pay.method].setdefault(at, next(iter(pay.mean.values())))
    drawn = {name: own for name, own in found.items() if len({at for line in own.values() for at in line}) > 1}
    if not drawn:
        return None
    subtitle = "Mean PSNR less that of each site's own network; bands: 95 % interval over subjects."
    figure, axes = panels(f"Does federation pay? Against {unit}", subtitle, list(drawn), 3, (1.0, 3.6), sharey=True)
    order = [method.name for method in findings.methods]
    for ax, own in zip(axes, drawn.values(), strict=True):
        for method in sorted(own, key=order.index):
            points = sorted(own[method].items())
            band(ax, [at for at, _ in points], [one for _, one in points], look(findings, method))
        ax.axhline(0, color=FAINT, lw=1)
        ax.set_xticks(sorted({at for line in own.values() for at in line}))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel(unit)
    axes[0].set_ylabel("dB gained over local training")
    methods = sorted({method for own in drawn.values() for method in own}, key=order.index)
    legend(figure, entries(findings, methods))
    return figure


def band(ax: Axes, x: Sequence[float], points: Sequence[Estimate], look: dict[str, Any]) -> None:
    """Draws a line with its intervals as a band. The line has a gap where a point is missing."""
    nan = float("nan")
    mean, low, high = (
        [nan if value is None else value for value in side]
        for side in ([one.mean for one in points], [one.low for one in points], [one.high for one in points])
    )
    ax.plot(x, mean, lw=1.7, ms=5, **look)
    ax.fill_between(x, low, high, color=look["color"], alpha=0.14, lw=0)


def look(findings: Findings, name: str) -> dict[str, Any]:
    """The style of a method's line. Methods without training are dashed, because colours are used several times."""
    order = [method.name for method in findings.methods]
    return {**style(order.index(name)), "ls": "-" if findings.method(name).trains else "--"}


def entries(findings: Findings, names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The entries of the legend: the methods with their marks."""
    return [(shortened(findings.label(name), 26), look(findings, name)) for name in names]
