"""``fedrecon plot``: the scores and losses of a run over its rounds, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.catalogue.overview import method_of, operator_of
from fedrecon.platform.federation.recorder import with_scores
from fedrecon.platform.reporting.figure import Entry, legend, panels, picture, style, upper
from fedrecon.platform.storage.parquet import read_rounds
from fedrecon.platform.storage.run_lookup import network_of
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import atomic
from fedrecon.sites.errors import InputError
from fedrecon.sites.score_columns import METRIC_LABELS, METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Look = dict[str, Any]
NAME = "curves"
FAINT_ZERO_FILLED: Look = {"color": "#626b78", "ls": ":", "marker": ".", "ms": 4}
MEAN: Look = {"color": "black", "lw": 2.2, "marker": "o", "ms": 4}

Points = Mapping[str, tuple[list[int], list[float]]]
"""Rounds and values, by site."""


def plot(folder: RunFolder, out: Path | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Draws the validation scores and the training losses of each site over the rounds.

    A run that tests the network of another one has no rounds of its own: those of the other run are drawn.

    Args:
        out: folder of the files; None is ``plots/`` in the folder of the run. dry_run: draw and write nothing.

    Returns:
        ``digest`` of the run that is drawn; ``png`` and ``svg``, the paths; ``rounds``, the number of rounds;
        and ``written``.

    Raises:
        InputError: the run has no rounds yet, or it trains nothing. RunError: a file of the run is damaged.
    """
    folder = network_of(folder)
    noted = folder.noted() or {}
    experiment = noted.get("experiment", {})
    if experiment.get("reconstructor", {}).get("name", "network") != "network":
        raise InputError(f"run {folder.digest} reconstructs with {method_of(experiment)}, which has no rounds to plot")
    rows = rounds_of(folder)
    if not rows:
        raise InputError(f"run {folder.digest} has no committed round yet")
    drawn = _drawn(folder, experiment, rows)
    into = folder.path / "plots" if out is None else out
    png, svg = into / f"{NAME}.png", into / f"{NAME}.svg"
    if not dry_run:
        atomic.write_bytes(png, drawn.png)
        atomic.write_bytes(svg, drawn.svg)
    paths = {"png": str(png), "svg": str(svg)}
    return {"digest": folder.digest, **paths, "rounds": len(rows), "written": not dry_run}


def rounds_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of ``rounds.parquet``; of a run that has not written it, or not with scores, those of its checkpoint."""
    path = folder.journal().artifact_path("rounds.parquet")
    rows = [] if path is None else read_rounds(path)
    if any(row["scores"] for row in rows):
        return rows
    kept = folder.checkpoints.latest() if folder.checkpoints.paths() else None
    return rows if kept is None else with_scores(kept[1].get("rounds", ()), kept[1].get("curve", ()))


def series(rows: Sequence[Mapping[str, Any]], column: str, name: str) -> dict[str, tuple[list[int], list[float]]]:
    """The finite values of one name over the rounds, by site.

    Args:
        rows: rows of ``rounds.parquet``. column: ``scores`` or ``losses``. name: such as ``psnr`` or ``loss``.
    """
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for site, values in row[column].items():
            if name in values and math.isfinite(values[name]):
                rounds, own = found.setdefault(site, ([], []))
                rounds.append(row["round"])
                own.append(values[name])
    return found


def mean_of(points: Points) -> tuple[list[int], list[float]]:
    """The unweighted mean over the sites, of the rounds at which every site has a value."""
    by_site = [dict(zip(*one, strict=True)) for one in points.values()]
    common = sorted(set.intersection(*(set(one) for one in by_site))) if by_site else []
    return common, [sum(one[number] for one in by_site) / len(by_site) for number in common]


def _drawn(folder: RunFolder, experiment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Any:
    from matplotlib.ticker import MaxNLocator

    shown = {f"validation {METRIC_LABELS[one]}": ("scores", one) for one in METRICS} | {
        "training loss": ("losses", "loss")
    }
    found = {title: series(rows, *where) for title, where in shown.items()}
    found = {title: points for title, points in found.items() if points}
    if not found:
        raise InputError(f"run {folder.digest} has no score and no loss to plot")
    sites = sorted({site for points in found.values() for site in points})
    styles = {site: style(at) for at, site in enumerate(sites)}
    title = f"{experiment.get('name', '')}: {method_of(experiment)}, {operator_of(experiment)}"
    subtitle = f"run {folder.digest}; scores are of whole validation volumes, the mean over sites is unweighted"
    figure, axes = panels(title, subtitle, [upper(one) for one in found], 2, (1.0, 2.9))
    first, last, zero_filled = rows[0]["round"], rows[-1]["round"], False
    room = max((last - first) / 20, 0.4)
    for ax, (name, points) in zip(axes, found.items(), strict=True):
        for site, (rounds, values) in points.items():
            ax.plot(rounds, values, lw=1.4, ms=4, **styles[site])
        if len(points) > 1:
            ax.plot(*mean_of(points), **MEAN)
        if shown[name][0] == "scores":
            zero_filled |= _zero_filled(ax, rows, shown[name][1])
        ax.set_xlabel("round")
        ax.set_xlim(first - room, last + room)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    entries: list[Entry] = [(site, {"lw": 1.4, "ms": 4, **styles[site]}) for site in sites]
    notes: list[Entry] = [("mean over sites", MEAN)] if len(sites) > 1 else []
    notes += [("zero-filled, mean" if len(sites) > 1 else "zero-filled", FAINT_ZERO_FILLED)] if zero_filled else []
    legend(figure, entries, "site", notes)
    return picture(NAME, title, figure, [folder.digest])


def _zero_filled(ax: Axes, rows: Sequence[Mapping[str, Any]], metric: str) -> bool:
    """Draws the mean of the zero-filled images. Returns whether there is one."""
    rounds, values = mean_of(series(rows, "scores", f"zero_filled/{metric}"))
    if rounds:
        ax.plot(rounds, values, lw=1.6, **FAINT_ZERO_FILLED)
    return bool(rounds)
