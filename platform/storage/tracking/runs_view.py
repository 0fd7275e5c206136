"""The saved view on which MLflow's page of runs opens: its columns, and its charts with the scores first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

VIEW = "fedrecon-runs"
"""The key under which the view is saved with the MLflow experiment."""

_SCORES = ("validation/mean/psnr", "validation/mean/ssim", "test/mean/psnr", "test/mean/ssim")
_CHARTS = ("validation/mean/psnr", "validation/mean/ssim", "test/mean/psnr", "test/mean/ssim", "train/mean/loss")
_PARAMS = ("strategy.name", "network.name", "reconstructor.name", "operator.mask", "operator.acceleration", "seed")


def runs_view() -> dict[str, Any]:
    """The view of all runs, newest first: scores, strategy, network, operator and seed."""
    columns = [*(f"metrics.`{key}`" for key in _SCORES), *(f"params.`{key}`" for key in _PARAMS)]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "lifecycleFilter": "Active",
        "startTime": "ALL",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Created`", *columns],
        **charts(_CHARTS),
    }


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
