"""The committed rounds of a run on disk: one file for each round. The rename of the file IS the commit.

A file is plain safetensors. It holds the vectors ``shared`` and ``extra/<name>``. Its header holds the round, the
standing of the sites, the digest of the experiment, the caller's record (tracker position, history of rounds) and a
CRC-32 of every vector, and beside it a CRC-32 of all that. A CRC is enough, because it guards against a torn write and
not against an adversary. It costs a fifth of the write. A file of an earlier version has no CRC of the header and no
digest; it is read without these two checks.
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
from fedrecon.sites.vector_file import read_vectors
from fedrecon.sites.wire import State, Vector, vector

SCHEMA = "1"
KEEP = 2
_EXTRA = "extra/"


class Checkpoints:
    """The checkpoints in a folder. Only one driver at a time writes there.

    Args:
        folder: folder of the files; it is made when the first round is saved.
        experiment: the digest of the experiment; a file of another experiment is not read. Empty is not compared.
    """

    def __init__(self, folder: Path, experiment: str = "") -> None:
        self.folder, self.experiment = folder, experiment

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
            save_file(vectors, temporary, metadata=_header(state, record, vectors, self.experiment))
        self._prune(state.round)
        return path

    def latest(self, rounds: int | None = None, size: int | None = None) -> tuple[State, dict[str, Any]] | None:
        """The newest committed round that can be read, with its record; None if there is no such round.

        A torn, corrupt or implausible file is skipped with a warning, and the round before it is taken.

        Args:
            rounds: the experiment's number of rounds; a later round is implausible. None allows every round.
            size: the number of shared parameters; another number is implausible. None allows every number.
        """
        for path in reversed(self.paths()):
            try:
                state, record = _read(path, self.experiment)
                _check_plausible(state, path, rounds, size)
                return state, record
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


def _header(state: State, record: Mapping[str, Any], vectors: Mapping[str, Vector], experiment: str) -> dict[str, str]:
    content = {
        "round": state.round,
        "standing": dict(state.standing),
        "extra": list(state.extra),
        "experiment": experiment,
        "record": dict(record),
        "crc32": {name: _crc(value) for name, value in vectors.items()},
    }
    text = json.dumps(content)
    return {"schema": SCHEMA, "fedrecon": text, "crc32": str(zlib.crc32(text.encode()))}


def _read(path: Path, experiment: str) -> tuple[State, dict[str, Any]]:
    header, arrays = read_vectors(path)
    if header.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {header.get('schema')!r}, this version reads {SCHEMA!r}")
    text = header["fedrecon"]
    if header.get("crc32", str(zlib.crc32(text.encode()))) != str(zlib.crc32(text.encode())):
        raise ValueError("the checksum of its header is wrong")
    content = json.loads(text)
    vectors = {name: vector(arrays[name]) for name in content["crc32"]}
    for name, value in vectors.items():
        if _crc(value) != content["crc32"][name]:
            raise ValueError(f"the checksum of '{name}' is wrong")
    if found := first_not_finite(vectors):
        raise ValueError(f"it holds {found}")
    written = content.get("experiment", "")
    if experiment and written and written != experiment:
        raise ValueError(f"it is of experiment {written}, not of {experiment}")
    extra = {name: vectors[_EXTRA + name] for name in content["extra"]}
    return State(content["round"], vectors["shared"], extra, content["standing"]), content["record"]


def _check_plausible(state: State, path: Path, rounds: int | None, size: int | None) -> None:
    """Refuses what no run commits.

    Raises:
        ValueError: the round is not that of the file's name or not one of the experiment, a site stands at a later
            round, or the shared vector has another length.
    """
    number = state.round
    named = path.name.removeprefix("round-").removesuffix(".safetensors")
    if type(number) is not int or number < 0 or f"{number:06d}" != named:
        raise ValueError(f"its round is {number!r}, by its name it is {named}")
    if rounds is not None and number > rounds:
        raise ValueError(f"its round is {number}, the experiment has {rounds}")
    for site, stands in state.standing.items():
        if type(stands) is not int or not 0 <= stands <= number:
            raise ValueError(f"site '{site}' stands at round {stands!r}, the state is of round {number}")
    if size is not None and len(state.shared) != size:
        raise ValueError(f"it holds {len(state.shared)} shared parameters, the network has {size}")


def _crc(value: Vector) -> int:
    return zlib.crc32(value.view(np.uint8).data) if value.size else 0
