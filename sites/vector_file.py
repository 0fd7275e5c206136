"""Reads a safetensors file as a whole, with its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def read_vectors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """The header's own entries and the arrays by name.

    The file is not memory-mapped: a process that reads mapped bytes of a file which was cut meanwhile is killed.

    Raises:
        Exception: the file is missing, torn or no safetensors file; the library raises anything.
    """
    from safetensors.numpy import load

    content = path.read_bytes()
    arrays = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__") or {}), arrays
