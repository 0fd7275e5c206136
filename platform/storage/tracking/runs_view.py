"""The saved view on which MLflow's page of runs opens: its columns, and its charts with the scores first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedrecon.platform.storage.tracking.entities import stored_key

VIEW = "fedrecon-runs"
"""The key under which the view is saved with the MLflow experiment."""

_SCORES = ("validation/mean/psnr", "validation/mean/ssim", "test/mean/psnr", "test/mean/ssim")
_CHARTS = ("validation/mean/psnr", "validation/mean/ssim", "test/mean/psnr", "test/mean/ssim", "train/mean/loss")
_PARAMS = (
    "strategy.name",
    "network.name",
    "network.channels",
    "reconstructor.name",
    "operator.mask",
    "operator.acceleration",
    "training.rounds",
    "seed",
)


def runs_view(pictures: Sequence[str] = ()) -> dict[str, Any]:
    """The view of all runs, newest first: scores, what tells the runs apart, and the pictures below the scores.

    Args:
        pictures: the keys of the pictures that the newest run logs.
    """
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
        **charts(_CHARTS, pictures),
    }


def charts(scores: Sequence[str], pictures: Sequence[str] = ()) -> dict[str, Any]:
    """The charts of a saved view. The scores come first; MLflow adds charts of the other metrics below them.

    A test score is a bar chart, because it has one value per run. A validation score is a line over rounds.

    Args:
        scores: the MLflow keys of the scores, in the order of the charts.
        pictures: the keys of pictures. Each has one wide tile, with the runs side by side and without their parameters.
    """
    section = {"uuid": "fedrecon-scores", "name": "scores", "display": True, "isReordered": True}
    below = {**section, "uuid": "fedrecon-pictures", "name": "pictures", "columns": 1, "cardHeight": 320}
    charts = []
    for key in dict.fromkeys(scores):
        own: dict[str, Any] = (
            {"type": "BAR"} if key.startswith("test/") else {"type": "LINE", "selectedMetricKeys": [key]}
        )
        section_of = {"uuid": f"fedrecon-{key}", "metricSectionId": section["uuid"]}
        charts.append({**own, **section_of, "metricKey": key, "deleted": False, "isGenerated": True})
    for key in map(stored_key, pictures):
        shown = {"type": "IMAGE", "imageKeys": [key], "step": 0, "showRunParams": False}
        section_of = {"uuid": f"fedrecon-{key}", "metricSectionId": below["uuid"]}
        charts.append({**shown, **section_of, "deleted": False, "isGenerated": True})
    sections = [section, below] if pictures else [section]
    return {"compareRunCharts": charts, "compareRunSections": sections, "isAccordionReordered": True}
