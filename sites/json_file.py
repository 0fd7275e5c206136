"""Reads the JSON files that fedrecon writes for itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedrecon.sites.errors import RunError, cause_of


def read_json(path: Path, kind: type = dict, needs: Iterable[str] = ()) -> Any:
    """The content of a JSON file; None if there is no file.

    Args:
        kind: the type that the content must have.
        needs: keys that it must have.

    Raises:
        RunError: the file is cut or damaged, or holds another type. The message names the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5000 digits, a nesting of thousands
        raise RunError(f"{path} is cut or damaged: {cause_of(error)}; remove it, or run again with --rerun") from None
    if found is None:
        return None
    if not isinstance(found, kind):
        raise RunError(f"{path} is damaged: {kind.__name__} is needed, not {type(found).__name__}; remove it")
    if isinstance(found, dict) and (missing := [key for key in needs if key not in found]):
        raise RunError(f"{path} is damaged: {', '.join(missing)} is missing; remove it, or run again with --rerun")
    return found
