"""The record of all messages to and from the sites: one row for each message, with names, sizes and a hash."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

DOWN, UP = "down", "up"

WIRE_LINES = "wire.jsonl"
"""Name of the file of rows (JSON lines) in the folder of a run."""


class WireLog:
    """The rows of ``wire.parquet``. Until the run is finished they are in a file of JSON lines.

    The rows are written when a round is committed. A run that is resumed after a crash drops the rows of rounds that
    were not committed. The messages of these rounds are sent and noted again.

    Args:
        path: path of the file of JSON lines; None keeps the rows in memory.
        committed: number of the last committed round.
    """

    def __init__(self, path: Path | None = None, committed: int = 0) -> None:
        self.path, self.round = path, committed
        self.rows: list[dict[str, Any]] = []
        self._written = 0
        self._last: tuple[weakref.ref[Any], dict[str, Any]] | None = None
        if path is not None and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.rows = [row for row in map(_parsed, lines) if row is not None and row["round"] <= committed]
            self._rewrite()

    def sent(self, sites: Iterable[str], messages: Iterable[Any]) -> None:
        """Notes messages that go down to sites. A message that goes to many sites is hashed once."""
        rows = [self._row(DOWN, message) for message in messages]
        self.rows += [{**row, "site": site} for site in sites for row in rows]

    def received(self, site: str, message: Any) -> None:
        """Notes a message that came up from a site. None is not a message and is not noted."""
        if message is not None:
            self.rows.append({**self._row(UP, message), "site": site})

    def _row(self, direction: str, message: Any) -> dict[str, Any]:
        self.round = getattr(message, "round", self.round)
        description = described(message) if direction == UP else self._described_once(message)
        return {"round": self.round, "site": "", "direction": direction, **description}

    def _described_once(self, message: Any) -> dict[str, Any]:
        if self._last is None or self._last[0]() is not message:
            # Weak: the log must not keep 100 MB of parameters alive.
            self._last = weakref.ref(message), described(message)
        return self._last[1]

    def write(self) -> None:
        """Writes the rows that are not on disk yet."""
        if self.path is not None and self._written < len(self.rows):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in self.rows[self._written :])
            self._written = len(self.rows)

    def _rewrite(self) -> None:
        assert self.path is not None
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        self._written = len(self.rows)


def described(message: Any) -> dict[str, Any]:
    """Type, names, shapes, bytes and hash of a message. Arrays count with their bytes, other values as JSON text."""
    names: list[str] = []
    shapes: list[str] = []
    size, hashed = 0, xxhash.xxh3_128()
    for one in fields(message):
        for name, value in _parts(one.name, getattr(message, one.name)):
            content, shape = _content(value)
            names.append(name)
            shapes.append(shape)
            size += memoryview(content).nbytes
            hashed.update(name.encode())
            hashed.update(content)
    return {
        "type": type(message).__name__,
        "names": names,
        "shapes": shapes,
        "bytes": size,
        "hash": hashed.hexdigest(),
    }


def _parts(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and any(
        isinstance(one, np.ndarray | bytes) or is_dataclass(one) for one in value.values()
    ):
        return [part for key, one in value.items() for part in _parts(f"{name}/{key}", one)]
    if is_dataclass(value):
        return [part for one in fields(value) for part in _parts(f"{name}/{one.name}", getattr(value, one.name))]
    return [(name, value)]


def _content(value: Any) -> tuple[Any, str]:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, "x".join(map(str, value.shape))
    if isinstance(value, bytes):
        return value, str(len(value))
    return json.dumps(value, default=str, sort_keys=True).encode(), ""


def _parsed(line: str) -> dict[str, Any] | None:
    """The row of a line; None if a crash cut the line off."""
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return row
