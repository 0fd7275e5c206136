"""The driver dies: the same command again comes to the same bits, in one run of the tracker."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusters import environment_of_a_driver
from drivers import MOMENTS, PRIOR_MOMENTS, ROUNDS, drive, drive_on_ray, experiment
from ray_executors import title, wait_for
from tiny import STYLE

from fedrecon.platform.runs.results import ALREADY
from fedrecon.platform.runs.run import run
from fedrecon.sites.errors import RunError

pytestmark = pytest.mark.kill

LOADED = [
    "alembic.command",
    "pyarrow.parquet",
    "mlflow.store.tracking.sqlalchemy_store",
    "fedrecon.platform.runs.training_run",
    "fedrecon.platform.storage.tracking.mlflow_store",
    "fedrecon.sites.member.site",
]
"""What a driver imports for seconds; a round of the tiny experiment takes a tenth of one."""


class Drivers:
    """Starts drivers in processes that were forked where all this is loaded already."""

    def __init__(self, folder: Path) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(LOADED)
        self.out = folder / "result.json"

    def __call__(self, given: dict[str, Any], workspace: Path, moment: str = "", **options: Any) -> Any:
        """The result, or the exit code of a driver that died."""
        self.out.unlink(missing_ok=True)
        options = {"in_process": True, **options}
        process = self.context.Process(target=drive, args=(given, workspace, self.out, moment), kwargs=options)
        process.start()
        process.join(200)
        code = process.exitcode
        process.close()
        return json.loads(self.out.read_text()) if code == 0 else code


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Drivers:
    return Drivers(tmp_path_factory.mktemp("drivers"))


def two(consortium: dict[str, Path]) -> dict[str, Path]:
    """The sites of these drivers: what one does to a third is no other than what it does to the second."""
    return {name: consortium[name] for name in ("north", "middle")}


def prepared(workspace: Path, template: Path) -> Path:
    """A workspace with an empty store, for the tests that are not about making one."""
    workspace.mkdir()
    shutil.copy(template / "mlflow.db", workspace / "mlflow.db")
    return workspace


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a workspace's store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from fedrecon.platform.storage.tracking.store import run_store

    return lambda workspace: run_store(None, workspace).client  # type: ignore[attr-defined]


def runs(client: Any) -> list[Any]:
    found = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(found, order_by=["attributes.start_time ASC"]))


def artifacts(client: Any, run_id: str) -> dict[str, bytes]:
    """All vectors that a run leaves, by path."""
    root = Path(client.download_artifacts(run_id, ""))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.safetensors"))}


def science(result: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on who was interrupted."""
    return {key: result[key] for key in ("digest", "status", "rounds", "bytes_up", "bytes_down", "sites", "mean")}


def rounds_of(client: Any, run_id: str) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(client.download_artifacts(run_id, "rounds.parquet")).to_pylist())


def assert_recorded_once(client: Any, run_id: str, digest: str) -> None:
    """One run of that digest, finished, every metric once a step, every round in the table."""
    current = [one for one in runs(client) if "fedrecon.superseded_by" not in one.data.tags]
    assert [one.info.run_id for one in current] == [run_id]
    assert current[0].data.tags["fedrecon.digest"] == digest
    assert {one.info.status for one in runs(client)} == {"FINISHED"}
    for key in current[0].data.metrics:
        steps = [point.step for point in client.get_metric_history(run_id, key)]
        assert len(steps) == len(set(steps)), key
    steps = [point.step for point in client.get_metric_history(run_id, "train/mean/loss")]
    assert sorted(steps) == list(range(1, ROUNDS + 1))
    table = rounds_of(client, run_id)
    assert [row["round"] for row in table] == list(range(1, ROUNDS + 1))


def test_a_driver_that_dies_at_every_moment(
    consortium: dict[str, Path], tmp_path: Path, mlflow_template: Path, drivers: Drivers, client: Any
) -> None:
    given = experiment(two(consortium), "fedavg", optimizer_state="keep")
    calm, stormy = prepared(tmp_path / "calm", mlflow_template), tmp_path / "stormy"
    expected = drivers(given, calm)
    assert (expected["resumed_from"], expected["trained_rounds"]) == (0, ROUNDS)

    committed = {}
    for moment in MOMENTS:
        code = drivers(given, stormy, moment)
        assert code == (1 if moment.startswith("interrupted") else -signal.SIGKILL), moment
        committed[moment] = [path.stem for path in stormy.glob("runs/*/checkpoints/*")]
        if moment.startswith("interrupted"):
            assert [one.info.status for one in runs(client(stormy))] == ["KILLED"]
    assert "round-000001" in committed["committed 1"]
    assert "round-000002" not in committed["before commit 2"]
    assert "round-000004" not in committed["fit 4"]
    assert "round-000004" in committed["final evaluation"]

    result = drivers(given, stormy)
    assert science(result) == science(expected)
    assert (result["resumed_from"], result["trained_rounds"]) == (ROUNDS, 0)
    vectors = artifacts(client(calm), expected["run_id"])
    assert "weights.safetensors" in vectors
    assert artifacts(client(stormy), result["run_id"]) == vectors
    assert_recorded_once(client(stormy), result["run_id"], result["digest"])

    again = drivers(given, stormy)
    assert again == {**result, "resumed_from": ROUNDS, "trained_rounds": 0, "began": ALREADY}

    rerun = drivers(given, stormy, rerun=True)
    assert science(rerun) == science(expected)
    assert (rerun["resumed_from"], rerun["trained_rounds"]) == (0, ROUNDS)
    assert rerun["run_id"] != result["run_id"]
    assert_recorded_once(client(stormy), rerun["run_id"], rerun["digest"])
    older = client(stormy).get_run(result["run_id"])
    assert older.data.tags["fedrecon.superseded_by"] == rerun["run_id"]


def test_a_prior_that_dies_in_either_stage(
    consortium: dict[str, Path], tmp_path: Path, mlflow_template: Path, drivers: Drivers, client: Any
) -> None:
    """What was adapted before the driver died is not adapted again."""
    given = {
        **experiment(two(consortium), "fedgimp"),
        "strategy": {"name": "fedgimp", "adaptation": {"steps": 2, "batch": 1}, "moving_average": 0.5},
        "network": STYLE,
    }
    calm, stormy = (prepared(tmp_path / name, mlflow_template) for name in ("calm", "stormy"))
    expected = drivers(given, calm)
    parts = []
    for moment in PRIOR_MOMENTS:
        assert drivers(given, stormy, moment) == -signal.SIGKILL, moment
        parts.append({path.name: path.stat().st_mtime_ns for path in stormy.glob("runs/*/parts/*")})
    counts = [[sum(name.startswith(split) for name in one) for split in ("validation", "test")] for one in parts]
    assert counts == [[0, 0], [1, 0], [2, 1], [2, 2]]
    for earlier, later in pairwise(parts):
        assert earlier.items() <= later.items()  # neither asked nor written again
    result = drivers(given, stormy)
    assert science(result) == science(expected)
    assert (result["resumed_from"], result["trained_rounds"]) == (ROUNDS, 0)
    assert artifacts(client(stormy), result["run_id"]) == artifacts(client(calm), expected["run_id"])
    assert_recorded_once(client(stormy), result["run_id"], result["digest"])
    assert not list(stormy.glob("runs/*/parts"))


class OnRay:
    """A driver on Ray in a process group of its own."""

    def __init__(self, drivers: Drivers, given: dict[str, Any], workspace: Path, out: Path) -> None:
        here = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**environment_of_a_driver(), "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
        self.log = out.with_suffix(".log")
        arguments = given, workspace, out, environment, self.log
        self.process = drivers.context.Process(target=drive_on_ray, args=arguments)
        self.process.start()
        self.workspace, self.family, self.sites = workspace, dict[int, str](), list[int]()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def ended(self) -> int:
        """The exit code."""
        self.process.join(150)
        assert self.process.exitcode is not None
        return self.process.exitcode

    def wait_for_a_fit_after(self, number: int) -> None:
        """Waits until round ``number`` is committed and a site trains the next one."""

        def committed() -> bool:
            assert self.process.exitcode is None, self.log.read_text()
            return any(self.workspace.glob(f"runs/*/checkpoints/round-{number:06d}.safetensors"))

        def fits() -> bool:
            assert self.process.exitcode is None, self.log.read_text()
            return any("SiteActor.fit" in title(pid) for pid in self.sites)

        def sites_are_there() -> bool:
            assert self.process.exitcode is None, self.log.read_text()
            self.family = {one.pid: title(one.pid) for one in psutil.Process(self.pid).children(recursive=True)}
            self.sites = [pid for pid, name in self.family.items() if "SiteActor" in name]
            return bool(self.sites)

        wait_for(committed, f"round {number}: {self.log}", every=0.05)
        wait_for(sites_are_there, f"a site of this driver: {self.log}", every=0.05)  # an earlier one may have committed
        assert any("raylet" in name for name in self.family.values())
        wait_for(fits, f"a fit after round {number}: {self.log}", every=0.01)

    def left(self) -> dict[int, str]:
        """What still runs of those that this driver started.

        After a kill -9 Ray's two agents are not waited for: they end once the control store has been silent for 60 s.
        """
        killed = self.process.exitcode == -signal.SIGKILL
        agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent") if killed else ()
        return {pid: name for pid, name in self.family.items() if _lives(pid) and not title(pid).startswith(agents)}


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def on_ray() -> Iterator[list[OnRay]]:
    started: list[OnRay] = []
    yield started
    for one in started:
        if one.process.exitcode is None:
            one.process.kill()
        one.process.join()


@pytest.mark.ray
def test_a_driver_on_ray_that_is_interrupted_and_killed(
    consortium: dict[str, Path],
    tmp_path: Path,
    mlflow_template: Path,
    drivers: Drivers,
    client: Any,
    on_ray: list[OnRay],
) -> None:
    given = {**experiment({"middle": consortium["middle"]}, "local", local_epochs=40), "publish_private": "all"}
    calm, stormy = (prepared(tmp_path / name, mlflow_template) for name in ("calm", "stormy"))
    expected = drivers(given, calm)

    def start() -> OnRay:
        on_ray.append(OnRay(drivers, given, stormy, tmp_path / f"result-{len(on_ray)}.json"))
        return on_ray[-1]

    first = start()
    first.wait_for_a_fit_after(1)
    with pytest.raises(RunError, match=f"the same experiment .digest {expected['digest']}. is running"):
        run(given, workspace=stormy, in_process=True)
    os.killpg(first.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
    assert first.ended() != 0
    wait_for(lambda: not first.left(), f"the end of {first.left()}", every=0.05)
    assert [one.info.status for one in runs(client(stormy))] == ["KILLED"]

    second = start()
    second.wait_for_a_fit_after(2)
    second.process.kill()
    assert second.ended() == -signal.SIGKILL
    wait_for(lambda: not second.left(), f"the end of {second.left()}", every=0.05)

    result = drivers(given, stormy)  # begun on Ray, ended without
    assert science(result) == science(expected)
    assert result["resumed_from"] >= 2
    assert result["trained_rounds"] == ROUNDS - result["resumed_from"]
    vectors = artifacts(client(calm), expected["run_id"])
    assert "private/middle.safetensors" in vectors
    assert artifacts(client(stormy), result["run_id"]) == vectors
    assert_recorded_once(client(stormy), result["run_id"], result["digest"])
