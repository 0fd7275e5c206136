"""A site's private memory on its own disk: one file a round, of which the committed round is the one that counts."""

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

    A site writes the memory of round r before it replies. What a fit starts from is committed, so then all but that
    round and the one before it goes; scores are taken before the commit, so scoring forgets nothing. A restart loads
    exactly the committed round.

    Args:
        folder: where it is kept; None keeps it in the process alone.
        source: where another run of the same training keeps its own, for the rounds that are not in ``folder``.
    """

    def __init__(self, folder: str | Path | None, source: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.source = None if source is None else Path(source)
        self.round = 0
        self.values: dict[str, Vector] = {}

    def load(self, number: int) -> None:
        """Takes the memory of round ``number``, from disk if the process holds another one.

        Raises:
            RunError: the memory of that round is lost.
        """
        if number == self.round:
            return
        self.round, self.values = number, {}
        if number == 0:
            return
        path = self._path(number)
        if path is not None and not path.is_file() and self.source is not None:
            self._take(self.source / path.name, path)
        if path is None or not path.is_file():
            raise RunError(f"the private memory of round {number} is lost: {path} does not exist")
        self.values = load_file(path)

    def holds(self, number: int) -> bool:
        """Whether :meth:`load` will find the memory of round ``number``; of round 0 there is none to be found."""
        path = self._path(number)
        return number == self.round or (path is not None and path.is_file())

    def save(self, number: int, values: Mapping[str, Vector]) -> None:
        """Keeps ``values`` as the memory of round ``number``: in the process, and on disk under its own name."""
        path = self._path(number)
        if path is not None:
            with atomic.replacing(path) as temporary:
                save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, temporary)
            self._forget(self.round)
        self.round, self.values = number, dict(values)

    def _take(self, theirs: Path, own: Path) -> None:
        """Copies what another run keeps, so that this one stands alone."""
        if theirs.is_file():
            with atomic.replacing(own) as temporary:
                shutil.copyfile(theirs, temporary)

    def _path(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"round-{number:06d}.safetensors"

    def _forget(self, committed: int) -> None:
        """Keeps the committed round and one before it, which a torn checkpoint would fall back to."""
        if self.folder is None:
            return
        older = [path for path in self.folder.glob("round-*.safetensors") if _number(path) < committed]
        kept = max(map(_number, older), default=committed)
        torn = self.folder.glob(".round-*.tmp")
        for path in (*torn, *(path for path in older if _number(path) < kept)):
            path.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("round-").split(".")[0])
