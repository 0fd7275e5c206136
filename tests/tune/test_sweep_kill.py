"""The driver of a sweep dies, is interrupted, and goes on: what was finished stays, the rest comes to the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import environment_of_a_driver, local_cluster

from fedrecon.platform.runs.run import run
from fedrecon.tune.search.config import Sweep
from fedrecon.tune.sweep.run import sweep
from fedrecon.tune.trials.planner import Planner

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("no_pixels")]

PATIENCE = 150.0
SEEDS = [0, 1]
ROUNDS = 10
TRIALS = [(strategy, seed) for strategy in ("fedavg", "local") for seed in SEEDS]


def start(file: Path, workspace: Path, out: Path, *overrides: str) -> subprocess.Popen[bytes]:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from fedrecon.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "sweep", str(file), *overrides, "--workspace", str(workspace), "--json"]
    with out.open("wb") as stdout, out.with_suffix(".log").open("wb") as stderr:
        return subprocess.Popen(
            command, stdout=stdout, stderr=stderr, start_new_session=True, env=environment_of_a_driver()
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def finished(workspace: Path) -> int:
    return sum(1 for _ in workspace.glob("runs/*/result.json"))


def under_way(workspace: Path) -> bool:
    """Whether a trial that is not finished has committed a round."""
    folders = [path for path in workspace.glob("runs/*") if not (path / "result.json").exists()]
    return any(path.name > "round-000000" for one in folders for path in one.glob("checkpoints/round-*"))


def test_a_sweep_that_is_killed_and_interrupted_comes_to_the_same_table(
    consortium: dict[str, Path], tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spaces = {name: tmp_path / name for name in ("stormy", "calm")}
    for place in spaces.values():
        place.mkdir()
        shutil.copy(mlflow_template / "mlflow.db", place / "mlflow.db")
    given: dict[str, Any] = {
        "name": "storm",
        "experiment": {
            "sites": {name: str(consortium[name]) for name in ("north", "middle")},
            "operator": {"mask": "random", "acceleration": 3},
            "network": {"name": "unet", "channels": 2, "pools": 1},
            "training": {"rounds": ROUNDS, "batch_size": 2},
            "evaluation": {"every": 5, "panels": False},
        },
        "search": {"strategy.name": {"grid": ["fedavg", "local"]}, "seed": {"grid": SEEDS}},
        "metric": "mean/psnr",
        "mode": "max",
        "concurrency": 1,
    }
    file, stormy = tmp_path / "storm.yaml", spaces["stormy"]
    file.write_text(yaml.safe_dump(given))

    first = start(file, stormy, tmp_path / "first.json")
    wait_for(lambda: finished(stormy) >= 1 and under_way(stormy), first, tmp_path / "first.log")
    first.kill()
    first.wait()
    assert finished(stormy) < len(TRIALS)

    second, log = start(file, stormy, tmp_path / "second.json"), tmp_path / "second.log"
    # a trial that ends in this driver's time, for the first one's workers live on for a moment
    wait_for(lambda: "trial " in log.read_text() and under_way(stormy), second, log)
    os.killpg(second.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
    code = second.wait(PATIENCE)
    if finished(stormy) < len(TRIALS):
        assert code == 130, log.read_text()
        assert "the same command goes on" in log.read_text()
        assert json.loads((tmp_path / "second.json").read_text())["status"] == "interrupted"

    with local_cluster(num_cpus=2):
        result = sweep(file=file, workspace=stormy).as_dict()
    assert result["status"] == "finished"

    chosen, base = Sweep.read(file)
    for trial, row in zip(Planner.of(chosen, base).trials(), result["trials"], strict=True):
        alone = run(trial.experiment, workspace=spaces["calm"], in_process=True)
        assert (row["status"], row["digest"], row["params"]) == ("FINISHED", alone.digest, trial.params)
        assert row["metrics"]["test/mean/psnr"] == alone.mean["psnr"]
        assert row["metrics"]["mean/psnr"] == alone.validation["mean/psnr"]

    from fedrecon.platform.storage.tracking.store import run_store

    client = run_store(None, stormy).client  # type: ignore[attr-defined]
    found = list(client.search_runs([one.experiment_id for one in client.search_experiments()]))
    digests = Counter(one.data.tags["fedrecon.digest"] for one in found)
    assert digests == {**{row["digest"]: 1 for row in result["trials"]}, "sweep-storm": 1}
    assert {one.info.status for one in found} == {"FINISHED"}
    for one in found:
        steps = [point.step for point in client.get_metric_history(one.info.run_id, "train/mean/loss")]
        assert steps in ([], list(range(1, ROUNDS + 1)))
