"""The workspace, a user's folder of runs: mlflow.db, artifacts, and one folder for each digest with its checkpoints."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.storage import checked_json
from fedrecon.platform.storage.journal import Journal
from fedrecon.platform.storage.locks import waited_lock
from fedrecon.sites import atomic
from fedrecon.sites.errors import RunError

if TYPE_CHECKING:
    from fedrecon.platform.storage.checkpoint import Checkpoints


def default_workspace() -> Path:
    """``FEDRECON_WORKSPACE``, or ``./workspace``."""
    return Path(os.environ.get("FEDRECON_WORKSPACE") or "workspace")


def owner_of(workspace: Path) -> str:
    """The name under which the workspace owns its runs in MLflow. A copy of a workspace gets a name of its own.

    The number of the folder on its disk tells a copy from a folder that was renamed.
    """
    path = workspace / "owner.json"
    with waited_lock(workspace / ".owner.lock", seconds=60):
        number = workspace.stat().st_ino
        known = checked_json.read(path, "Delete it: the workspace then gets a new name.", needs=("owner",)) or {}
        if known.get("folder") != number:
            known = {"owner": uuid.uuid4().hex, "folder": number}
            checked_json.write(path, known)
    return str(known["owner"])


MIN_PREFIX = 6
"""The smallest number of characters of a digest in a reference."""


_FINISHED = "finished"
"""The file of a run that says when its result was saved."""

_TICK_NS = 1_000
"""Difference of two times of files in ns: file systems keep no finer one everywhere."""


def note_trained(folder: RunFolder, training_digest: str) -> None:
    """Notes that this run has finished this training. Runs with the same training can take its last checkpoint."""
    path = _trained(folder.workspace, training_digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    checked_json.write(path, {"digest": folder.digest})


def find_trained(workspace: Path, training_digest: str) -> RunFolder | None:
    """The folder of a run that has finished this training; None if there is no such run, or no checkpoint of it.

    Raises:
        RunError: the note of the training is damaged.
    """
    digest = _trained_by(_trained(workspace.resolve(), training_digest))
    folder = None if digest is None else RunFolder(workspace, digest)
    return folder if folder is not None and folder.checkpoints.paths() else None


def forget_trained(folder: RunFolder) -> None:
    """Deletes the note that this run has finished a training; also if it is damaged: nobody could use it.

    The run's own note names its training. Without that note all notes of trainings are read.
    """
    try:
        noted = folder.noted()
    except RunError:
        noted = None
    own = None if noted is None else noted.get("training_digest")
    for path in folder.workspace.glob("trained/*.json") if own is None else [_trained(folder.workspace, own)]:
        try:
            stale = _trained_by(path) == folder.digest
        except RunError:
            stale = True
        if stale:
            path.unlink()


def _trained_by(note: Path) -> str | None:
    found = checked_json.read(note, "Delete it: the training is then done again.", needs=("digest",))
    return None if found is None else str(found["digest"])


def _trained(workspace: Path, training_digest: str) -> Path:
    return workspace / "trained" / f"{training_digest}.json"


class RunFolder:
    """``WORKSPACE/runs/DIGEST``: the checkpoints, the private memory of the sites, the experiment and the result."""

    def __init__(self, workspace: Path, digest: str) -> None:
        self.workspace, self.digest = workspace.resolve(), digest
        self.path = self.workspace / "runs" / digest
        self._owner = digest.split(".before-")[0]

    @property
    def lock(self) -> Path:
        """The lock file of the driver that works on this run. It is outside the folder which a rerun renames."""
        return self.workspace / "runs" / f".{self.digest}.lock"

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The committed rounds."""
        from fedrecon.platform.storage.checkpoint import Checkpoints

        return Checkpoints(self.path / "checkpoints", self._owner)

    def journal(self, notify: Callable[[Path], None] | None = None) -> Journal:
        """The journal of the run, which ``notify`` has sent to MLflow; see :class:`Journal`."""
        return Journal(self.path / "record", notify)

    def memory(self, member: str) -> Path:
        """The folder for the private memory of a member; on a cluster, on a file system that the member's node sees."""
        return self.path / "private" / member

    def result(self) -> dict[str, Any] | None:
        """The result; None if the run is not finished."""
        needs = ("run_id", "digest", "status", "rounds", "bytes_up", "bytes_down", "sites", "mean")
        return self._with_run_id(self._read("result.json", *needs))

    def save_result(self, result: dict[str, Any]) -> None:
        """Writes the result, which marks the run as finished. A run writes it last.

        The time that is noted beside it is later than that of every other result in the workspace, though the clock may
        have gone back: ``latest`` is the run that finished last.
        """
        now = max(time.time_ns(), self._newest() + _TICK_NS)
        atomic.write_text(self.path / _FINISHED, f"{now}\n")
        self._write("result.json", result)
        self._mark.touch()
        os.utime(self._mark, ns=(now, now))

    def finished_at(self) -> int:
        """When the result was saved, in ns: a copy of the folder keeps it. Older versions left only the file's time."""
        with suppress(OSError, ValueError):
            return int((self.path / _FINISHED).read_text())
        return (self.path / "result.json").stat().st_mtime_ns

    @property
    def _mark(self) -> Path:
        """A file as old as the newest result of the workspace: nobody has to look at all of them for it."""
        return self.workspace / "runs" / ".newest"

    def _newest(self) -> int:
        """The time of the newest other result in ns; of all, where an earlier version left no mark."""
        with suppress(FileNotFoundError):
            return self._mark.stat().st_mtime_ns
        newest = 0
        for other in self.workspace.glob("runs/*/result.json"):
            with suppress(FileNotFoundError):  # a run that is being deleted
                folder = RunFolder(self.workspace, other.parent.name)
                newest = max(newest, folder.finished_at() if other.parent != self.path else 0)
        return newest

    def note_run(self, note: dict[str, Any]) -> None:
        """Notes the run: run id, experiment, training digest, image properties of the network, splits of subjects.

        The experiment holds the text of its plug-in files. People also get them as files, under ``plugins/``.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for one in note.get("experiment", {}).get("plugins", ()):
            for name, text in one["sources"].items():
                atomic.write_text(self.path / "plugins" / Path(one["file"]).stem / name, text)
        self._write("run.json", note)

    def noted(self) -> dict[str, Any] | None:
        """The note of :meth:`note_run`; None if there is no note."""
        return self._with_run_id(self._read("run.json", "run_id", "experiment", "images", "subjects"))

    def environment(self) -> dict[str, Any] | None:
        """The hardware and software with which the run began; None before it began."""
        return self._read("environment.json", "members")

    def save_environment(self, environment: dict[str, Any]) -> None:
        """Notes the hardware and software with which the run began."""
        self._write("environment.json", environment)

    def published(self) -> list[str]:
        """The names of the members whose private parts are among the run's artifacts."""
        noted = self._read("published.json", "members")
        return list(noted["members"]) if noted else []

    def note_published(self, members: list[str]) -> None:
        """Notes the members whose private parts are among the run's artifacts."""
        self._write("published.json", {"members": sorted(set(members))})

    def set_aside(self) -> None:
        """Renames the folder, so that a rerun starts from nothing and no file is lost."""
        forget_trained(self)
        if self.path.exists():
            aside = (self.path.with_name(f"{self.digest}.before-{number}") for number in itertools.count(1))
            self.path.rename(next(path for path in aside if not path.exists()))

    def _with_run_id(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """The content with the run's id in the store that got it last. A new store gives a new id."""
        return None if found is None else {**found, "run_id": self.journal().run_id or found.get("run_id", "")}

    def _read(self, name: str, *needs: str) -> dict[str, Any] | None:
        return checked_json.read(self.path / name, "Run the experiment again with --rerun.", self._owner, needs)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        checked_json.write(self.path / name, content, self._owner)
