"""One experiment from its description to its result: ``fedrecon.run``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.replaced import read_patched
from fedrecon.platform.execution.placement import check_here
from fedrecon.platform.federation.recorder import CommittedRound
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.results import Result
from fedrecon.platform.runs.training_run import train_steps
from fedrecon.platform.runs.transfer_run import transfer_steps
from fedrecon.platform.runs.warm_start import with_digest
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
    keep_checkpoints: bool = False,
) -> Result:
    """Runs one experiment, or goes on where it was interrupted, or returns its result if it is finished.

    Args:
        experiment: an experiment, its mapping, or the path of its YAML file.
        overrides: changes to the experiment, each as ``key.path=value``.
        workspace: the folder of mlflow.db, artifacts and checkpoints; None takes FEDRECON_WORKSPACE or ./workspace.
        in_process: run all sites in this process, without Ray; the result has the same bits.
        address: address of a running Ray cluster; None starts one on this machine.
        tracking_uri: address of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: run again, even if a finished run exists; the older run is kept under another name.
        tags: tags of the run in MLflow (the sweep or study to which the run belongs).
        keep_checkpoints: keep the last two checkpoints of the run when it has ended; else only the last one is kept.

    Raises:
        InputError: the experiment, its data or its resources are wrong; nothing was started.
        RunError: the run failed; the same call goes on from the last committed round.

    Example:
        >>> import fedrecon
        >>> result = fedrecon.run("experiments/quickstart.yaml", ["training.rounds=1"], in_process=True)
        >>> sorted(result.sites)
        ['flair', 'pdw', 't1w', 't2w']
        >>> result.mean["psnr"] > 10  # dB
        True
    """
    chosen = read_patched(experiment, overrides)
    check_here(chosen.resources, in_process, address)
    workspace_folder = Path(workspace) if workspace else default_workspace()
    executor = "in-process" if in_process else chosen.resources.crew
    committed_rounds = steps(
        chosen,
        RunContext(
            workspace_folder, executor, address, tracking_uri, rerun, tags or {}, keep_checkpoints=keep_checkpoints
        ),
    )
    while True:
        try:
            next(committed_rounds)
        except StopIteration as end:
            result: Result = end.value
            return result


def steps(chosen: Experiment, context: RunContext) -> Generator[CommittedRound, None, Result]:
    """Does the same as :func:`run`, but pauses after every committed round. A closed run can be resumed later.

    Yields:
        first the rounds that an earlier call committed, then the rounds that this call trains.

    Returns:
        the result.
    """
    chosen = with_digest(chosen, context.workspace)
    if chosen.test is not None:
        return (yield from transfer_steps(chosen, context))
    return (yield from train_steps(chosen, context))
