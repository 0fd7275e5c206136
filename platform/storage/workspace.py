"""The folder of a user's runs: mlflow.db, artifacts, and one folder a digest with its checkpoints."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.sites import atomic
from fedrecon.sites.errors import InputError, unknown

if TYPE_CHECKING:
    from fedrecon.platform.storage.checkpoint import Checkpoints


def default_workspace() -> Path:
    """``FEDRECON_WORKSPACE``, or ``./workspace``."""
    return Path(os.environ.get("FEDRECON_WORKSPACE") or "workspace")


def find_run_folder(workspace: Path, reference: str) -> RunFolder:
    """The folder of a finished run: by run id, by digest (its first six characters suffice), or ``latest``.

    Raises:
        InputError: no such run, several, or one that is not finished.
    """
    runs = workspace.resolve() / "runs"
    known = [RunFolder(workspace, path.parent.name) for path in runs.glob("*/run.json")] if runs.is_dir() else []
    if not known:
        raise InputError(f"no run in {workspace}: fedrecon run EXPERIMENT.yaml makes one (--workspace names another)")
    if reference == "latest":
        finished = [folder for folder in known if folder.result() is not None]
        if not finished:
            raise InputError(f"no run in {workspace} is finished yet")
        return max(finished, key=lambda folder: (folder.path / "result.json").stat().st_mtime_ns)
    ids = {(folder.noted() or {}).get("run_id", ""): folder for folder in known}
    fitting = [ids[reference]] if reference in ids else []
    if not fitting and len(reference) >= MIN_PREFIX:
        fitting = [folder for folder in known if folder.digest.startswith(reference) and "." not in folder.digest]
    if not fitting:
        raise unknown("run", reference, [*(folder.digest for folder in known), "latest"])
    if len(fitting) > 1:
        raise InputError(f"'{reference}' fits several runs: {', '.join(folder.digest for folder in fitting)}")
    if fitting[0].result() is None:
        raise InputError(f"run '{reference}' is not finished; the same fedrecon run goes on with it")
    return fitting[0]


MIN_PREFIX = 6


def note_trained(folder: RunFolder, training_digest: str) -> None:
    """Notes that this run's last checkpoint is the end of this training, for runs that differ only in the rest."""
    path = _trained(folder.workspace, training_digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, {"digest": folder.digest})


def find_trained(workspace: Path, training_digest: str) -> RunFolder | None:
    """The folder of a run that went through this training to its end, if there is one."""
    path = _trained(workspace.resolve(), training_digest)
    if not path.is_file():
        return None
    folder = RunFolder(workspace, json.loads(path.read_text(encoding="utf-8"))["digest"])
    return folder if folder.checkpoints.paths() else None


def _trained(workspace: Path, training_digest: str) -> Path:
    return workspace / "trained" / f"{training_digest}.json"


class RunFolder:
    """``WORKSPACE/runs/DIGEST``: checkpoints, private memory of the sites, the experiment and the result."""

    def __init__(self, workspace: Path, digest: str) -> None:
        self.workspace, self.digest = workspace.resolve(), digest
        self.path = self.workspace / "runs" / digest

    @property
    def lock(self) -> Path:
        """Locked by the driver that works here; outside the folder, so that it outlives a set-aside."""
        return self.workspace / "runs" / f".{self.digest}.lock"

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The committed rounds."""
        from fedrecon.platform.storage.checkpoint import Checkpoints

        return Checkpoints(self.path / "checkpoints")

    def memory(self, member: str) -> Path:
        """Where a member keeps its private memory; on a cluster on a file system that its node sees."""
        return self.path / "private" / member

    def result(self) -> dict[str, Any] | None:
        """The result, if the run is finished."""
        return self._read("result.json")

    def save_result(self, result: dict[str, Any]) -> None:
        """Marks the run as finished: the last thing that a run writes."""
        atomic.write_json(self.path / "result.json", result)

    def note_run(self, note: dict[str, Any]) -> None:
        """Notes whose folder this is: run id, experiment, what the network was built for, the subjects' splits."""
        self.path.mkdir(parents=True, exist_ok=True)
        atomic.write_json(self.path / "run.json", note)

    def noted(self) -> dict[str, Any] | None:
        """What :meth:`note_run` noted."""
        return self._read("run.json")

    def environment(self) -> dict[str, Any] | None:
        """Where the run began."""
        return self._read("environment.json")

    def save_environment(self, environment: dict[str, Any]) -> None:
        """Notes where the run began."""
        atomic.write_json(self.path / "environment.json", environment)

    def published(self) -> list[str]:
        """The members whose private parts are among the run's artifacts."""
        noted = self._read("published.json")
        return list(noted["members"]) if noted else []

    def note_published(self, members: list[str]) -> None:
        """Notes whose private parts are among the run's artifacts."""
        atomic.write_json(self.path / "published.json", {"members": sorted(set(members))})

    def set_aside(self) -> None:
        """Keeps what is here under another name, so that a rerun starts from nothing and nothing is lost."""
        if self.path.exists():
            number = sum(1 for _ in self.path.parent.glob(f"{self.digest}.before-*")) + 1
            self.path.rename(self.path.with_name(f"{self.digest}.before-{number}"))
        for path in self.workspace.glob("trained/*.json"):
            if json.loads(path.read_text(encoding="utf-8"))["digest"] == self.digest:
                path.unlink()

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
