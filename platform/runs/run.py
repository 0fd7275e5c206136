"""One experiment from its description to its result: ``fedrecon.run``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.federation.recorder import CommittedRound
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.results import Result
from fedrecon.platform.runs.training_run import train_steps
from fedrecon.platform.runs.transfer_run import transfer_steps
from fedrecon.platform.storage.workspace import default_workspace

__all__ = ["Result", "run"]


def run(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    workspace: Path | str | None = None,
    in_process: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    rerun: bool = False,
    tags: Mapping[str, str] | None = None,
) -> Result:
    """Runs one experiment, or goes on where it was interrupted, or returns its result if it is finished.

    Args:
        experiment: an experiment, its mapping, or the path of its YAML file.
        overrides: ``key.path=value``.
        workspace: holds mlflow.db, artifacts and checkpoints; default FEDRECON_WORKSPACE or ./workspace.
        in_process: all sites in this process, without Ray; the same bits.
        address: of a running Ray cluster; None starts one on this machine.
        tracking_uri: of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: run again though there is a finished run; the older one is kept aside.
        tags: for MLflow (the sweep or study it belongs to).

    Raises:
        InputError: the experiment, its data or its resources are wrong; nothing was started.
        RunError: the run failed; the same call goes on from the last committed round.
    """
    chosen = Experiment.read(experiment, overrides)
    workspace_folder = Path(workspace) if workspace else default_workspace()
    executor = "in-process" if in_process else chosen.resources.crew
    course = steps(
        chosen,
        RunContext(workspace_folder, executor, address, tracking_uri, rerun, tags or {}),
    )
    while True:
        try:
            next(course)
        except StopIteration as end:
            result: Result = end.value
            return result


def steps(chosen: Experiment, context: RunContext) -> Generator[CommittedRound, None, Result]:
    """:func:`run`, standing still after every committed round; a closed generator leaves the run resumable.

    Yields:
        first the rounds that were committed before, then those that this call trains.

    Returns:
        the result.
    """
    if chosen.test is not None:
        return (yield from transfer_steps(chosen, context))
    return (yield from train_steps(chosen, context))
