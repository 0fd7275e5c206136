"""Inspects a shard or a folder of shards: summaries of the good shards, and the problems of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.splits import consortium_problems, unlabelled_scans_in_two_splits
from fedrecon.sites.errors import InputError
from fedrecon.sites.phases import counted


def find_shards(path: Path | str) -> list[Path]:
    """The shard ``path``, or the shards (``*.h5``) in the folder ``path``, sorted by name.

    Raises:
        InputError: the path does not exist, or the folder holds no shard.
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
    """Read and check all data of the shard ``path``, or of all shards in the folder ``path``.

    Returns:
        A mapping with ``path``, ``shards`` and ``problems``. ``shards`` holds the summary of each good shard.
        ``problems`` holds ``path`` and ``message`` of each bad shard, and of shards that cannot be in one experiment
        (a site name used twice, a subject or an image in two splits).

    Raises:
        InputError: the path does not exist, or the folder holds no shard.
    """
    path = Path(path)
    opened: list[Shard] = []
    sound: list[Shard] = []
    problems: list[dict[str, str]] = []
    for file in counted("checking shards", find_shards(path)):
        try:
            shard = Shard.open(file)
            opened.append(shard)
            shard.verify()
            sound.append(shard)
        except InputError as error:
            problems.append({"path": str(file), "message": str(error)})
    together = [*consortium_problems(opened), *unlabelled_scans_in_two_splits((one.site, one) for one in sound)]
    problems += [{"path": str(path), "message": message} for message in together]
    return {"path": str(path), "shards": [shard.summary() for shard in sound], "problems": problems}
