"""A site's private memory on its own disk: one file per round. The file of the committed round is valid."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from fedrecon.sites import atomic
from fedrecon.sites.errors import RunError
from fedrecon.sites.wire import Vector


class Memory:
    """Private vectors by name, written atomically after each fit.

    A site writes the memory of round r before it replies. A fit starts from a committed round, so a fit deletes older
    files: it keeps that round and the one before it. Scores are computed before the commit, so scoring deletes
    nothing. A restart loads exactly the committed round.

    Args:
        folder: folder of the files; None keeps the memory in the process only.
        source: folder in which another run of the same training keeps its files; a round that is missing in ``folder``
            is copied from there.
    """

    def __init__(self, folder: str | Path | None, source: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.source = None if source is None else Path(source)
        self.round = 0
        self.values: dict[str, Vector] = {}

    def load(self, number: int) -> None:
        """Loads the memory of round ``number``, from disk if the process holds another round. Round 0 is empty.

        Raises:
            RunError: there is no file of that round.
        """
        if number == self.round:
            return
        self.round, self.values = number, {}
        if number == 0:
            return
        path = self._path(number)
        if path is not None and not path.is_file() and self.source is not None:
            self._copy(self.source / path.name, path)
        if path is None or not path.is_file():
            raise RunError(f"the private memory of round {number} is lost: {path} does not exist")
        self.values = load_file(path)

    def holds(self, number: int) -> bool:
        """Whether the process or ``folder`` holds the memory of round ``number``; ``source`` does not count.

        Round 0 has no file: only a process that holds round 0 returns True for it.
        """
        path = self._path(number)
        return number == self.round or (path is not None and path.is_file())

    def save(self, number: int, values: Mapping[str, Vector]) -> None:
        """Keeps ``values`` as the memory of round ``number``: in the process, and on disk in that round's file."""
        path = self._path(number)
        if path is not None:
            with atomic.replacing(path) as temporary:
                save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, temporary)
            self._forget(self.round)
        self.round, self.values = number, dict(values)

    def _copy(self, source: Path, target: Path) -> None:
        """Copies another run's file, so that this run does not depend on the other run."""
        if source.is_file():
            with atomic.replacing(target) as temporary:
                shutil.copyfile(source, temporary)

    def _path(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"round-{number:06d}.safetensors"

    def _forget(self, committed: int) -> None:
        """Deletes older files, and temporary files of killed writers.

        It keeps the committed round and the one before it: a run with a torn checkpoint goes back to the latter.
        """
        if self.folder is None:
            return
        older = [path for path in self.folder.glob("round-*.safetensors") if _number(path) < committed]
        kept = max(map(_number, older), default=committed)
        torn = self.folder.glob(".round-*.tmp")
        for path in (*torn, *(path for path in older if _number(path) < kept)):
            path.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("round-").split(".")[0])
