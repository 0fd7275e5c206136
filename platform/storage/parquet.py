"""The Parquet files of a run. No other file imports pyarrow for them.

``rounds.parquet`` has one row for each committed round. ``scores.parquet`` has one row for each slice and stage, under
each network that reconstructs the slice, of the test subjects; ``validation.parquet`` has the same of the validation
subjects. ``wire.parquet`` has one row for each message to or from a site. The schemas below are the documentation.
Types are enforced on writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.sites import atomic
from fedrecon.sites.score_columns import KINDS, SCORES, SPREADS

if TYPE_CHECKING:
    import pyarrow

ROUNDS = {
    "round": "int64",
    "replied": "list<string>",  # names of the sites whose reply was merged
    "restarts": "int64",  # site processes that died and came back in this round, its scoring included
    "seconds": "float64",  # wall time of the round
    "bytes_up": "int64",  # parameters from all sites
    "bytes_down": "int64",  # parameters to all sites
    "losses": "list<loss>",  # struct(site, name, value): means over the local steps
    "missed": "list<string>",  # sites that did not reply: late or dead
    "waited": "list<string>",  # sites that did not answer for so long that the run named them
    "scores": "list<loss>",  # struct(site, name, value): validation means of a site; empty if the round was not scored
}

NESTED = ("losses", "scores")
"""The columns of :data:`ROUNDS` that hold values by site and name."""

WIRE = {
    "round": "int64",  # the round that the message belongs to
    "site": "string",
    "direction": "string",  # down to the site | up from it
    "type": "string",  # type of the message, in fedrecon.sites.wire
    "names": "list<string>",  # names of its parts: fields, vectors, pictures
    "shapes": "list<string>",  # shape of each array, bytes of each picture; empty for other parts
    "bytes": "int64",
    "hash": "string",  # XXH3 (128 bits) over names and contents
}


def write_wire(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one row for each message to or from a site, atomically. The rows have the keys of :data:`WIRE`."""
    write_table(path, {name: [row[name] for row in rows] for name in WIRE}, WIRE)


def write_rounds(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one row for each round, atomically.

    Args:
        path: path of the Parquet file.
        rows: rows with the keys of :data:`ROUNDS`; ``losses`` and ``scores`` as ``{site: {name: value}}``. A name is
            ``psnr``, ``zero_filled/psnr``, ...
    """
    # A round that an earlier version committed names nobody that it missed or waited for.
    nested = [{"missed": [], "waited": [], "scores": {}, **row} for row in rows]
    flat = [{**row, **{name: _flatten(row[name]) for name in NESTED}} for row in nested]
    write_table(path, {name: [row[name] for row in flat] for name in ROUNDS}, ROUNDS)


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The rows that :func:`write_rounds` wrote."""
    columns = read_table(path)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{**row, **{name: _nest(row.get(name, ())) for name in NESTED}} for row in rows]


def write_scores(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Writes one row for each slice and stage, atomically.

    The columns are those of :data:`SCORES`, and of :data:`SPREADS` if the method tells a spread.

    Raises:
        ValueError: a column is missing or unknown, or the lengths of the columns differ.
    """
    kinds = _kinds([columns])
    if set(columns) != set(kinds):
        raise ValueError(
            f"scores need the columns {sorted(kinds)}: missing {sorted(set(kinds) - set(columns))}, "
            f"unknown {sorted(set(columns) - set(kinds))}"
        )
    write_table(path, {name: list(columns[name]) for name in kinds}, kinds)


def _kinds(parts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns of these parts, with their types."""
    return KINDS if parts and all(not SPREADS.keys().isdisjoint(one) for one in parts) else SCORES


def read_scores(path: Path) -> dict[str, list[Any]]:
    """The columns that :func:`write_scores` wrote."""
    return read_table(path)


def join_scores(parts: Iterable[Mapping[str, Sequence[Any]]]) -> dict[str, list[Any]]:
    """The columns of several sites, stages or operators, joined row after row."""
    parts = list(parts)
    return {name: [value for part in parts for value in part[name]] for name in _kinds(parts)}


def split_scores(columns: Mapping[str, Sequence[Any]], split: str) -> dict[str, list[Any]]:
    """The rows of one split."""
    own = [one == split for one in columns["split"]]
    return {name: list(compress(values, own)) for name, values in columns.items()}


def write_table(path: Path, columns: Mapping[str, list[Any]], schema: Mapping[str, str]) -> None:
    """Writes a Parquet file of columns with the types of ``schema``, atomically."""
    import pyarrow
    import pyarrow.parquet

    fields = pyarrow.schema([(name, _type(kind)) for name, kind in schema.items()])
    table = pyarrow.table(dict(columns), schema=fields)
    with atomic.replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def read_table(path: Path) -> dict[str, list[Any]]:
    """All columns of one Parquet file, by name."""
    import pyarrow.parquet

    columns: dict[str, list[Any]] = pyarrow.parquet.ParquetFile(path).read().to_pydict()
    return columns


def _type(kind: str) -> pyarrow.DataType:
    import pyarrow

    loss = [("site", pyarrow.string()), ("name", pyarrow.string()), ("value", pyarrow.float64())]
    types = {
        "int64": pyarrow.int64(),
        "float64": pyarrow.float64(),
        "string": pyarrow.string(),
        "bool": pyarrow.bool_(),
        "list<string>": pyarrow.list_(pyarrow.string()),
        "list<loss>": pyarrow.list_(pyarrow.struct(loss)),
    }
    return types[kind]


def _flatten(losses: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    return [
        {"site": site, "name": name, "value": float(value)}
        for site, values in losses.items()
        for name, value in values.items()
    ]


def _nest(losses: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for loss in losses:
        nested.setdefault(loss["site"], {})[loss["name"]] = loss["value"]
    return nested
