"""A study from its description to its report: planned as a matrix, run as a sweep is, resumed, written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites.errors import unknown
from fedrecon.tune.engine.campaign import Rerun
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
) -> StudyResult:
    """Runs a study, or goes on where it was interrupted, or writes its report again if it is finished.

    Args:
        file: a study's YAML file, or its content.
        overrides: ``key=value`` of the study, ``experiment.KEY=value`` of the base experiment.
        workspace: default FEDRECON_WORKSPACE or ./workspace.
        address: of a running Ray cluster; None starts one on this machine.
        tracking_uri: of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: run every trial again, though the workspace holds it; ``"failed"``: those that failed.
        dry_run: plan only.

    Raises:
        InputError: the study, an experiment of it, or its data is wrong; nothing was started.
        RunError: the cluster cannot hold a trial; a failing trial is no error, but a missing cell.

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
    one = StudyCampaign(chosen, base, workspace_folder, address, tracking_uri, rerun, write_outputs)
    return study_result(one, "planned" if not one.go(dry_run) else one.status())


def load_study(name: str, workspace: Path | str | None = None, address: str | None = None) -> StudyResult:
    """A study of a workspace as it stands, running or not.

    Args:
        workspace: default FEDRECON_WORKSPACE or ./workspace.
        address: of a cluster, where its nodes hold shards.

    Raises:
        InputError: no such study; says which there are.

    Example:
        >>> import fedrecon
        >>> fedrecon.load_study("baseline").missing
        []
    """
    root = Path(workspace) if workspace else default_workspace()
    folder = root.resolve() / FOLDER / name
    if not (folder / "study.yaml").is_file():
        raise unknown("study", name, sorted(path.parent.name for path in folder.parent.glob("*/study.yaml")))
    chosen, base = Study.read(folder / "study.yaml")
    one = StudyCampaign(chosen, base, root, address)
    return study_result(one, "running" if one.look() else one.status())


__all__ = ["Study", "StudyResult", "load_study", "study"]
