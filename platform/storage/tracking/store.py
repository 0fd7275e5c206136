"""Opens the store of runs that a tracking URI names."""

from __future__ import annotations

from pathlib import Path

from fedrecon.platform.storage.tracking.mlflow_store import MlflowStore
from fedrecon.platform.storage.tracking.tracker import RunStore


def run_store(uri: str | None, workspace: Path) -> RunStore:
    """The MLflow store at ``uri``, made if it is a file that is not there yet.

    Args:
        uri: None takes the variable MLFLOW_TRACKING_URI, and without it ``mlflow.db`` in ``workspace``.
        workspace: the folder of this user's runs.
    """
    return MlflowStore(uri, workspace)
