"""What is in a shard or in a folder of shards, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.splits import check_consortium, consortium_problems
from fedrecon.sites.errors import InputError

__all__ = ["check_consortium", "find_shards", "inspect"]


def find_shards(path: Path | str) -> list[Path]:
    """The shard ``path``, or the shards (``*.h5``) in the folder ``path``, sorted by name.

    Raises:
        InputError: nothing is there.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder.")
    if not path.is_dir():
        return [path]
    found = sorted(item for item in path.glob("*.h5") if item.is_file() and not item.name.startswith("."))
    if not found:
        raise InputError(f"{path}: there is no shard (*.h5) in this folder.")
    return found


def inspect(path: Path | str) -> dict[str, Any]:
    """Read everything in the shard or folder ``path``.

    Returns:
        ``shards``: the summary of each shard that is in order. ``problems``: ``path`` and ``message`` of each
        that is not, and of what must not meet in one experiment (a site name used twice, a subject in two
        splits).

    Raises:
        InputError: nothing is there.
    """
    path = Path(path)
    opened: list[Shard] = []
    sound: list[Shard] = []
    problems: list[dict[str, str]] = []
    for file in find_shards(path):
        try:
            shard = Shard.open(file)
            opened.append(shard)
            shard.verify()
            sound.append(shard)
        except InputError as error:
            problems.append({"path": str(file), "message": str(error)})
    problems += [{"path": str(path), "message": message} for message in consortium_problems(opened)]
    return {"path": str(path), "shards": [shard.summary() for shard in sound], "problems": problems}
