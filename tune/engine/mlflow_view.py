"""The address of the MLflow page with a saved view of runs."""

from __future__ import annotations

import os
import urllib.parse

from fedrecon.platform.terminal.mlflow_ui import PORT


def address(experiment_id: str, key: str, tracking_uri: str | None = None) -> str:
    """The address of the MLflow page that shows a saved view.

    The filter is in the view. The address has none, because MLflow ignores a view whose address has a filter.

    Args:
        experiment_id: the id of the MLflow experiment. key: the key under which the view is saved.
        tracking_uri: the address of an MLflow server; None takes MLFLOW_TRACKING_URI. If it is no HTTP address, the
            page is on the server of ``fedrecon ui``.
    """
    given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    host = given.rstrip("/") if given.startswith("http") else f"http://127.0.0.1:{PORT}"
    query = urllib.parse.urlencode({"workflowType": "machine_learning", "viewStateShareKey": key})
    return f"{host}/#/experiments/{experiment_id}/runs?{query}"
