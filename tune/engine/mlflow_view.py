"""A saved view of MLflow's page of runs, and the address of the page."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Sequence
from typing import Any

from fedrecon.platform.terminal.mlflow_ui import PORT


def charts(scores: Sequence[str]) -> dict[str, Any]:
    """The charts of a saved view. The scores come first; MLflow adds charts of the other metrics below them.

    A test score is a bar chart, because it has one value per run. A validation score is a line over rounds.

    Args:
        scores: the MLflow keys of the scores, in the order of the charts.
    """
    section = {"uuid": "fedrecon-scores", "name": "scores", "display": True, "isReordered": True}
    charts = []
    for key in dict.fromkeys(scores):
        own: dict[str, Any] = (
            {"type": "BAR"} if key.startswith("test/") else {"type": "LINE", "selectedMetricKeys": [key]}
        )
        section_of = {"uuid": f"fedrecon-{key}", "metricSectionId": section["uuid"]}
        charts.append({**own, **section_of, "metricKey": key, "deleted": False, "isGenerated": True})
    return {"compareRunCharts": charts, "compareRunSections": [section], "isAccordionReordered": True}


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
