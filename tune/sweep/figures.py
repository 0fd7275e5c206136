"""The figures of a sweep, as PNG.

The figures show test scores but never use them for a choice. Validation scores make every choice: the best trial per
seed, a front, a colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.platform.reporting.document import Picture
from fedrecon.platform.reporting.figure import (
    COLOURS,
    FAINT,
    GRID,
    TEXT,
    Entry,
    colour_bar,
    colours,
    legend,
    panels,
    picture,
    plain,
    style,
    upper,
)
from fedrecon.tune.sweep.grouping import (
    ACCELERATION,
    SEED,
    GroupedTrials,
    Point,
    Row,
    coordinate,
    front,
    hardness,
    is_numeric,
    is_problem,
    label,
    means,
    number,
    off_axis,
    read,
    spread,
    text,
    varying,
)

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[int, Sequence[tuple[int, float]]]

MIN_TRIALS = 8  # fewer say nothing about importance
RELIABLE = 0.3  # out-of-bag R² below which an importance is called not reliable
CAPTIONS = {
    "acceleration": "Score against acceleration, with the spread over seeds.",
    "curves": "The validation score after each round. Dashed: stopped early. Cross: failed.",
    "parallel": "Every trial as a line through its searched values to its score.",
    "importance": "How much a random forest loses where the values of one key are shuffled.",
    "pareto": "Both metrics, and the trials that no other one beats in both.",
}


def draw(
    trials: pyarrow.Table, metrics: Sequence[str], modes: Sequence[str], curves: Curves | None = None
) -> list[Picture]:
    """The figures ``acceleration``, ``curves``, ``parallel``, ``importance``, ``pareto``.

    A figure is left out if the trials have too few values for it.

    Args:
        trials: one row per trial: ``number, status, digest, params.KEY ..., METRIC ..., test/METRIC ...``; values may
            be null.
        metrics: the validation metrics; the first one decides, and the first two make a front.
        modes: ``max`` or ``min``, one for each metric.
        curves: for each trial number, a list of (round, value of the first metric).
    """
    sweep = GroupedTrials.of(read(trials), metrics, modes)
    drawn = {
        "acceleration": _acceleration(sweep),
        "curves": _curves(sweep, curves or {}),
        "parallel": _parallel(sweep),
        "importance": _importance(sweep),
        "pareto": _pareto(sweep),
    }
    return [picture(name, CAPTIONS[name], figure) for name, figure in drawn.items() if figure is not None]


# --- score against acceleration ---


def _acceleration(sweep: GroupedTrials) -> Figure | None:
    test = f"test/{sweep.metric}"
    score = test if any(row.get(test) is not None for row in sweep.rows) else sweep.metric
    rows = [row for row in sweep.rows if row["status"] == "FINISHED" and row.get(score) is not None]
    hard = hardness(rows)
    left_out = off_axis(rows, hard)
    rows = [row for row in rows if number(row.get(hard)) is not None]
    if len({number(row[hard]) for row in rows}) < 2:
        return None
    shown = sweep.panels(rows, but=[hard])
    *path, last = score.split("/")
    floor = "/".join([*path, "zero_filled", last]) if score == test else ""
    below = [("zero-filled", {"ls": "--", "color": FAINT})] if any(row.get(floor) is not None for row in rows) else []
    title = f"{upper(label(score))} against {hard.split('.')[-1]}"
    figure, axes = _sheet(
        title, _spread_subtitle(sweep, shown, hard) + sweep.mixed_problems(shown, [hard]) + left_out, list(shown)
    )
    for ax, panel in zip(axes, shown.values(), strict=True):
        xs = sorted({number(row[hard]) or 0.0 for row in panel})
        lines = sweep.lines(panel)
        for i, (group, own) in enumerate(lines.items()):
            # Shift the points a little, so that error bars do not cover each other.
            aside = (i - (len(lines) - 1) / 2) * min(0.014, 0.08 / len(lines)) * (xs[-1] - xs[0])
            _line(ax, spread(own, hard, score, sweep.metric, sweep.mode), _style(sweep, group), aside)
        for same, alike in sweep.problems(panel):
            if lowest := means(alike, hard, floor):
                colour = FAINT if same is None else _style(sweep, same)["color"]
                ax.plot(*zip(*lowest, strict=True), "--", color=colour, lw=1.4, zorder=1)
        ax.set_xticks(xs if len(xs) <= 10 else xs[:: len(xs) // 8], [])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("nominal acceleration" if hard == ACCELERATION else "scale")
    axes[0].set_ylabel(label(score))
    _legend(figure, sweep, rows, below)
    return figure


def _line(ax: Axes, points: Sequence[Point], look: dict[str, Any], aside: float) -> None:
    x = [point.x + aside for point in points]
    width = 0.006 * (points[-1].x - points[0].x)
    mean, deviation = [point.mean for point in points], [point.deviation for point in points]
    ax.errorbar(x, mean, deviation, ms=6, lw=1.8, elinewidth=1.2, capsize=3, zorder=3, **look)
    for at, point in zip(x, points, strict=True):
        if len(point.scores) > 1:
            ax.plot([at + width] * len(point.scores), point.scores, ls="", ms=4.5, alpha=0.4, **look)


def _spread_subtitle(sweep: GroupedTrials, shown: Mapping[str, list[Row]], hard: str) -> str:
    """The subtitle: the number of seeds in the spread, and the keys over which the best trial of each seed is taken."""
    known = (hard, SEED, sweep.line)
    cells: dict[Any, list[Row]] = {}
    for name, panel in shown.items():
        for row in panel:
            cells.setdefault((name, sweep.group(row), number(row[hard])), []).append(row)
    seeds = sorted({len({text(row.get(SEED)) for row in cell}) for cell in cells.values()})
    subtitle = "One seed, so no spread is known."
    if seeds[-1] > 1:
        n = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        subtitle = f"Mean and sample standard deviation over {n} seeds, each seed shown faintly."
    others = [key for key in sweep.keys if key not in known and any(varying(cell, [key]) for cell in cells.values())]
    if others:
        over = ", ".join(sweep.names[key] for key in others)
        subtitle += f" Of each seed the best trial over {over} is taken, chosen by {label(sweep.metric)}."
    return subtitle


# --- learning curves ---


def _curves(sweep: GroupedTrials, curves: Curves) -> Figure | None:
    from matplotlib.ticker import MaxNLocator

    known = {at: [(x, y) for x, y in curve if number(y) is not None] for at, curve in curves.items()}
    rows = [row for row in sweep.rows if known.get(row["number"])]
    if not rows:
        return None
    shown = sweep.panels(rows)
    notes: dict[str, tuple[str, dict[str, Any]]] = {
        "STOPPED": ("stopped early", {"ls": "--", "color": FAINT}),
        "FAILED": ("failed", {"ls": "", "marker": "x", "ms": 8, "mew": 2, "color": FAINT}),
    }
    used = [note for status, note in notes.items() if any(row["status"] == status for row in rows)]
    subtitle = f"{len(rows)} trials; after every round that was scored." if len(rows) > 1 else "One trial."
    figure, axes = _sheet(
        f"{upper(label(sweep.metric))} in the course of training", subtitle + sweep.mixed_problems(shown), list(shown)
    )
    for ax, panel in zip(axes, shown.values(), strict=True):
        for row in panel:
            x, y = zip(*known[row["number"]], strict=True)
            look = _style(sweep, sweep.group(row))
            line = "--" if row["status"] == "STOPPED" else "-"
            alpha = 0.85 if len(panel) <= 20 else 0.5
            marker = look["marker"] if len(x) == 1 else ""
            ax.plot(x, y, line, color=look["color"], alpha=alpha, lw=1.5, marker=marker, ms=5)
            if row["status"] == "FAILED":
                ax.plot(x[-1], y[-1], "x", color=look["color"], ms=8, mew=2, zorder=4)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        ax.set_xlabel("round")
    axes[0].set_ylabel(label(sweep.metric))
    _legend(figure, sweep, rows, used)
    return figure


# --- parallel coordinates ---


def _parallel(sweep: GroupedTrials) -> Figure | None:
    rows = [row for row in sweep.rows if sweep.score(row) is not None]
    if len(rows) < 2 or not sweep.keys:
        return None
    test = f"test/{sweep.metric}"
    columns = [*sweep.keys, sweep.metric, *([test] if any(row.get(test) is not None for row in rows) else [])]
    subtitle = f"{len(rows)} trials that finished or were stopped (dashed); the darker, the better in validation."
    figure, axes = _sheet("Searched values and score", subtitle, [""])
    ax = axes[0]
    scores = [row[sweep.metric] for row in rows]
    worst, top = (min(scores), max(scores)) if sweep.mode == "max" else (max(scores), min(scores))
    scale = colours(min(scores), max(scores), reverse=sweep.mode == "max")
    heights = [_coordinate(ax, at, column, rows) for at, column in enumerate(columns)]
    order = sorted(range(len(rows)), key=lambda i: abs(scores[i] - worst) if top != worst else 0.0)
    for rank, i in enumerate(order):
        # Shift each line a little by its rank. Otherwise the lines of one category would cover each other.
        aside = 0.03 * (rank / max(len(rows) - 1, 1) - 0.5)
        y = [h[i] + (aside if column in sweep.keys else 0.0) for h, column in zip(heights, columns, strict=True)]
        line = "--" if rows[i]["status"] == "STOPPED" else "-"
        ax.plot(y, line, color=scale.to_rgba(scores[i]), lw=1.0 + 1.2 * rank / len(rows), alpha=0.8, zorder=2 + rank)
    stagger = len(columns) > 7
    for at, column in enumerate(columns):
        name = sweep.names.get(column, label(column).replace(" ", "\n", 1))
        high = 1.05 + (0.05 if stagger and at % 2 else 0.0)
        ax.text(at, high, plain(name), ha="center", va="bottom", fontsize=10, weight="bold", color=TEXT)
    ax.set_xlim(-0.3, len(columns) - 0.7)
    ax.set_axis_off()
    colour_bar(figure, scale, ax, label(sweep.metric), pad=0.03)
    return figure


def _coordinate(ax: Axes, at: int, column: str, rows: Sequence[Row]) -> NDArray[np.float64]:
    """Draws one axis with its ticks. Returns the height of each row on it, in 0..1; NaN if a score is missing.

    A searched key without a value lies below the axis, at -0.1.
    """
    heights, ticks = coordinate([row[column] for row in rows], is_numeric(rows, column))
    if not column.startswith("params."):
        heights = np.array([math.nan if row[column] is None else h for row, h in zip(rows, heights, strict=True)])
        ticks = {name: h for name, h in ticks.items() if h >= 0}
    ax.plot([at, at], [0, 1], color=FAINT, lw=1, zorder=1)
    for name, height in ticks.items():
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
        ax.plot([at - 0.012, at + 0.012], [height, height], color=FAINT, lw=1, zorder=1)
        ax.text(at + 0.025, height, plain(name, 18), va="center", fontsize=9, color=TEXT, bbox=box, zorder=10_000)
    return heights


# --- importance ---


def _importance(sweep: GroupedTrials) -> Figure | None:
    rows = [row for row in sweep.rows if sweep.score(row) is not None]
    keys = varying(rows, sweep.keys)
    scores = np.array([row[sweep.metric] for row in rows])
    if len(rows) < MIN_TRIALS or len(keys) < 2 or np.ptp(scores) == 0:
        return None
    drop, error, r2 = importance(rows, keys, scores)
    trust = "" if r2 >= RELIABLE else f": below {RELIABLE}, NOT RELIABLE"
    subtitle = (
        f"{len(rows)} finished or stopped trials. Random forest, out-of-bag R² = {r2:.2f}{trust}. "
        "Bars: how much R² drops where the values of a key are shuffled, with its standard deviation."
        + (" What the seed reaches (grey) is noise." if SEED in keys else "")
    )
    figure, axes = _sheet(f"What {label(sweep.metric)} depends on", subtitle, [""], height=2.4 + 0.42 * len(keys))
    ax = axes[0]
    order = np.argsort(drop, kind="stable")
    colours = [GRID if keys[i] == SEED else COLOURS[0] for i in order]
    bars = {"ecolor": FAINT, "capsize": 3, "lw": 1.2}
    ax.barh(
        [plain(sweep.names[keys[i]]) for i in order],
        drop[order],
        0.62,
        xerr=error[order],
        color=colours,
        error_kw=bars,
    )
    ax.axvline(0, color=FAINT, lw=1)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("permutation importance (drop in R²)")
    return figure


def importance(
    rows: Sequence[Row], keys: Sequence[str], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Permutation importance of searched keys (Breiman 2001), its standard deviation, and the forest's out-of-bag R².

    A category is encoded by its position in the order of appearance. If a trial has no value for a key, the encoded
    value is lower than all values of that key.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    features = np.stack([coordinate([row[key] for row in rows], is_numeric(rows, key))[0] for key in keys], axis=1)
    forest = RandomForestRegressor(200, oob_score=True, random_state=0).fit(features, scores)
    found = permutation_importance(forest, features, scores, n_repeats=10, random_state=0)
    return found.importances_mean, found.importances_std, float(forest.oob_score_)


# --- two metrics ---


def _pareto(sweep: GroupedTrials) -> Figure | None:
    if len(sweep.metrics) < 2:
        return None
    first, second = sweep.metrics[:2]
    rows = [row for row in sweep.rows if row["status"] == "FINISHED"]
    rows = [row for row in rows if row.get(first) is not None and row.get(second) is not None]
    if not rows:
        return None
    shown = sweep.panels(rows)
    subtitle = "The line joins the trials that no other one beats in both, each with its number; of finished trials."
    subtitle += " Each mask or degradation has its own." if sweep.line and is_problem(sweep.line) else ""
    figure, axes = _sheet(
        f"{upper(label(second))} against {label(first)}", subtitle + sweep.mixed_problems(shown), list(shown)
    )
    for ax, panel in zip(axes, shown.values(), strict=True):
        for group, own in sweep.lines(panel).items():
            x, y = [row[first] for row in own], [row[second] for row in own]
            ax.plot(x, y, ls="", alpha=0.75, ms=6, **_style(sweep, group))
        for same, alike in sweep.problems(panel):
            points = [(row[first], row[second]) for row in alike]
            best = front(points, sweep.modes[:2])
            colour = TEXT if same is None else _style(sweep, same)["color"]
            ax.plot(*zip(*(points[i] for i in best), strict=True), "-", color=colour, lw=1.2, alpha=0.7, zorder=1)
            for i in best[:12]:
                text = str(alike[i]["number"])
                ax.annotate(text, points[i], (5, 5), textcoords="offset points", fontsize=8.5, color=TEXT)
        ax.set_xlabel(label(first))
        ax.margins(0.08)
    axes[0].set_ylabel(label(second))
    _legend(figure, sweep, rows, [("front", {"ls": "-", "color": TEXT})])
    return figure


# --- shared by all figures ---


def _sheet(title: str, subtitle: str, names: Sequence[str], height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with one panel for each name; the panels share their scales."""
    return panels(
        title, subtitle, names, 4, (height or 5.8, 0.0) if len(names) <= 4 else (2.2, 3.0), sharex=True, sharey=True
    )


def _legend(figure: Figure, sweep: GroupedTrials, rows: Sequence[Row], notes: Sequence[Entry] = ()) -> None:
    """Draws the legend beside the axes: the groups and the notes."""
    entries = [(group, _style(sweep, group)) for group in sweep.lines(rows) if group]
    legend(figure, entries, sweep.names[sweep.line] if sweep.line else "", notes)


def _style(sweep: GroupedTrials, group: str) -> dict[str, Any]:
    """Colour and marker of a group, the same in every figure."""
    return style(sweep.groups.index(group))
