"""The run context of an experiment, and its run in the tracker."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fedrecon.platform.federation.attendance import in_words, may_return, missed_by
from fedrecon.platform.storage.locks import exclusive_lock
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import debris

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.federation.progress import Progress
    from fedrecon.platform.storage.tracking.tracker import Store, Tracker


TRACKING_EXPERIMENT = "fedrecon"


@dataclass(frozen=True)
class RunContext:
    """Where an experiment runs, and where its progress and record go. No field changes a result.

    Attributes:
        workspace, address, tracking_uri, rerun, tags: see :func:`fedrecon.platform.runs.run.run`.
        executor: ``actors``, ``in-process`` or ``auto``. ``auto`` stays in this process if one device holds all sites
            anyway.
        store: the tracker's store; None opens the store at ``tracking_uri``.
        progress: makes the progress display from the number of rounds and the number of committed rounds; None makes
            :class:`Progress`, which writes to stderr.
        name: name of the run in the tracker; None makes a name from the experiment.
        bundle_members: members that have a bundle in the placement group of this Tune trial, in the order of the
            bundles. The first bundle of the group belongs to the trial itself. Empty outside of a trial.
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
    """Opens the experiment's run in the tracker. The run is found by its digest, or made if there is none."""
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


def fresh_or_kept(experiment: Experiment, folder: RunFolder, context: RunContext) -> RunContext:
    """The context in which the run begins: a rerun, if the run in the folder may not be gone on with.

    That is a run that missed replies of sites, where this experiment's ``resources`` ask for all of them. It is set
    aside, as for a rerun, and nothing of it is lost.
    """
    if not context.rerun and not may_return(experiment.resources, folder):
        missed = in_words(missed_by(folder)[1])
        warnings.warn(
            f"run {folder.digest} missed replies ({missed}), which resources.min_sites and resources.straggler of this "
            "experiment do not allow. It is set aside, and the experiment runs anew",
            RuntimeWarning,
            stacklevel=2,
        )
        context = replace(context, rerun=True)
    if context.rerun:
        folder.set_aside()
    return context


def _run_name(experiment: Experiment) -> str:
    """A name that tells runs apart in a list: experiment, method, operator and seed."""
    what = f"{experiment.strategy['name']} {experiment.network['name']}" if experiment.trains else ""
    measured = experiment.operator_at("").label()
    parts = (experiment.name, what or experiment.reconstructor["name"], measured, f"seed {experiment.seed}")
    return " · ".join(parts)


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Locks the run folder: only one driver at a time works on a digest in a workspace.

    What a killed driver or site left in the folder, and in the workspace itself, is swept first.

    Raises:
        RunError: another driver holds the lock.
    """
    busy = f"the same experiment (digest {folder.digest}) is running in {folder.workspace}"
    with exclusive_lock(folder.lock, busy):
        debris.sweep(folder.path, deep=True)
        for place in (folder.workspace, folder.workspace / "trained"):
            debris.sweep(place)
        yield


@cache
def _git_commit() -> str:
    """The git commit of the working directory; an empty string outside of a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
