"""The record of all messages to and from the sites: one row for each message, with names, sizes and a hash."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fedrecon.sites import atomic

DOWN, UP = "down", "up"

WIRE_LINES = "wire.jsonl"
"""Name of the file of rows (JSON lines) in the folder of a run."""


class WireLog:
    """The rows of ``wire.parquet``. Each row is also added at once to a file of JSON lines.

    No row is ever dropped: a run that is resumed after a crash sends the messages of the lost round again, and both
    times they left. A message that is sent again because a process died has a row for each time, too.

    Args:
        path: path of the file of JSON lines; None keeps the rows in memory.
        round_number: number of the last committed round; the row of a message that names no round has it.
    """

    def __init__(self, path: Path | None = None, round_number: int = 0) -> None:
        self.path, self.round = path, round_number
        self.rows: list[dict[str, Any]] = []
        self._sent: dict[int, tuple[weakref.ref[Any], dict[str, Any]]] = {}
        if path is not None and path.is_file():
            text = path.read_text(encoding="utf-8")
            self.rows = [row for row in map(_parsed, text.splitlines()) if row is not None]
            if text and not text.endswith("\n"):  # a crash cut the last line off
                self._append("\n")

    def sent(self, sites: Iterable[str], messages: Iterable[Any]) -> None:
        """Notes messages that go down to sites. A message that goes to many sites is hashed once."""
        rows = [self._row(DOWN, message) for message in messages]
        self._note([{**row, "site": site} for site in sites for row in rows])

    def received(self, site: str, message: Any) -> None:
        """Notes a message that came up from a site. None is not a message and is not noted."""
        if message is not None:
            self._note([{**self._row(UP, message), "site": site}])

    def _note(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows += rows
        if self.path is not None and rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append("".join(json.dumps(row) + "\n" for row in rows))

    def _append(self, text: str) -> None:
        assert self.path is not None
        with atomic.room_for(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _row(self, direction: str, message: Any) -> dict[str, Any]:
        self.round = getattr(message, "round", self.round)
        description = described(message) if direction == UP else self._described_once(message)
        return {"round": self.round, "site": "", "direction": direction, **description}

    def _described_once(self, message: Any) -> dict[str, Any]:
        found = self._sent.get(id(message))
        if found is None or found[0]() is not message:
            # Weak: the log must not keep 100 MB of parameters alive.
            self._sent = {key: one for key, one in self._sent.items() if one[0]() is not None}
            found = self._sent[id(message)] = weakref.ref(message), described(message)
        return found[1]


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
