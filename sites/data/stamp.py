"""Stamps of files, and the notes of the content hash that a shard of a stamp had."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from fedrecon.sites import atomic
from fedrecon.sites.errors import InputError

_SETTLED_NS = 2 * 10**9
"""A file that changed so shortly before it was hashed is not cached: a later change could have the same time."""


class Stamp(NamedTuple):
    """What tells a changed file without reading it: device, inode, size, and times of the last change in ns."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of the file ``path``.

        Raises:
            InputError: there is no such file, or it cannot be seen.
        """
        try:
            found = path.stat()
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file.") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}.") from None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def noted(stamp: Stamp) -> str | None:
    """The content hash that was computed for a file of this stamp; a claim, which a user can delete at any time."""
    with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError, TypeError):
        entry = json.loads(_entry(stamp).read_text(encoding="utf-8"))
        if entry["stamp"] == list(stamp):
            return str(entry["content_hash"])
    return None


def note(stamp: Stamp, found: str, start: int) -> None:
    """Notes the content hash of a file, unless the file changed a moment before ``start``, the time of its reading."""
    if max(stamp.modified_ns, stamp.changed_ns) + _SETTLED_NS >= start:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home, or a full disk: the next opening reads all data again
        atomic.write_json(_entry(stamp), {"stamp": list(stamp), "content_hash": found})


def _entry(stamp: Stamp) -> Path:
    given = os.environ.get("FEDRECON_CACHE")
    home = os.environ.get("XDG_CACHE_HOME")
    folder = Path(given) if given else (Path(home) if home else Path.home() / ".cache") / "fedrecon"
    return folder / "seals" / f"{stamp.device}-{stamp.inode}.json"
