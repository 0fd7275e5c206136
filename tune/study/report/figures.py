"""The figures of a study as small PNGs: maps, curves, boxes and bars. A figure that would show nothing is left out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import MARKS, Findings, shortened
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.analysis.significance import MIN_SUBJECTS
from fedrecon.tune.study.report import bar_charts as bars
from fedrecon.tune.study.report import heatmaps as heat
from fedrecon.tune.study.report.bar_charts import legend
from fedrecon.tune.study.report.document import Picture
from fedrecon.tune.trials.plotting import COLOURS, FAINT, GRID, TEXT, canvas, plain, png, style, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTIONS = {
    "map-sites": "What trained (rows) and where it is tested (columns), a panel for each method, one scale for all.",
    "map-operators": "What was trained with (rows) and what is tested (columns), a panel for each method.",
    "curve": "PSNR against acceleration, of masks with several; mean over sites; bands: 95 % interval over subjects.",
    "box": "Each point is a subject (mean over seeds), coloured by site.",
    "gaps": "What each method loses where it did not train; the line is the 95 % interval over subjects.",
    "gains": "What training together is worth over each site's own network.",
    "gains-sites": "The gain over local training against the number of sites that trained.",
    "gains-slices": "The gain over local training against the training slices of a site.",
}
BARS = {
    "gaps": bars.gaps,
    "gains": bars.gains,
    "gains-sites": bars.against_sites,
    "gains-slices": bars.against_slices,
}
BUDGET = 900_000
"""A size in bytes. When all figures together (without the panels) reach it, no more box plots are added."""
_COLUMNS = 4


def draw(findings: Findings, statistics: Statistics) -> list[Picture]:
    """Draws all figures in the report's order; the panels come last. The same findings give the same bytes."""
    everything = sorted({run for one in statistics.grid.cells.values() for run in one.runs})
    trained = sorted({row.run_id for row in findings.scores if findings.method(row.method).trains})
    drawn: list[tuple[str, str, Sequence[str], Figure | None]] = [
        ("map-sites", CAPTIONS["map-sites"], everything, heat.sites(findings, statistics)),
        ("map-operators", CAPTIONS["map-operators"], everything, heat.operators(findings, statistics)),
    ]
    for at, (title, groups) in enumerate(_alike(statistics), 1):
        runs = sorted({run for group in groups for run in group_runs(statistics, group)})
        drawn.append(
            (f"curve-{at}", f"{CAPTIONS['curve']} {title}.", runs, _curve(findings, statistics, title, groups))
        )
    for name, draws in BARS.items():
        drawn.append((name, CAPTIONS[name], trained, draws(findings, statistics)))
    found = [
        Picture(name, caption, _small(png(figure)), runs) for name, caption, runs, figure in drawn if figure is not None
    ]
    for at, group in enumerate(statistics.tables, 1):
        if sum(len(one.png) for one in found) < BUDGET:
            boxes = _small(png(_boxes(findings, statistics, group)))
            caption = f"{CAPTIONS['box']} {str(group)[0].upper()}{str(group)[1:]}."
            found.append(Picture(f"box-{at}", caption, boxes, group_runs(statistics, group)))
    return found + [
        Picture(f"panel-{at}", f"{panel.title}. {panel.caption}", panel.png, panel.runs)
        for at, panel in enumerate(findings.panels, 1)
    ]


def group_runs(statistics: Statistics, group: Group) -> list[str]:
    """All runs behind the table of a group."""
    tables = statistics.tables[group].values()
    return sorted({run for samples in tables for sample in samples.values() for run in sample.runs})


def _small(picture: bytes) -> bytes:
    """The PNG with a colour palette. It needs a third of the bytes of a PNG without one."""
    from PIL import Image

    known = Image.new("P", (1, 1))
    known.putpalette(_palette())
    buffer = io.BytesIO()
    flat = Image.open(io.BytesIO(picture)).convert("RGB")
    flat.quantize(palette=known, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _palette() -> list[int]:
    """The palette: shades of all colours of the figures, and the colours of the maps.

    It is fixed, because a palette that is chosen by area loses rare colours.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    inks = [to_rgb(one) for one in (*COLOURS, TEXT, FAINT, "black")]
    shades = [[1 - share * (1 - part) for part in ink] for ink in inks for share in np.linspace(1 / 13, 1, 13)]
    shades += [colormaps["viridis"](at)[:3] for at in np.linspace(0, 1, 124)] + [to_rgb(GRID), (1.0, 1.0, 1.0)]
    return [round(255 * part) for shade in shades for part in shade]


def marks(findings: Findings) -> str:
    """The meaning of the marks behind the methods' names, as text. Only marks that occur are explained."""
    labels = "".join(method.label for method in findings.methods)
    meanings = [meaning for mark, meaning in MARKS.items() if mark in labels]
    return f" {'; '.join(meanings)}." if meanings else ""


# --- score against acceleration ---


def _alike(statistics: Statistics) -> list[tuple[str, list[Group]]]:
    """The groups of each figure of curves, with its title. The groups of one figure differ only in noise."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in statistics.tables:
        found.setdefault((group.kind, group.trained_with, group.seen), []).append(group)
    return [
        (f"{own[0].where[0].upper()}{own[0].where[1:]} ({own[0].how.split(', noise')[0]})", own)
        for own in found.values()
    ]


def _curve(findings: Findings, statistics: Statistics, title: str, groups: Sequence[Group]) -> Figure | None:
    panels: dict[str, tuple[Group, list[TestOperator]]] = {}
    for group in groups:
        for mask in dict.fromkeys(operator.mask for operator in statistics.operators(group)):
            own = [operator for operator in statistics.operators(group) if operator.mask == mask]
            if len(own) > 1:
                noise = f", noise x {group.noise:g}" if len(groups) > 1 else ""
                panels[mask + noise] = (group, own)
    if not panels:
        return None
    columns = min(len(panels), _COLUMNS)
    lines = -(-len(panels) // columns)
    text = f"PSNR. {title}. Mean over sites; bands: 95 % interval over subjects.{marks(findings)}"
    figure = canvas("PSNR against acceleration", text, 1.0 + 3.9 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for ax in list(grid.flat)[len(panels) :]:
        ax.set_visible(False)
    order = [method.name for method in findings.methods]
    methods = sorted(
        {name for group in groups for name in statistics.tables[group][statistics.overall(group)]}, key=order.index
    )
    for ax, (name, (group, own)) in zip(grid.flat, panels.items(), strict=False):
        tidy(ax)
        for method in methods:
            x = [operator.acceleration for operator in own]
            look = (*style(order.index(method)), bars.dash(findings, method))
            bars.band(ax, x, [statistics.at(group, operator, method) for operator in own], look)
        ax.set_title(plain(name), loc="left", fontsize=10, color=TEXT)
        ax.set_xticks([operator.acceleration for operator in own])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("acceleration" if " R=" in str(own[0]) else "scale")
    grid[0, 0].set_ylabel("PSNR (dB)")
    legend(figure, findings, methods)
    return figure


# --- boxes over subjects ---


def _boxes(findings: Findings, statistics: Statistics, group: Group) -> Figure:
    operators = statistics.operators(group)
    names = list(statistics.tables[group][operators[0]])
    columns = min(len(operators), _COLUMNS)
    lines = -(-len(operators) // columns)
    many = any(len(one.subjects) >= MIN_SUBJECTS for one in statistics.tables[group][operators[0]].values())
    median = "A box holds the middle half, its bar is the median." if many else "Too few subjects for boxes."
    subtitle = f"PSNR of each subject, mean over seeds, {group}. {median}{marks(findings)}"
    figure = canvas("Subjects", subtitle, 1.2 + lines * (0.65 + 0.27 * max(len(names), 3)))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
    for ax in list(grid.flat)[len(operators) :]:
        ax.set_visible(False)
    for at, (ax, operator) in enumerate(zip(grid.flat, operators, strict=False)):
        tidy(ax)
        for y, name in enumerate(names):
            sample = statistics.tables[group][operator][name]
            _box(ax, y, statistics, sample.by_subject())
            if sample.missing:
                text = f"without {', '.join(sorted(sample.missing))} " if sample.subjects else "missing "
                ax.text(
                    1, y, text, transform=ax.get_yaxis_transform(), va="center", ha="right", fontsize=7.5, color=FAINT
                )
        ax.set_yticks(range(len(names)), [plain(shortened(findings.label(name), 24)) for name in names])
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_title(plain(str(operator)), loc="left", fontsize=10, color=TEXT)
        if at + columns >= len(operators):
            ax.set_xlabel("PSNR (dB)")
            ax.tick_params(labelbottom=True)
    _sites(figure, statistics)
    return figure


def _box(ax: Axes, y: int, statistics: Statistics, scores: Mapping[tuple[str, str], float]) -> None:
    if len(scores) >= MIN_SUBJECTS:
        line = {"color": FAINT, "lw": 1.0}
        ax.boxplot(
            list(scores.values()),
            positions=[y],
            widths=0.62,
            orientation="horizontal",
            showfliers=False,
            manage_ticks=False,
            boxprops=line,
            whiskerprops=line,
            capprops=line,
            medianprops={"color": TEXT, "lw": 1.8},
        )
    size = 2.6 if len(scores) >= MIN_SUBJECTS else 5
    for at, site in enumerate(statistics.sites):
        own = [value for (where, _), value in sorted(scores.items()) if where == site]
        spread = [y + 0.22 * (2 * (at + 0.5) / len(statistics.sites) - 1)] * len(own)
        colour, marker = style(at)
        ax.plot(
            own,
            spread,
            ls="",
            marker=marker,
            ms=size,
            color=colour,
            alpha=0.75,
            mew=0,
            zorder=3,
        )


def _sites(figure: Figure, statistics: Statistics) -> None:
    from matplotlib.lines import Line2D

    looks = [style(at) for at in range(len(statistics.sites))]
    handles = [Line2D([], [], ls="", marker=marker, color=colour, ms=5) for colour, marker in looks]
    figure.legend(
        handles, list(statistics.sites), loc="outside right upper", frameon=False, fontsize=9.5, title="subject at"
    )
