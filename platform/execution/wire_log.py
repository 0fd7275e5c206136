"""The record of all messages to and from the sites: one row for each message, with names, sizes and a hash."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fedrecon.sites import atomic
from fedrecon.sites.wire import OF_EACH, TrainRequest, Vector, addressed, parts

Reader = Callable[[str, Vector], None]
"""Takes the parts of the vectors of a message, in order, each with the name of its vector (``shared``, ``extra/m``)."""

MakeReader = Callable[[Any], Reader | None]
"""Gives what takes the parts of a message's vectors, or None."""

DOWN, UP = "down", "up"

WIRE_LINES = "wire.jsonl"
"""Name of the file of rows (JSON lines) in the folder of a run."""


def unread(message: Any) -> None:
    """Nobody reads the vectors beside the record."""


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
        self._sent: dict[int, tuple[weakref.ref[Any], _Described]] = {}
        if path is not None and path.is_file():
            text = path.read_text(encoding="utf-8")
            self.rows = [row for row in map(_parsed, text.splitlines()) if row is not None]
            if text and not text.endswith("\n"):  # a crash cut the last line off
                self._append("\n")

    def sent(self, sites: Iterable[str], messages: Iterable[Any]) -> None:
        """Notes messages that go down to sites, as each gets them. A message that goes to many is hashed once."""
        given = list(messages)
        self._note([self._row(DOWN, site, one, self._sent_to(site, one)) for site in sites for one in given])

    def received(self, site: str, message: Any, reader: Reader | None = None) -> None:
        """Notes a message that came up from a site. None is not a message and is not noted.

        Args:
            reader: takes the parts of the message's vectors beside the hash; None if nobody does.
        """
        if message is not None:
            self._note([self._row(UP, site, message, described(message, reader))])

    def _note(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows += rows
        if self.path is not None and rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append("".join(json.dumps(row) + "\n" for row in rows))

    def _append(self, text: str) -> None:
        assert self.path is not None
        with atomic.room_for(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _row(self, direction: str, site: str, message: Any, description: Mapping[str, Any]) -> dict[str, Any]:
        self.round = getattr(message, "round", self.round)
        return {"round": self.round, "site": site, "direction": direction, **description}

    def _sent_to(self, site: str, message: Any) -> dict[str, Any]:
        """The description of a message as the site gets it. What is the same at all sites is read once."""
        own = OF_EACH if isinstance(message, TrainRequest) else ()
        known = self._sent.get(id(message))
        if known is None or known[0]() is not message:
            # Weak: the log must not keep 100 MB of parameters alive.
            self._sent = {key: one for key, one in self._sent.items() if one[0]() is not None}
            common = [one.name for one in fields(message) if one.name not in own]
            known = self._sent[id(message)] = weakref.ref(message), _Described().of(message, common)
        return known[1].of(addressed(message, site), own).row(message)


@dataclass
class _Described:
    """What is known of a message by the fields that were read."""

    names: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    size: int = 0
    hashed: Any = field(default_factory=xxhash.xxh3_128)

    def of(self, message: Any, named: Iterable[str], reader: Reader | None = None) -> _Described:
        """The same with further fields of the message."""
        found = _Described([*self.names], [*self.shapes], self.size, self.hashed.copy())
        for name, value in (part for one in named for part in _parts(one, getattr(message, one))):
            content, shape = _content(value)
            found.names.append(name)
            found.shapes.append(shape)
            found.size += memoryview(content).nbytes
            found.hashed.update(name.encode())
            if reader is None or not isinstance(value, np.ndarray) or value.ndim != 1:
                found.hashed.update(content)
                continue
            for part in parts(value):
                found.hashed.update(np.ascontiguousarray(part))
                reader(name, part)
        return found

    def row(self, message: Any) -> dict[str, Any]:
        named = {"type": type(message).__name__, "names": self.names, "shapes": self.shapes}
        return {**named, "bytes": self.size, "hash": self.hashed.hexdigest()}


def described(message: Any, reader: Reader | None = None) -> dict[str, Any]:
    """Type, names, shapes, bytes and hash of a message. Arrays count with their bytes, other values as JSON text.

    Args:
        reader: takes the parts of the message's vectors too; other arrays it is not given.
    """
    return _Described().of(message, [one.name for one in fields(message)], reader).row(message)


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
