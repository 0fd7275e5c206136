"""A study from its description to its report: plan its matrix, run it like a sweep, resume it, write the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.tune.engine.campaign import Rerun, saved_file
from fedrecon.tune.study.campaign import FOLDER, StudyCampaign
from fedrecon.tune.study.config import Study
from fedrecon.tune.study.outputs import write_outputs
from fedrecon.tune.study.results import StudyResult, study_result


def study(
    file: Any,
    overrides: Sequence[str] = (),
    *,
    workspace: Path | str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    rerun: Rerun = False,
    dry_run: bool = False,
    keep_checkpoints: bool = False,
) -> StudyResult:
    """Runs a study, resumes an interrupted one, or writes the report of a finished one again.

    Args:
        file: the YAML file of a study, or its content.
        overrides: ``key=value`` changes the study, ``experiment.KEY=value`` changes the base experiment.
        workspace: the workspace folder; None takes FEDRECON_WORKSPACE or ./workspace.
        address: the address of a running Ray cluster; None starts one on this machine.
        tracking_uri: the address of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: True runs every trial again, even if it has a result; ``"failed"`` runs only the failed trials again.
        dry_run: True plans the study and starts nothing.
        keep_checkpoints: keep two checkpoints of each run that has ended, not one.

    Raises:
        InputError: the study, one of its experiments, or its data is wrong; nothing was started.
        RunError: the cluster cannot hold a trial. A failed trial raises no error: its cells are missing.

    Example:
        >>> import fedrecon
        >>> base = {"sites": "data/demo"}
        >>> methods = {"zero-filled": {"reconstructor": "zero_filled"}}
        >>> plan = {"name": "baseline", "experiment": base, "methods": methods}
        >>> result = fedrecon.study(plan)
        >>> result.status, len(result.cells)
        ('finished', 4)
    """
    chosen, base = Study.read(file, overrides)
    workspace_folder = Path(workspace) if workspace else default_workspace()
    one = StudyCampaign(chosen, base, workspace_folder, address, tracking_uri, rerun, write_outputs, keep_checkpoints)
    return study_result(one, "planned" if not one.go(dry_run) else one.status())


def load_study(name: str, workspace: Path | str | None = None, address: str | None = None) -> StudyResult:
    """Reads the current state of a study in a workspace. The study may be running.

    Args:
        name: the name of the study.
        workspace: the workspace folder; None takes FEDRECON_WORKSPACE or ./workspace.
        address: the address of a Ray cluster; needed if shards lie on its nodes.

    Raises:
        InputError: the workspace has no study of this name; the message lists its studies.

    Example:
        >>> import fedrecon
        >>> fedrecon.load_study("baseline").missing
        []
    """
    file = saved_file(workspace, FOLDER, "study", name)
    one = StudyCampaign(*Study.read(file), file.parents[2], address)
    return study_result(one, "running" if one.look() else one.status())


__all__ = ["Study", "StudyResult", "load_study", "study"]
