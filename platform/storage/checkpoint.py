"""The committed rounds of a run on disk: one file for each round. The rename of the file IS the commit.

A file is plain safetensors. It holds the vectors ``shared`` and ``extra/<name>``. Its header holds the round, the
standing of the sites, the caller's record (tracker position, history of rounds) and a CRC-32 of every vector. A CRC is
enough, because it guards against a torn write and not against an adversary. It costs a fifth of the write.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.sites import atomic
from fedrecon.sites.errors import RunError
from fedrecon.sites.finite import REMEDY, first_not_finite
from fedrecon.sites.wire import State, Vector, vector

SCHEMA = "1"
KEEP = 2
_EXTRA = "extra/"


class Checkpoints:
    """The checkpoints in a folder. Only one driver at a time writes there.

    Args:
        folder: folder of the files; it is made when the first round is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State, record: Mapping[str, Any]) -> Path:
        """Commits ``state`` with the JSON-able ``record``. Keeps this round and the round before it.

        A file of a later round can only be one that a resumed run could not read, so it is deleted too.

        Raises:
            RunError: a vector holds NaN or infinity.
        """
        from safetensors.numpy import save_file

        vectors = {"shared": state.shared, **{_EXTRA + name: value for name, value in state.extra.items()}}
        vectors = {name: np.ascontiguousarray(vector(value)) for name, value in vectors.items()}
        if found := first_not_finite(vectors):
            raise RunError(f"round {state.round} cannot be committed: its state holds {found}. {REMEDY}")
        path = self._path(state.round)
        with atomic.replacing(path) as temporary:
            save_file(vectors, temporary, metadata=_header(state, record, vectors))
        self._prune(state.round)
        return path

    def latest(self) -> tuple[State, dict[str, Any]] | None:
        """The newest committed round that can be read, with its record; None if there is no such round.

        A torn or corrupt file is skipped with a warning, and the round before it is taken.
        """
        for path in reversed(self.paths()):
            try:
                return _read(path)
            except Exception as error:  # noqa: BLE001 - a torn header raises anything
                warnings.warn(f"checkpoint {path.name} cannot be read and is skipped: {error}", stacklevel=2)
        return None

    def paths(self) -> list[Path]:
        """The files of the committed rounds, oldest first."""
        return sorted(self.folder.glob("round-*.safetensors"))

    def clear(self) -> None:
        """Deletes every committed round."""
        for path in self.paths():
            path.unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:06d}.safetensors"

    def _prune(self, number: int) -> None:
        committed = self._path(number)
        older = [path for path in self.paths() if path.name < committed.name]
        keep = {committed, *older[len(older) - (KEEP - 1) :]}
        for path in (*self.paths(), *self.folder.glob(".round-*.tmp")):
            if path not in keep:
                path.unlink(missing_ok=True)


def _header(state: State, record: Mapping[str, Any], vectors: Mapping[str, Vector]) -> dict[str, str]:
    content = {
        "round": state.round,
        "standing": dict(state.standing),
        "extra": list(state.extra),
        "record": dict(record),
        "crc32": {name: _crc(value) for name, value in vectors.items()},
    }
    return {"schema": SCHEMA, "fedrecon": json.dumps(content)}


def _read(path: Path) -> tuple[State, dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
        if header.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {header.get('schema')!r}, this version reads {SCHEMA!r}")
        content = json.loads(header["fedrecon"])
        vectors = {name: vector(file.get_tensor(name)) for name in content["crc32"]}
    for name, value in vectors.items():
        if _crc(value) != content["crc32"][name]:
            raise ValueError(f"the checksum of '{name}' is wrong")
    if found := first_not_finite(vectors):
        raise ValueError(f"it holds {found}")
    extra = {name: vectors[_EXTRA + name] for name in content["extra"]}
    return State(content["round"], vectors["shared"], extra, content["standing"]), content["record"]


def _crc(value: Vector) -> int:
    return zlib.crc32(value.view(np.uint8).data) if value.size else 0
