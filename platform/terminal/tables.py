"""Tables on stdout, and the lists of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrecon.sites.score_columns import METRICS


def result_table(result: Mapping[str, Any]) -> None:
    """Prints the test scores per site: of the output, after data consistency, and of the zero-filled image."""
    header = ["site", "volumes", "slices", "PSNR dB", "SSIM", "NMSE", "with DC", "zero-filled"]
    rows = [[name, *_scores(one)] for name, one in result["sites"].items()]
    _table(f"{result['name']}: test subjects", header, [*rows, ["mean", *_scores(result["mean"])]])


def rows_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the rows of an evaluation."""
    header = [
        "site",
        "measured by",
        "R",
        "measured R",
        "model",
        "slices",
        "PSNR dB",
        "SSIM",
        "NMSE",
        "with DC",
        "zero-filled",
    ]
    shown = [
        [
            row["site"],
            row["mask"],
            f"{row['acceleration']:g}",
            f"{row['measured_acceleration']:.2f}",
            row["model"],
            str(row["n_slices"]),
            *[format(row[metric], METRICS[metric]) for metric in METRICS],
            *_others(row),
        ]
        for row in rows
    ]
    _table("evaluation: test subjects", header, shown)


def shards_table(shards: Sequence[Mapping[str, Any]]) -> None:
    """Prints the contents of shards, one row per shard."""
    header = [
        "site",
        "contrast",
        "tesla",
        "matrix",
        "coils",
        "k-space",
        "phase",
        "train",
        "validation",
        "test",
    ]
    rows = [
        [
            str(one["site"]),
            str(one["contrast"] or "-"),
            str(one["field_strength_t"] or "-"),
            ", ".join(f"{y}x{x}" for y, x in one["matrix"]),
            str(one["n_coils"]),
            "simulated" if one["simulated"] else "measured",
            str(one["phase"]),
            *[_split(one["splits"][name]) for name in ("train", "validation", "test")],
        ]
        for one in shards
    ]
    _table("subjects / slices of each split", header, rows)


def registry(kind: str) -> dict[str, str]:
    """The plug-ins of one kind by name, each with one line of description.

    Args:
        kind: ``strategies``, ``networks``, ``masks``, ``degradations``, ``formats`` or ``reconstructors``.
    """
    from fedrecon.sites.classical import RECONSTRUCTORS
    from fedrecon.sites.formats import FORMATS
    from fedrecon.sites.imaging.degradations import DEGRADATIONS
    from fedrecon.sites.imaging.masks import MASKS
    from fedrecon.strategies import STRATEGIES
    from fedrecon.strategies.networks import NETWORKS

    plugins: dict[str, Mapping[str, Any]] = {
        "strategies": STRATEGIES,
        "masks": MASKS,
        "degradations": DEGRADATIONS,
        "reconstructors": RECONSTRUCTORS,
    }
    if kind == "formats":
        return {name: one.summary for name, one in FORMATS.items()}
    if kind == "networks":
        kinds = {"reconstruction": "", "super-resolution": "super-resolution: ", "prior": "prior: "}
        return {name: kinds[one.kind] + _parameters(one.parameters) for name, one in NETWORKS.items()}
    return {name: f"{_first_line(one)}  ({_parameters(one) or 'no parameters'})" for name, one in plugins[kind].items()}


def _first_line(kind: Any) -> str:
    return str(kind.__doc__ or "").strip().split("\n")[0]


def _parameters(model: Any) -> str:
    fields = model.model_fields
    return ", ".join(name if one.is_required() else f"{name}={one.default}" for name, one in fields.items())


def _scores(one: Mapping[str, Any]) -> list[str]:
    own = [format(one[metric], METRICS[metric]) for metric in METRICS]
    return [str(one["n_volumes"]), str(one["n_slices"]), *own, *_others(one)]


def _others(one: Mapping[str, Any]) -> list[str]:
    return [format(one[key]["psnr"], METRICS["psnr"]) for key in ("with_data_consistency", "zero_filled")]


def _split(one: Mapping[str, Any]) -> str:
    return f"{len(one['subjects'])} / {one['n_slices']}"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A pipe has no width. Without a width of at least 130 the columns would be cut.
    Console(width=max(console.width, 130)).print(table) if not console.is_terminal else console.print(table)
