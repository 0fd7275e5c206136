"""The committed rounds of a run on disk: one file for each round. The rename of the file IS the commit.

A file is plain safetensors. It holds the vectors ``shared`` and ``extra/<name>``. Its header holds the round, the
standing of the sites, the digest of the experiment, the caller's record without its lists, the part of
``history.jsonl`` that holds the lists (:mod:`history`), and a CRC-32 of every vector, and beside it a CRC-32 of all
that. The history is synced before the file is renamed: a checkpoint that can be read is the truth, and what the history
holds beyond its part never happened. A CRC is enough, because it guards against a torn write and not against an
adversary. It costs a fifth of the write. A file of schema 1 has the lists in its header, and the first of them have no
CRC of the header and no digest; they are read without these checks.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.platform.storage.history import History, Part
from fedrecon.sites import atomic
from fedrecon.sites.errors import RunError
from fedrecon.sites.finite import REMEDY, first_not_finite
from fedrecon.sites.vector_file import read_vectors
from fedrecon.sites.wire import State, Vector, vector

SCHEMA = "2"
READ = ("1", SCHEMA)
KEEP = 2
HISTORY = "history.jsonl"
_EXTRA = "extra/"


class Checkpoints:
    """The checkpoints in a folder. Only one driver at a time writes there.

    Args:
        folder: folder of the files; it is made when the first round is saved.
        experiment: the digest of the experiment; a file of another experiment is not read. Empty is not compared.
    """

    def __init__(self, folder: Path, experiment: str = "") -> None:
        self.folder, self.experiment = folder, experiment
        self._history, self._part = History(folder / HISTORY), Part()
        self._spared: set[int] = set()

    def save(self, state: State, record: Mapping[str, Any]) -> Path:
        """Commits ``state`` with the JSON-able ``record``. Keeps this round and the round before it.

        It also keeps the round that the record calls the best, ``record["kept"]["round"]``, and the one that the record
        of the round before called so: a run that cannot read this round goes back to that record.

        A list in the record grows at its end from round to round: only what is new is appended to the history. A file
        of a later round can only be one that a resumed run could not read, so it is deleted too.

        Raises:
            RunError: a vector holds NaN or infinity. DiskFullError: the disk is full.
        """
        from safetensors.numpy import save_file

        vectors = {"shared": state.shared, **{_EXTRA + name: value for name, value in state.extra.items()}}
        vectors = {name: np.ascontiguousarray(vector(value)) for name, value in vectors.items()}
        if found := first_not_finite(vectors):
            raise RunError(f"round {state.round} cannot be committed: its state holds {found}. {REMEDY}")
        path = self._path(state.round)
        self.folder.mkdir(parents=True, exist_ok=True)
        lists = {name: value for name, value in record.items() if isinstance(value, list)}
        part = self._history.extend(self._part, lists)
        content = {
            "round": state.round,
            "standing": dict(state.standing),
            "extra": list(state.extra),
            "experiment": self.experiment,
            "record": {name: value for name, value in record.items() if name not in lists},
            "history": part.as_dict(),
            "crc32": {name: _crc(value) for name, value in vectors.items()},
        }
        text = json.dumps(content)
        header = {"schema": SCHEMA, "fedrecon": text, "crc32": str(zlib.crc32(text.encode()))}
        with atomic.replacing(path) as temporary:
            save_file(vectors, temporary, metadata=header)
        self._part = part
        best = _best(record)
        self._prune(state.round, KEEP, best | self._spared)
        self._spared = best
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
                state, record, part = _read(path, self.experiment, self._history)
                _check_plausible(state, path, rounds, size)
                self._part, self._spared = part, _best(record)
                return state, record
            except Exception as error:  # noqa: BLE001 - a torn header raises anything
                warnings.warn(f"checkpoint {path.name} cannot be read and is skipped: {error}", stacklevel=2)
        return None

    def kept(self, rounds: int | None = None, size: int | None = None) -> tuple[State, dict[str, Any]] | None:
        """The state that the run keeps, with the record of its newest round; None if no round can be read.

        It is the best round of a run with ``training.keep: best``, else the newest one.

        Raises:
            RunError: the best round cannot be read.
        """
        found = self.latest(rounds, size)
        if found is None or not (best := _best(found[1])) or found[0].round in best:
            return found
        path = self._path(*best)
        try:
            state = _read(path, self.experiment, self._history)[0]
            _check_plausible(state, path, rounds, size)
        except Exception as error:  # a torn header raises anything
            text = " ".join(str(error).split())
            raise RunError(f"the best round, {path.name}, cannot be read: {text}. Train again with --rerun.") from error
        return state, found[1]

    def keep_last(self) -> None:
        """Deletes all rounds but the newest and the best, once the newest was read back and is whole."""
        if paths := self.paths():
            try:
                state, record, _ = _read(paths[-1], self.experiment, self._history)
                _check_plausible(state, paths[-1], None, None)
            except Exception as error:  # noqa: BLE001 - a torn header raises anything
                warnings.warn(
                    f"checkpoint {paths[-1].name} is not whole, so the others are kept: {error}", stacklevel=2
                )
                return
            self._prune(int(_named(paths[-1])), 1, _best(record))

    def paths(self) -> list[Path]:
        """The files of the committed rounds, oldest first."""
        return sorted(self.folder.glob("round-*.safetensors"))

    def clear(self) -> None:
        """Deletes every committed round."""
        for path in (*self.paths(), *self.folder.glob(HISTORY)):
            path.unlink()
        self._part = Part()

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:06d}.safetensors"

    def _prune(self, number: int, keep: int, spared: Collection[int]) -> None:
        committed = self._path(number)
        older = [path for path in self.paths() if path.name < committed.name]
        kept = {committed, *map(self._path, spared), *older[len(older) - (keep - 1) :]}
        for path in (*self.paths(), *self.folder.glob(".round-*.tmp"), *self.folder.glob(f".{HISTORY}.*.tmp")):
            if path not in kept:
                path.unlink(missing_ok=True)


def _read(path: Path, experiment: str, history: History) -> tuple[State, dict[str, Any], Part]:
    """The state, the record with its lists, and the part of the history that holds the lists."""
    header, arrays = read_vectors(path)
    if header.get("schema") not in READ:
        raise ValueError(f"its schema is {header.get('schema')!r}, this version reads {', '.join(READ)}")
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
    part = Part(**content.get("history", {}))
    record = {**content["record"], **history.read(part)}
    return State(content["round"], vectors["shared"], extra, content["standing"]), record, part


def _check_plausible(state: State, path: Path, rounds: int | None, size: int | None) -> None:
    """Refuses what no run commits.

    Raises:
        ValueError: the round is not that of the file's name or not one of the experiment, a site stands at a later
            round, or the shared vector has another length.
    """
    number = state.round
    named = _named(path)
    if type(number) is not int or number < 0 or f"{number:06d}" != named:
        raise ValueError(f"its round is {number!r}, by its name it is {named}")
    if rounds is not None and number > rounds:
        raise ValueError(f"its round is {number}, the experiment has {rounds}")
    for site, stands in state.standing.items():
        if type(stands) is not int or not 0 <= stands <= number:
            raise ValueError(f"site '{site}' stands at round {stands!r}, the state is of round {number}")
    if size is not None and len(state.shared) != size:
        raise ValueError(f"it holds {len(state.shared)} shared parameters, the network has {size}")


def _best(record: Mapping[str, Any]) -> set[int]:
    """The number of the best round by the record; empty if the run keeps its last round."""
    return {record["kept"]["round"]} if record.get("kept") else set()


def _named(path: Path) -> str:
    """The round in the name of a file."""
    return path.name.removeprefix("round-").removesuffix(".safetensors")


def _crc(value: Vector) -> int:
    return zlib.crc32(value.view(np.uint8).data) if value.size else 0
