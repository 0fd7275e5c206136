"""Opens the store of runs that a tracking URI names."""

from __future__ import annotations

from pathlib import Path

from fedrecon.platform.storage.tracking.mlflow_store import MlflowStore
from fedrecon.platform.storage.tracking.tracker import RunStore
from fedrecon.sites.phases import phase


def run_store(uri: str | None, workspace: Path) -> RunStore:
    """The MLflow store at ``uri``. An SQLite file that does not exist is made.

    Args:
        uri: tracking URI. None takes the environment variable MLFLOW_TRACKING_URI, and if that is not set,
            ``mlflow.db`` in ``workspace``.
        workspace: folder of this user's runs.
    """
    with phase("opening MLflow"):
        return MlflowStore(uri, workspace)
