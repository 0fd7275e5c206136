"""The saved view of MLflow's runs page, and its address."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Sequence
from typing import Any

from fedrecon.platform.terminal.mlflow_ui import PORT


def charts(scores: Sequence[str]) -> dict[str, Any]:
    """The scores as the first charts of the page, test scores as bars; MLflow adds the other metrics below them."""
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
    """The page of MLflow that shows a saved view: at the server, or where ``fedrecon ui`` is.

    The view holds the filter too; MLflow ignores a view whose address holds one beside it.
    """
    given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    host = given.rstrip("/") if given.startswith("http") else f"http://127.0.0.1:{PORT}"
    query = urllib.parse.urlencode({"workflowType": "machine_learning", "viewStateShareKey": key})
    return f"{host}/#/experiments/{experiment_id}/runs?{query}"
