"""The history of the rounds of a run: one file of JSON lines that grows at its end.

A checkpoint names the part of the file that belongs to it: the number of bytes from the start, and their CRC-32. So a
commit writes its own round only. What follows that part was written by a commit that was cut off, and the next commit
writes over it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedrecon.sites import atomic

Lists = Mapping[str, Sequence[Any]]
"""Lists by name. Each list grows at its end."""


@dataclass(frozen=True)
class Part:
    """The part of the file that belongs to a checkpoint.

    Attributes:
        size: number of bytes from the start of the file.
        crc32: their CRC-32.
        counts: number of items of each list in these bytes.
    """

    size: int = 0
    crc32: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The part in JSON types."""
        return asdict(self)


class History:
    """The history in the file ``path``. One process at a time appends; others may read meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def extend(self, part: Part, lists: Lists) -> Part:
        """Appends what ``lists`` have beyond ``part``, and syncs the file. Returns the part that holds all of it.

        If the file does not hold ``part`` (a history of schema 1, or a list that was begun anew), it is written whole.
        """
        if not self._continues(part, lists):
            part = Part()
        line = _line(lists, part.counts)
        after = Part(part.size + len(line), zlib.crc32(line, part.crc32), {name: len(lists[name]) for name in lists})
        if not line:
            return after
        if not part.size:  # a file that is there belongs to other checkpoints: it is replaced at once, or not at all
            atomic.write_bytes(self.path, line)
            return after
        with atomic.room_for(self.path), self.path.open("r+b") as file:
            file.seek(part.size)
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return after

    def read(self, part: Part) -> dict[str, list[Any]]:
        """The lists that ``part`` holds.

        Raises:
            ValueError: the file is lost, shorter than the part, or changed in it.
        """
        content = b""
        if part.size:
            with self.path.open("rb") as file:
                content = file.read(part.size)
        if len(content) < part.size or zlib.crc32(content) != part.crc32:
            raise ValueError(f"the history of its rounds in {self.path.name} is damaged")
        lists: dict[str, list[Any]] = {name: [] for name in part.counts}
        for line in content.splitlines():
            for name, items in json.loads(line).items():
                lists[name] += items
        return lists

    def _continues(self, part: Part, lists: Lists) -> bool:
        size = self.path.stat().st_size if self.path.is_file() else 0
        return part.size <= size and all(len(lists.get(name, ())) >= n for name, n in part.counts.items())


def _line(lists: Lists, counts: Mapping[str, int]) -> bytes:
    added = {name: list(items[counts.get(name, 0) :]) for name, items in lists.items()}
    return (json.dumps(added) + "\n").encode() if any(added.values()) else b""
