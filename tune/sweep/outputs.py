"""The outputs of a sweep: table, best experiment, figures and page, in its folder and in one MLflow run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedrecon.platform.config.yaml_text import write_yaml
from fedrecon.platform.federation.mlflow_metrics import mlflow_key
from fedrecon.platform.storage.journal import RunRecord
from fedrecon.platform.storage.tracking.runs_view import charts
from fedrecon.platform.storage.tracking.tracker import SUMMARIES
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import atomic
from fedrecon.tune.engine.records import CampaignRecords
from fedrecon.tune.search.config import Sweep
from fedrecon.tune.sweep.table import arrow
from fedrecon.tune.trials.settings import Setting, best_setting, comparable, lost_sites
from fedrecon.tune.trials.trial_table import TrialTable


def conclude(
    sweep: Sweep,
    trial_table: TrialTable,
    records: CampaignRecords,
    tags: Callable[[int], Mapping[str, str]],
) -> str | None:
    """Writes all outputs of a sweep.

    Args:
        records: the journals of the trials and of the sweep.
        tags: a function that gives the MLflow tags of a trial's run from the trial's number.

    Returns:
        the address of the MLflow page that shows the sweep's runs; None if MLflow has not got them.
    """
    records.verdicts("sweep", tags, _scores(sweep))
    files = _files(sweep, trial_table)
    record = RunRecord(SUMMARIES, sweep.name, f"sweep-{sweep.name}", _params(sweep), {"fedrecon.sweep": sweep.name})
    key = f"fedrecon-{sweep.name}"
    experiment = records.view(key, view(sweep))
    best = best_setting(trial_table.rows, sweep.metrics[0], sweep.modes[0])
    keys = [key for key in (best.rows[0].metrics if best else {}) if "site/" not in key]
    means = {key: best.over_seeds(key)[0] for key in keys} if best else {}
    values = {f"best/{name}": mean for name, mean in means.items() if mean is not None}
    records.conclude(record, values, files)
    return records.address(experiment, key)


def view(sweep: Sweep) -> dict[str, Any]:
    """The view of a sweep on MLflow's page of runs: its runs, with the searched keys and the scores.

    They are sorted by the last validation score. MLflow has no validation score of a kept round (``training.keep``)
    apart from it, and a score of test subjects must not say which trial is best.
    """
    shown = [mlflow_key(key) for key in _scores(sweep)]
    searched = dict.fromkeys(leaf for key, block in sweep.search.items() for leaf in _leaves(key, block))
    columns = [f"params.`{key}`" for key in searched] + [f"metrics.`{key}`" for key in shown]
    return {
        "searchFilter": f"tags.`fedrecon.sweep.{sweep.name}` LIKE '%'",
        "orderByKey": f"metrics.`{mlflow_key(sweep.metrics[0])}`",
        "orderByAsc": sweep.modes[0] == "min",
        "lifecycleFilter": "Active",
        "startTime": "ALL",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Created`", *columns],
        **charts([*map(mlflow_key, [*sweep.metrics, "mean/psnr", "mean/ssim", "mean/nmse"]), *shown]),
    }


def _scores(sweep: Sweep) -> list[str]:
    """The metrics that the view shows."""
    tested = [f"test/{one}" for one in sweep.metrics]
    return list(dict.fromkeys([*sweep.metrics, *tested, "test/mean/psnr", "test/mean/ssim"]))


def _leaves(key: str, block: Mapping[str, Any]) -> list[str]:
    """The MLflow parameter names of a searched key. If its values are blocks, these are the names of their entries."""
    listed = [value for values in block.values() if isinstance(values, list) for value in values]
    own = [f"{key}.{name}" for value in listed if isinstance(value, Mapping) for name in value]
    plain = [f"{key}.name" if key == "reconstructor" else key for value in listed if not isinstance(value, Mapping)]
    return own + (plain if listed else [key])


def curves(trial_table: TrialTable, metric: str) -> dict[int, list[tuple[int, float]]]:
    """The validation score after each committed round.

    Returns:
        for each trial number a list of (round, value of ``metric``); empty if the trial has no checkpoint.
    """
    found = {}
    for row in trial_table.rows:
        kept = (
            RunFolder(trial_table.workspace, row.trial.digest).checkpoints.latest() if row.round or row.run_id else None
        )
        points = [(one["round"], one["metrics"]) for one in kept[1].get("curve", ())] if kept else []
        found[row.trial.number] = [(number, values[metric]) for number, values in points if metric in values]
    return found


def _files(sweep: Sweep, trial_table: TrialTable) -> list[tuple[Path, str]]:
    """Writes the files of the sweep's folder. Returns each path with its folder among the MLflow artifacts."""
    import pyarrow.parquet as pq

    from fedrecon.platform.reporting.html import page
    from fedrecon.tune.sweep.figures import draw
    from fedrecon.tune.sweep.page import document

    rows, keys = comparable(trial_table.rows), list(sweep.search)
    folder, table = trial_table.folder, arrow(rows, keys)
    with atomic.replacing(folder / "trials.parquet") as temporary:
        pq.write_table(table, temporary)
    written = [(folder / "trials.parquet", "")]
    best = best_setting(rows, sweep.metrics[0], sweep.modes[0])
    if best is None:
        (folder / "best.yaml").unlink(missing_ok=True)
    else:
        atomic.write_text(folder / "best.yaml", _best_experiment(sweep, best))
        written.append((folder / "best.yaml", ""))
    known = curves(trial_table, sweep.metrics[0])
    drawn = {row.trial.number: known.get(row.trial.number, []) for row in rows if not lost_sites(row)}
    figures = draw(table, sweep.metrics, sweep.modes, drawn)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    (folder / "figures").mkdir()
    for one in figures:
        for suffix, content in (("png", one.png), ("svg", one.svg)):
            path = folder / "figures" / f"{one.name}.{suffix}"
            atomic.write_bytes(path, content)
            written.append((path, "figures"))
    against = dict.fromkeys(row.trial.experiment.evaluation.against for row in rows)
    facts = {**_params(sweep), "scores": ", ".join(against)}
    html = page(document(sweep.name, rows, keys, sweep.metrics, sweep.modes, figures, facts))
    atomic.write_text(folder / "index.html", html)
    return [*written, (folder / "index.html", "")]


def _best_experiment(sweep: Sweep, best: Setting) -> str:
    """The experiment of the best setting as YAML, with the seed of its first trial."""
    content = {**best.rows[0].trial.experiment.as_dict(), "name": f"{sweep.name}-best"}
    content["resources"] = {**content["resources"], "crew": "actors"}
    numbers = ", ".join(str(row.trial.number) for row in best.rows)
    mean, deviation = best.over_seeds(sweep.metrics[0])
    spread = "" if deviation is None else f" ± {deviation:.4g}"
    head = f"# The best setting of the sweep '{sweep.name}': {sweep.metrics[0]} {mean:.5g}{spread}, trials {numbers}\n"
    return head + write_yaml(content)


def _params(sweep: Sweep) -> dict[str, str]:
    """The parameters of the sweep's own run in MLflow."""
    shown = {
        "metric": ", ".join(f"{metric} ({mode})" for metric, mode in zip(sweep.metrics, sweep.modes, strict=True)),
        "algorithm": sweep.algorithm,
        "samples": str(sweep.samples),
        "scheduler": "none" if sweep.scheduler is None else sweep.scheduler.name,
    }
    return shown | {f"search.{key}": str(block) for key, block in sweep.search.items()}
