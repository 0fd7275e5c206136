"""The figures of a study: maps, curves, boxes and bars. A figure that would show nothing is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.platform.reporting.document import Picture
from fedrecon.platform.reporting.figure import FAINT, TEXT, legend, panels, picture, plain, style, upper
from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import MARKS, Findings, shortened
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.analysis.significance import MIN_SUBJECTS
from fedrecon.tune.study.report import bar_charts as bars
from fedrecon.tune.study.report import heatmaps as heat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = {
    "map-sites": (heat.sites, "What trained (rows) and where it is tested (columns); one scale for all methods."),
    "map-operators": (heat.operators, "What was trained with (rows) and what is tested (columns)."),
    "gaps": (bars.gaps, "What each method loses where it did not train."),
    "gains": (bars.gains, "What training together is worth over each site's own network."),
    "gains-sites": (bars.against_sites, "The gain over local training against the number of sites that trained."),
    "gains-slices": (bars.against_slices, "The gain over local training against the training slices of a site."),
}
"""The figures with one picture for the whole study: the function that draws each, and its caption."""
BUDGET = 1_500_000
"""A size in bytes. When the SVGs together (without the panels) reach it, no more box plots are added."""
_COLUMNS = 4


def draw(findings: Findings, statistics: Statistics) -> list[Picture]:
    """Draws all figures; the panels come last. The same findings give the same bytes."""
    trained = sorted({row.run_id for row in findings.scores if findings.method(row.method).trains})
    everything = sorted({run for method in findings.methods for run in statistics.runs_of(method.name)})
    found = []
    for name, (draws, caption) in FIGURES.items():
        if (figure := draws(findings, statistics)) is not None:
            found.append(picture(name, caption, figure, everything if name.startswith("map") else trained))
    for at, groups in enumerate(_alike(statistics), 1):
        if (figure := _curve(findings, statistics, groups)) is not None:
            caption = f"PSNR against {_axis(statistics, groups)}. {upper(_of(groups))}."
            runs = sorted({run for group in groups for run in group_runs(statistics, group)})
            found.append(picture(f"curve-{at}", caption, figure, runs))
    for at, group in enumerate(statistics.tables, 1):
        if sum(len(one.svg) for one in found) < BUDGET:
            caption = f"Each point is a subject (mean over seeds), coloured by site. {upper(str(group))}."
            figure = _boxes(findings, statistics, group)
            found.append(picture(f"box-{at}", caption, figure, group_runs(statistics, group)))
    return found + [
        Picture(f"panel-{at}", f"{panel.title}. {panel.caption}", panel.png, runs=panel.runs)
        for at, panel in enumerate(findings.panels, 1)
    ]


def group_runs(statistics: Statistics, group: Group) -> list[str]:
    """All runs behind the table of a group."""
    tables = statistics.tables[group].values()
    return sorted({run for samples in tables for sample in samples.values() for run in sample.runs})


def _marks(findings: Findings) -> str:
    """The meaning of the marks behind the methods' names, as text. Only marks that occur are explained."""
    labels = "".join(method.label for method in findings.methods)
    meanings = [meaning for mark, meaning in MARKS.items() if mark in labels]
    return f" {'; '.join(meanings)}." if meanings else ""


# --- score against acceleration ---


def _alike(statistics: Statistics) -> list[list[Group]]:
    """The groups of each figure of curves. The groups of one figure differ only in noise."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in statistics.tables:
        found.setdefault((group.kind, group.trained_with, group.seen), []).append(group)
    return list(found.values())


def _of(groups: Sequence[Group]) -> str:
    return f"{groups[0].where} ({groups[0].trained})"


def _axis(statistics: Statistics, groups: Sequence[Group]) -> str:
    return "acceleration" if statistics.operators(groups[0])[0].measures == "R" else "scale"


def _curve(findings: Findings, statistics: Statistics, groups: Sequence[Group]) -> Figure | None:
    shown: dict[str, tuple[Group, list[TestOperator]]] = {}
    for group in groups:
        if statistics.own_operators(group):  # a curve would join other hospitals, not other accelerations
            continue
        for mask in dict.fromkeys(operator.mask for operator in statistics.operators(group)):
            own = [operator for operator in statistics.operators(group) if operator.mask == mask]
            if len(own) > 1:
                shown[mask + (f", noise x {group.noise:g}" if len(groups) > 1 else "")] = (group, own)
    if not shown:
        return None
    axis = _axis(statistics, groups)
    text = f"{upper(_of(groups))}. Mean over sites; bands: 95 % interval over subjects.{_marks(findings)}"
    figure, axes = panels(f"PSNR against {axis}", text, list(shown), _COLUMNS, (1.0, 3.9), sharey=True)
    order = [method.name for method in findings.methods]
    methods = sorted(
        {name for group in groups for name in statistics.tables[group][statistics.overall(group)]}, key=order.index
    )
    for ax, (group, own) in zip(axes, shown.values(), strict=True):
        x = [operator.acceleration for operator in own]
        for method in methods:
            points = [statistics.at(group, operator, method) for operator in own]
            bars.band(ax, x, points, bars.look(findings, method))
        ax.set_xticks(x)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel(axis)
    axes[0].set_ylabel("PSNR (dB)")
    legend(figure, bars.entries(findings, methods))
    return figure


# --- boxes over subjects ---


def _boxes(findings: Findings, statistics: Statistics, group: Group) -> Figure:
    operators = statistics.operators(group)
    names = list(statistics.tables[group][operators[0]])
    many = any(len(one.subjects) >= MIN_SUBJECTS for one in statistics.tables[group][operators[0]].values())
    median = "A box holds the middle half, its bar is the median." if many else "Too few subjects for boxes."
    subtitle = f"PSNR of each subject, mean over seeds, {group}. {median}{_marks(findings)}"
    height = (1.2, 0.65 + 0.27 * max(len(names), 3))
    titles = [str(operator) for operator in operators]
    figure, axes = panels("Subjects", subtitle, titles, _COLUMNS, height, sharey=True, sharex=True)
    for ax, operator in zip(axes, operators, strict=True):
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
        ax.set_xlabel("PSNR (dB)")
    sites = [(site, {**style(at), "ls": "", "ms": 5}) for at, site in enumerate(statistics.sites)]
    legend(figure, sites, "subject at")
    return figure


def _box(ax: Axes, y: int, statistics: Statistics, scores: Mapping[tuple[str, str], float]) -> None:
    many = len(scores) >= MIN_SUBJECTS
    if many:
        line = {"color": FAINT, "lw": 1.0}
        props: Any = {
            "boxprops": line,
            "whiskerprops": line,
            "capprops": line,
            "medianprops": {"color": TEXT, "lw": 1.8},
        }
        place: Any = {"positions": [y], "widths": 0.62, "orientation": "horizontal", "manage_ticks": False}
        ax.boxplot(list(scores.values()), showfliers=False, **place, **props)
    for at, site in enumerate(statistics.sites):
        own = [value for (where, _), value in sorted(scores.items()) if where == site]
        spread = [y + 0.22 * (2 * (at + 0.5) / len(statistics.sites) - 1)] * len(own)
        ax.plot(own, spread, ls="", ms=2.6 if many else 5, alpha=0.75, mew=0, zorder=3, **style(at))
