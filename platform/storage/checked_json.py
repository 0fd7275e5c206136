"""JSON files with a checksum, for what is read back as a number: results, notes, parts of scores, verdicts."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import xxhash

from fedrecon.sites import atomic
from fedrecon.sites.errors import RunError

KEY = "checksum"
_PREFIX = "xxh3-128:"


def write(path: Path, content: Mapping[str, Any], owner: str = "") -> None:
    """Writes ``content`` and, as its last key, the checksum of it, of the file's name and of its owner; atomically.

    Args:
        owner: whose file it is, such as the digest of the run. The file of another owner has another checksum.
    """
    atomic.write_json(path, {**content, KEY: _checksum(path, content, owner)})


def read(
    path: Path, remedy: str, owner: str = "", needs: Collection[str] = (), bare: str = ""
) -> dict[str, Any] | None:
    """What :func:`write` wrote, without the checksum; None if there is no file.

    A file of an earlier version has no checksum and is read as it is, if it holds the keys that are needed.

    Args:
        needs: keys that a file without a checksum must hold.
        bare: key of the list, where files of an earlier version held a list alone; empty allows none.
        remedy: what the user can do about a damaged file; the end of the error message.

    Raises:
        RunError: the file is damaged, or it is that of another owner. The message names the file.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {' '.join(str(error).split())}. {remedy}") from None
    if bare and isinstance(content, list):
        content = {bare: content}
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds {type(content).__name__} instead of a mapping. {remedy}")
    written = content.pop(KEY, None)
    if written is None and (less := sorted(set(needs) - content.keys())):
        raise RunError(f"{path}: holds no {', '.join(less)}. {remedy}")
    # A checksum under another name is a damaged key, and no file of an earlier version.
    moved = written is None and any(isinstance(one, str) and one.startswith(_PREFIX) for one in content.values())
    if moved or written not in (None, _checksum(path, content, owner)):
        raise RunError(f"{path}: its checksum is wrong: it was changed, or it is the file of another run. {remedy}")
    return content


def _checksum(path: Path, content: Mapping[str, Any], owner: str) -> str:
    # The round trip makes what is written and what is read alike: tuples are lists, keys are text.
    plain = json.dumps(json.loads(json.dumps(dict(content))), sort_keys=True)
    return _PREFIX + xxhash.xxh3_128_hexdigest(f"{owner}/{path.name}\n{plain}".encode())
