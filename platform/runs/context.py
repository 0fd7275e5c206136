"""Where and for whom an experiment runs, and its run in the tracker."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fedrecon.platform.storage.locks import exclusive_lock
from fedrecon.platform.storage.workspace import RunFolder

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.federation.progress import Progress
    from fedrecon.platform.storage.tracking.tracker import Store, Tracker


TRACKING_EXPERIMENT = "fedrecon"


@dataclass(frozen=True)
class RunContext:
    """Where and for whom an experiment runs: nothing of it changes a result.

    Attributes:
        workspace, address, tracking_uri, rerun, tags: see :func:`run`.
        crew: ``actors``, ``in-process``, or ``auto``: in process where one device holds all sites anyway.
        store: of the tracker; None opens the one at ``tracking_uri``.
        progress: whom to tell; None tells the terminal.
        name: of the run in the tracker; None says what it is.
        bundles: for whom the placement group of the Tune trial that this process is holds a bundle each, after its own.
    """

    workspace: Path
    executor: str = "actors"
    address: str | None = None
    tracking_uri: str | None = None
    rerun: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    store: Store | None = None
    progress: Callable[[int, int], Progress] | None = None
    name: str | None = None
    bundle_members: Sequence[str] = ()


def open_run(experiment: Experiment, folder: RunFolder, training_digest: str | None, context: RunContext) -> Tracker:
    """The experiment's run in the tracker, found by its digest or made."""
    from fedrecon.platform.storage.tracking.store import run_store
    from fedrecon.platform.storage.tracking.tracker import RunRecord

    tags = {
        "fedrecon.training_digest": training_digest or "none",
        "fedrecon.strategy": experiment.strategy["name"] if experiment.trains else experiment.reconstructor["name"],
        **({"mlflow.source.git.commit": commit} if (commit := _git_commit()) else {}),
        **({"fedrecon.moved_data": "true"} if experiment.trains and experiment.method.moves_data else {}),
        **context.tags,
    }
    store = context.store or run_store(context.tracking_uri, folder.workspace)
    name = context.name or _run_name(experiment)
    record = RunRecord(TRACKING_EXPERIMENT, name, folder.digest, experiment.flat(), tags)
    return store.open(record, context.rerun)


def _run_name(experiment: Experiment) -> str:
    """What tells runs apart in a list of them."""
    what = f"{experiment.strategy['name']} {experiment.network['name']}" if experiment.trains else ""
    measured = experiment.operator_at("").label()
    parts = (experiment.name, what or experiment.reconstructor["name"], measured, f"seed {experiment.seed}")
    return " · ".join(parts)


def locked(folder: RunFolder) -> AbstractContextManager[None]:
    """One driver for each digest and workspace at a time."""
    busy = f"the same experiment (digest {folder.digest}) is running in {folder.workspace}"
    return exclusive_lock(folder.lock, busy)


@cache
def _git_commit() -> str:
    """The commit of the working directory, or nothing outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
