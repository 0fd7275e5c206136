"""Sweeps on Ray, on one node: nothing twice, the same bits as alone, failures, early stopping, Optuna."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import local_cluster
from tiny import EXPLODES

from fedrecon.platform.execution.wire_log import WIRE_LINES, WireLog
from fedrecon.platform.runs.run import run
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.tune.engine.campaign import Campaign
from fedrecon.tune.sweep.run import SweepResult, sweep
from fedrecon.tune.trials.trial_table import TrialTable

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("no_pixels")]

BASE: dict[str, Any] = {
    "name": "tiny",
    "operator": {"mask": "random", "acceleration": 3},
    "network": {"name": "unet", "channels": 2, "pools": 1},
    "training": {"rounds": 2, "batch_size": 2},
    "evaluation": {"every": 1, "panels": False},
}


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    with local_cluster(num_cpus=2):
        yield


@pytest.fixture
def workspace(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "workspace").mkdir()
    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "workspace" / "mlflow.db")
    return tmp_path / "workspace"


@pytest.fixture
def base(consortium: dict[str, Path]) -> dict[str, Any]:
    return {**BASE, "sites": {name: str(consortium[name]) for name in ("north", "middle")}}


def runs(workspace: Path) -> list[Any]:
    from fedrecon.platform.storage.tracking.store import run_store

    client = run_store(None, workspace).client  # type: ignore[attr-defined]
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def science(result: SweepResult) -> list[Any]:
    rows = result.as_dict()["trials"]
    return [(one["params"], one["status"], one["digest"], one["metrics"]) for one in rows]


def test_a_sweep_trains_each_training_once_and_each_trial_is_what_it_is_alone(
    base: dict[str, Any], workspace: Path, tmp_path: Path, mlflow_template: Path, on_ray: None
) -> None:
    run({**base, "strategy": {"name": "fedavg"}}, ["operator.acceleration=4"], workspace=workspace, in_process=True)
    search = {
        "operator.acceleration": {"grid": [3, 4]},
        "strategy.name": {"grid": ["fedavg", "local"]},
        "evaluation.mask_seed": {"grid": [0, 1], "when": {"strategy.name": "local"}},
    }
    given: dict[str, Any] = {"name": "first", "workspace": workspace}
    result = sweep(base, search, **given)

    assert (result.status, [row.status for row in result.trials]) == ("finished", ["FINISHED"] * 6)
    trained = {tuple(row.trial.params.values()): row.trained_rounds for row in result.trials}
    assert sum(trained.values()) == 3 * 2  # of four trainings one was there
    assert trained[4, "fedavg"] == 0
    assert {trained[key] for key in trained if key[2:] == (1,)} == {0}

    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", alone / "mlflow.db")
    for row in result.trials:
        if row.trial.params["operator.acceleration"] == 3:
            expected = run(row.trial.experiment, workspace=alone, in_process=True)
            assert row.metrics["test/mean/psnr"] == expected.mean["psnr"]
            assert row.metrics["mean/psnr"] == expected.validation["mean/psnr"]
            assert row.trial.digest == expected.digest

    recorded = runs(workspace)
    trials = [one for one in recorded if "fedrecon.sweep.first" in one.data.tags and "fedrecon.digest" in one.data.tags]
    trials = [one for one in trials if not one.data.tags["fedrecon.digest"].startswith("sweep-")]
    assert Counter(one.data.tags["fedrecon.digest"] for one in trials) == Counter(r.trial.digest for r in result.trials)
    assert {one.info.status for one in recorded} == {"FINISHED"}
    assert len(recorded) == 7  # and the sweep's own
    by_id = {one.info.run_id: one for one in recorded}
    for row in result.trials:
        found = by_id[str(row.run_id)].data
        assert found.params["operator.acceleration"] == str(float(row.trial.params["operator.acceleration"]))
        assert found.metrics["test/mean/psnr"] == row.metrics["test/mean/psnr"]

    again = sweep(base, search, **given)
    assert science(again) == science(result)
    assert sum(row.trained_rounds for row in again.trials) == 0
    assert len(runs(workspace)) == 7
    for name in ("trials.parquet", "best.yaml", "index.html", "figures/acceleration.png"):
        assert (result.folder / name).is_file(), name
    assert result.best is not None
    top = run(result.folder / "best.yaml", workspace=workspace, in_process=True)
    assert (top.digest, top.trained_rounds) == (result.best.trial.digest, 0)
    json.dumps(result.as_dict())


def test_a_failing_trial_is_tried_again_then_recorded_and_the_rest_goes_on(
    base: dict[str, Any], workspace: Path, on_ray: None
) -> None:
    base["training"] = {**base["training"], **EXPLODES}
    search = {"training.learning_rate": {"grid": [1e-5, 1000.0]}, "evaluation.mask_seed": {"grid": [0, 1]}}
    result = sweep(base, search, name="failing", workspace=workspace, max_failures=1, concurrency=1)
    statuses = {tuple(row.trial.params.values()): row.status for row in result.trials}
    assert statuses == {
        (1e-5, 0): "FINISHED", (1e-5, 1): "FINISHED", (1000.0, 0): "FAILED", (1000.0, 1): "FAILED",
    }  # fmt: skip
    first, second = (row for row in result.trials if row.status == "FAILED")
    assert first.error is not None
    assert "NaN or infinity" in first.error
    assert second.error is not None
    assert f"trial {first.trial.number}" in second.error
    assert result.best is not None
    assert result.best.status == "FINISHED"
    assert {one.info.status for one in runs(workspace)} == {"FINISHED", "FAILED"}
    again = sweep(base, search, name="failing", workspace=workspace, max_failures=1, concurrency=1)
    assert [row.error for row in again.trials] == [row.error for row in result.trials]


def test_trials_that_failed_run_again_when_they_are_asked_to(
    base: dict[str, Any], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a node that was lost more often than is allowed."""
    search = {"training.learning_rate": {"grid": [0.002]}}
    (planned,) = sweep(base, search, name="lost", workspace=workspace, dry_run=True).trials
    trial_table = TrialTable(workspace, "lost")
    trial_table.add(planned.trial)
    trial_table.ended(planned.trial.digest, "FAILED", "its node was lost")
    (row,) = sweep(base, search, name="lost", workspace=workspace).trials
    assert (row.status, row.error) == ("FAILED", "its node was lost")
    (row,) = sweep(base, search, name="lost", workspace=workspace, rerun="failed", dry_run=True).trials
    assert row.status == "FAILED"
    begun: list[Campaign] = []
    monkeypatch.setattr(Campaign, "_run", lambda self, records: begun.append(self))
    (row,) = sweep(base, search, name="lost", workspace=workspace, rerun="failed").trials
    assert (row.status, row.error) == ("WAITING", None)
    assert len(begun) == 1


def test_halving_stops_like_with_like_and_what_finishes_is_what_it_is_alone(
    base: dict[str, Any], workspace: Path, on_ray: None
) -> None:
    long = {**base, "training": {**base["training"], "rounds": 4}}
    search = {
        "operator.acceleration": {"grid": [2, 8]},
        "training.learning_rate": {"grid": [3e-3, 1e-5, 1e-6]},
    }
    scheduler = {"name": "asha", "grace_rounds": 1, "reduction_factor": 2}
    given: dict[str, Any] = {"name": "halving", "workspace": workspace, "scheduler": scheduler, "concurrency": 1}
    result = sweep(long, search, **given)
    for acceleration in (2, 8):
        rows = [row for row in result.trials if row.trial.params["operator.acceleration"] == acceleration]
        assert rows[0].status == "FINISHED"  # the best comes first, so nothing can stop it
        assert "STOPPED" in [row.status for row in rows]
    stopped = [row for row in result.trials if row.status == "STOPPED"]
    assert all(0 < row.round < 4 and "test/mean/psnr" not in row.metrics for row in stopped)
    assert all("stopped by the scheduler" in str(row.error) for row in stopped)
    finished = next(row for row in result.trials if row.status == "FINISHED")
    alone = run(finished.trial.experiment, workspace=workspace / "alone", in_process=True)
    assert finished.metrics["test/mean/psnr"] == alone.mean["psnr"]
    again = sweep(long, search, **given)
    assert science(again) == science(result)
    assert {one.info.status for one in runs(workspace)} == {"FINISHED", "KILLED"}


def test_optuna_suggests_for_two_metrics_and_a_longer_sweep_goes_on(
    base: dict[str, Any], workspace: Path, on_ray: None
) -> None:
    search = {
        "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
        "strategy.name": {"choice": ["fedavg", "fedprox"]},
        "strategy.mu": {"loguniform": [1e-3, 1.0], "when": {"strategy.name": "fedprox"}},
    }
    given: dict[str, Any] = {
        "name": "optuna", "workspace": workspace, "algorithm": "optuna",
        "metric": ["mean/psnr", "mean/nmse"], "mode": ["max", "min"], "concurrency": 1,
    }  # fmt: skip
    short = sweep(base, search, samples=2, **given)
    assert [row.status for row in short.trials] == ["FINISHED"] * 2
    longer = sweep(base, search, samples=3, **given)
    assert [row.status for row in longer.trials] == ["FINISHED"] * 3
    assert science(longer)[:2] == science(short)
    assert len({row.trial.digest for row in longer.trials}) == 3
    for row in longer.trials:
        assert ("strategy.mu" in row.trial.params) == (row.trial.params["strategy.name"] == "fedprox")


def test_site_actors_in_the_trials_placement_group(base: dict[str, Any], workspace: Path, on_ray: None) -> None:
    search = {"strategy.name": {"grid": ["fedavg", "fedprox", "pooled"]}}
    actors = {**base, "resources": {"crew": "actors"}, "allow_pooling": True}
    result = sweep(actors, search, name="actors", workspace=workspace, concurrency=1)
    assert [(row.status, row.error) for row in result.trials] == [("FINISHED", None)] * 3
    described = []
    for row in result.trials:
        folder = RunFolder(workspace, row.trial.digest)
        found = folder.result()
        assert found is not None
        assert found["environment"]["crew"] == "ray actors"
        alone = run(row.trial.experiment, workspace=workspace / "alone", in_process=True)
        assert row.metrics["test/mean/psnr"] == alone.mean["psnr"]
        rows = WireLog(folder.path / WIRE_LINES).rows
        described.append({(one["site"], one["hash"]) for one in rows if one["type"] == "Description"})
    # A description holds the process id: the second trial was served by the processes of the first.
    assert described[0] == described[1]
    assert not described[1] & described[2]
