"""A site's private memory on its own disk: one file per round. The file of the committed round is valid.

A file is plain safetensors. Its header holds the format, the experiment (the digest of its training: runs that take
over a training share it), the member, the round and one XXH3 checksum (128 bits) of these and of all vectors. A file
of format 2 names no experiment and is read without that comparison; one of format 1 has no checksum and is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import xxhash
from safetensors.numpy import save_file

from fedrecon.sites import atomic
from fedrecon.sites.errors import RunError
from fedrecon.sites.finite import REMEDY, first_not_finite
from fedrecon.sites.vector_file import read_vectors
from fedrecon.sites.wire import Vector

FORMAT = "3"
"""The version of the file format. Version 1 had no header, version 2 named no experiment."""

READABLE = ("2", FORMAT)


class Memory:
    """Private vectors by name, written atomically after each fit.

    A site writes the memory of round r before it replies. A fit starts from a committed round, so a fit deletes older
    files: it keeps that round and the one before it. Scores are computed before the commit, so scoring deletes
    nothing. A restart loads exactly the committed round.

    Args:
        folder: folder of the files; None keeps the memory in the process only.
        source: folder in which another run of the same training keeps its files; a round that is missing in ``folder``
            is copied from there.
        experiment: the digest of the training to which the memory belongs; that of another one is refused. Empty is not
            compared.
    """

    def __init__(self, folder: str | Path | None, source: str | Path | None = None, experiment: str = "") -> None:
        self.experiment = experiment
        self.folder = None if folder is None else Path(folder)
        self.source = None if source is None else Path(source)
        self.round = 0
        self.values: dict[str, Vector] = {}
        self._spared: set[int] = set()

    def load(self, number: int) -> None:
        """Loads the memory of round ``number``, from disk if the process holds another round. Round 0 is empty.

        A damaged file is an error: the memory of another round would give another result.

        Raises:
            RunError: there is no file of that round, or it is damaged, of another experiment, member or round, or not
                finite.
        """
        if number == self.round:
            return
        if number == 0:
            self.round, self.values = 0, {}
            return
        path = self._path(number)
        if path is not None and not path.is_file() and self.source is not None:
            self._copy(self.source / path.name, path)
        if path is None or not path.is_file():
            raise RunError(f"the private memory of round {number} is lost: {path} does not exist")
        self.values = _read(path, number, self.experiment)
        self.round = number

    def holds(self, number: int) -> bool:
        """Whether the process or ``folder`` holds the memory of round ``number``; ``source`` does not count.

        Round 0 has no file: only a process that holds round 0 returns True for it.
        """
        path = self._path(number)
        return number == self.round or (path is not None and path.is_file())

    def save(self, number: int, values: Mapping[str, Vector], kept: int | None = None) -> None:
        """Keeps ``values`` as the memory of round ``number``: in the process, and on disk in that round's file.

        The file of round ``kept`` is not deleted now, nor at the next call: a torn checkpoint leads back by one round.

        Raises:
            RunError: a value is NaN or infinite. Nothing is kept then.
        """
        if found := first_not_finite(values):
            raise RunError(f"the private memory of round {number} would hold {found}; refused. {REMEDY}")
        path = self._path(number)
        if path is not None:
            whole = {name: np.ascontiguousarray(value) for name, value in values.items()}
            owner = {"experiment": self.experiment, "member": path.parent.name, "round": str(number)}
            header = {"format": FORMAT, **owner}
            with atomic.replacing(path) as temporary:
                save_file(whole, temporary, metadata={**header, "xxh3": _checksum(header, whole)})
            self._forget(self.round, number, {kept} | self._spared)
            self._spared = {kept} if kept is not None else set()
        self.round, self.values = number, dict(values)

    def _copy(self, source: Path, target: Path) -> None:
        """Copies another run's file, so that this run does not depend on the other run."""
        if source.is_file():
            with atomic.replacing(target) as temporary:
                shutil.copyfile(source, temporary)

    def _path(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"round-{number:06d}.safetensors"

    def _forget(self, committed: int, saved: int, spared: Collection[int | None]) -> None:
        """Deletes older files, files between the two rounds, and temporary files of killed writers.

        The files of the rounds ``spared`` stay.

        It keeps the committed round and the one before it: a run with a torn checkpoint goes back to the latter. A file
        between the committed and the saved round is of a round that went on without this site.
        """
        if self.folder is None:
            return
        older = [path for path in self.folder.glob("round-*.safetensors") if _number(path) < committed]
        kept = max(map(_number, older), default=committed)
        torn = self.folder.glob(".round-*.tmp")
        left_out = (path for path in self.folder.glob("round-*.safetensors") if 0 < committed < _number(path) < saved)
        for path in (*torn, *left_out, *(path for path in older if _number(path) < kept)):
            if _is_temporary(path) or _number(path) not in spared:
                path.unlink(missing_ok=True)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".")


def _read(path: Path, number: int, experiment: str) -> dict[str, Vector]:
    """The vectors of a file.

    Raises:
        RunError: the file is not a whole one of this experiment, member and round.
    """
    try:
        header, values = read_vectors(path)
    except Exception as error:  # a torn header raises anything
        raise _refused(path, number, f"it cannot be read: {error}") from error
    written = header.pop("xxh3", None)
    if header.get("format") not in READABLE or written is None:
        given = header.get("format", "1, without a checksum")
        raise _refused(path, number, f"its format is {given}; this version reads {' and '.join(READABLE)}")
    if written != _checksum(header, values):
        raise _refused(path, number, "its checksum is wrong")
    if (header.get("member"), header.get("round")) != (path.parent.name, str(number)):
        raise _refused(path, number, f"it is of '{header.get('member')}', round {header.get('round')}")
    if experiment and (of := header.get("experiment")) and of != experiment:
        raise _refused(path, number, f"it is of the training {of}, not of {experiment}")
    if found := first_not_finite(values):
        raise _refused(path, number, f"it holds {found}")
    return values


def _refused(path: Path, number: int, why: str) -> RunError:
    text = " ".join(why.split())
    return RunError(f"the private memory of round {number} is refused: {text} ({path}). Train again with --rerun.")


def _checksum(header: Mapping[str, str], values: Mapping[str, Vector]) -> str:
    total = xxhash.xxh3_128(repr(sorted(header.items())).encode())
    for name, value in sorted(values.items()):
        total.update(repr((name, value.dtype.str, value.shape)).encode())
        total.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _number(path: Path) -> int:
    return int(path.name.removeprefix("round-").split(".")[0])
