"""Heat maps of scores, one panel per method: training against test, by site or by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedrecon.platform.reporting.figure import TEXT, colour_bar, colours, panels, plain
from fedrecon.tune.study.analysis.grid import Cell, Grid, Group, TestOperator
from fedrecon.tune.study.analysis.inputs import UNTRAINED, Findings, shortened
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.analysis.samples import averaged, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tile:
    """One score of a map.

    Attributes:
        value: the score; None if it is missing.
        framed: whether the tile has a frame. The frame means that training did not include the tested site or operator.
    """

    value: float | None
    framed: bool = False


@dataclass(frozen=True)
class Map:
    """The tiles of one panel, by (row, column). A pair that is not planned has no tile."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    tiles: Mapping[tuple[str, str], Tile]


def sites(findings: Findings, statistics: Statistics) -> Figure | None:
    """The map of training sites (rows) against tested sites (columns); None if a table shows the same."""
    grid = statistics.grid
    trained = sorted({cell.trained_on for cell in grid.cells} - {UNTRAINED}, key=lambda one: (one != "all", one))
    if len(trained) < 2 or len(grid.sites) < 2:  # the tables by site already show one row
        return None
    maps = [
        Map(method.label, trained, grid.sites, _tiles(grid, {one: (method.name, one) for one in trained}))
        for method in findings.methods
        if method.trains
    ]
    if untrained := {method.label: (method.name, UNTRAINED) for method in findings.methods if not method.trains}:
        maps.append(Map("without training", list(untrained), grid.sites, _tiles(grid, untrained)))
    n = max(len({(cell.operator, cell.noise) for cell in grid.cells if cell.tested_on == site}) for site in grid.sites)
    levels = len({cell.noise for cell in grid.cells}) > 1
    over = f"the mean over {n} test operators{' and noise levels' * levels}" if n > 1 else "one test operator"
    subtitle = (
        f"PSNR (dB), {over}. Rows: what trained; columns: where it is tested. Framed: the tested site did not train."
    )
    return _figure("Trained here, tested there", subtitle, maps)


def _tiles(grid: Grid, rows: Mapping[str, tuple[str, str]]) -> dict[tuple[str, str], Tile]:
    found = {}
    for row, (method, trained_on) in rows.items():
        own = [cell for cell in grid.cells if cell.method == method]
        for site in grid.sites:
            wanted = {_scheme(cell) for cell in own if cell.tested_on == site}
            here = [cell for cell in own if (cell.trained_on, cell.tested_on) == (trained_on, site)]
            if here:
                whole = {_scheme(cell) for cell in here} == wanted
                value = estimate(averaged([grid.cells[cell] for cell in here])).mean if whole else None
                found[row, site] = Tile(value, trained_on != UNTRAINED and not grid.seen(here[0]))
    return found


def _scheme(cell: Cell) -> tuple[str, TestOperator, float]:
    return cell.trained_with, cell.operator, cell.noise


def operators(findings: Findings, statistics: Statistics) -> Figure | None:
    """The map of training operators (rows) against test operators (columns), for the first kind of training.

    It is None if this kind of training used fewer than two operators.
    """
    first = next(iter(statistics.tables))
    groups = [
        one for one in statistics.tables if (one.kind, one.noise, one.seen) == (first.kind, first.noise, first.seen)
    ]
    if len(groups) < 2:
        return None
    columns = list(dict.fromkeys(operator for group in groups for operator in statistics.operators(group)))
    own = {
        (cell.trained_with, cell.operator)
        for cell in statistics.grid.cells
        if cell.trained_with and statistics.grid.seen_operator(cell)
    }
    names, rows = list(map(str, columns)), [group.trained_with for group in groups]
    shown = [
        one
        for one in findings.methods
        if any(one.name in statistics.tables[at][statistics.overall(at)] for at in groups)
    ]
    maps = [
        Map(method.label, rows, names, _of_groups(statistics, method.name, groups, columns, own))
        for method in shown
        if method.name in statistics.grid.trained_under_operators
    ]
    if others := [method for method in shown if method.name not in statistics.grid.trained_under_operators]:
        tiles = {
            (method.label, column): replace(tile, framed=False)
            for method in others
            for (_, column), tile in _of_groups(statistics, method.name, groups[:1], columns, own).items()
        }
        maps.append(Map("trained with no operator", [method.label for method in others], names, tiles))
    subtitle = f"PSNR (dB), mean over sites, {first.where}. Rows: what was trained with; columns: what is tested. "
    return _figure(
        "Trained with this, tested with that", subtitle + "Framed: another operator than the training's.", maps
    )


def _of_groups(
    statistics: Statistics,
    method: str,
    groups: Sequence[Group],
    columns: Sequence[TestOperator],
    own: set[tuple[str, TestOperator]],
) -> dict[tuple[str, str], Tile]:
    return {
        (group.trained_with, str(operator)): Tile(
            statistics.at(group, operator, method).mean, (group.trained_with, operator) not in own
        )
        for group in groups
        for operator in columns
        if method in statistics.tables[group].get(operator, {})
    }


def _figure(title: str, subtitle: str, maps: Sequence[Map]) -> Figure | None:
    tiles = [tile for one in maps for tile in one.tiles.values()]
    values = [tile.value for tile in tiles if tile.value is not None]
    if not values:
        return None
    most = max(len(one.columns) for one in maps)
    columns = min(len(maps), 4 if most <= 4 else 3 if most <= 6 else 2)
    longest = max(len(name) for one in maps for name in one.columns)
    wide = longest * 0.08 > 8.4 / columns / most
    subtitle += " Hatched: missing." if len(values) < len(tiles) else ""
    subtitle += " Empty: not planned." if any(len(one.tiles) < len(one.rows) * len(one.columns) for one in maps) else ""
    rows = max(max(len(one.rows) for one in maps), 2)
    height = (1.3 + (0.06 * longest + 0.2 if wide else 0), 0.32 * rows + (0.3 if wide else 0.6))
    figure, axes = panels(title, subtitle, [shortened(one.title, 26) for one in maps], columns, height)
    scale = colours(min(values), max(values))
    for at, (ax, one) in enumerate(zip(axes, maps, strict=True)):
        _draw(ax, one, scale)
        has_names = at % columns == 0 or one.rows != maps[at - 1].rows
        ax.set_yticks(range(len(one.rows)), [plain(row, 22) for row in one.rows] if has_names else [])
        _columns(ax, one, wide, at < columns)
    colour_bar(figure, scale, axes, "PSNR (dB)", pad=0.01, shrink=0.9)
    return figure


def _draw(ax: Axes, one: Map, scale: ScalarMappable) -> None:
    from matplotlib.patches import Rectangle

    size = 9.0 if len(one.columns) <= 6 else 7.0
    for (row, column), tile in one.tiles.items():
        x, y = one.columns.index(column), one.rows.index(row)
        corner = (x - 0.5, y - 0.5)
        if tile.value is None:
            ax.add_patch(Rectangle(corner, 1, 1, lw=0.6, facecolor="white", hatch="////", edgecolor="#b9c0c9"))
        else:
            colour = scale.to_rgba(np.array(tile.value))
            ax.add_patch(Rectangle(corner, 1, 1, lw=0.6, facecolor=colour, edgecolor="white"))
            ink = "white" if sum(colour[:3]) < 1.35 else TEXT
            ax.text(x, y, f"{tile.value:.1f}", ha="center", va="center", fontsize=size, color=ink)
        if tile.framed:  # dark on white: a frame that is seen on dark and on bright cells
            for width, edge in ((3.2, "white"), (1.4, TEXT)):
                frame = Rectangle((x - 0.43, y - 0.41), 0.86, 0.82, fill=False, lw=width, edgecolor=edge, zorder=3)
                ax.add_patch(frame)
    ax.set_xlim(-0.5, len(one.columns) - 0.5)
    ax.set_ylim(len(one.rows) - 0.5, -0.5)
    ax.grid(visible=False)
    ax.tick_params(length=0, labelsize=8.5)
    ax.spines[:].set_visible(False)


def _columns(ax: Axes, one: Map, wide: bool, first: bool) -> None:
    """Writes the column names. Wide names are slanted, and only the first row of panels has them."""
    labels = [plain(column, 24) for column in one.columns]
    if not wide:
        ax.set_xticks(range(len(labels)), labels)
        return
    ax.xaxis.tick_top()
    ax.set_xticks(range(len(labels)), labels if first else [], rotation=45, ha="left", rotation_mode="anchor")
