"""The folder of a user's runs: mlflow.db, artifacts, and one folder a digest with its checkpoints."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform import atomic

if TYPE_CHECKING:
    from fedrecon.platform.checkpoint import Checkpoints
    from fedrecon.platform.experiment import Experiment


def default_workspace() -> Path:
    """``FEDRECON_WORKSPACE``, or ``./workspace``."""
    return Path(os.environ.get("FEDRECON_WORKSPACE") or "workspace")


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
        from fedrecon.platform.checkpoint import Checkpoints

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

    def note_run(self, run_id: str, experiment: Experiment) -> None:
        """Notes whose folder this is."""
        self.path.mkdir(parents=True, exist_ok=True)
        atomic.write_json(self.path / "run.json", {"run_id": run_id, "experiment": experiment.as_dict()})

    def noted(self) -> dict[str, Any] | None:
        """``run_id`` and ``experiment``, as noted."""
        return self._read("run.json")

    def environment(self) -> dict[str, Any] | None:
        """Where the run began."""
        return self._read("environment.json")

    def save_environment(self, environment: dict[str, Any]) -> None:
        """Notes where the run began."""
        atomic.write_json(self.path / "environment.json", environment)

    def set_aside(self) -> None:
        """Keeps what is here under another name, so that a rerun starts from nothing and nothing is lost."""
        if self.path.exists():
            number = sum(1 for _ in self.path.parent.glob(f"{self.digest}.before-*")) + 1
            self.path.rename(self.path.with_name(f"{self.digest}.before-{number}"))

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
