"""Several nodes: each site on the node that carries its name."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusters import HERE, end_local_cluster, ray_warnings, started_here
from examples import extended, write_examples
from ray_executors import ray_executor, wait_for
from tiny import NETWORKS, Federation

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.resources import Resources
from fedrecon.platform.execution.ray_executor import RayExecutor
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError, RunError
from fedrecon.strategies.fedavg import FedAvg

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory, consortium: dict[str, Path]) -> Path:
    """The folder that north's node takes for :data:`HERE`; north's shard is in it."""
    folder = tmp_path_factory.mktemp("north")
    (folder / "north.h5").symlink_to(consortium["north"])
    return folder


@pytest.fixture(scope="module")
def nodes(north: Path) -> Iterator[dict[str, str]]:
    """Node ids: a head that could hold everybody, one node labelled north, one with the resource site:south."""
    end_local_cluster()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with ray_warnings(), started_here():
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
        try:
            with contextlib.chdir(north):
                labelled = cluster.add_node(num_cpus=1, num_gpus=1, labels={"site": "north"})
            south = cluster.add_node(num_cpus=1, resources={"site:south": 1})
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            cluster.wait_for_nodes()
            yield {"north": labelled.node_id, "south": south.node_id, "head": cluster.head_node.node_id}
        finally:
            ray.shutdown()
            cluster.shutdown()


def test_each_site_runs_on_its_own_node(nodes: dict[str, str], consortium: dict[str, Path], tmp_path: Path) -> None:
    fed = Federation(FedAvg(), consortium, tmp_path)
    here, record = fed.train(), None
    with ray_executor(fed, cpus_per_site=1) as executor:
        found = executor.describe()
        there = fed.train(executor, record)
    assert found["north"].node == nodes["north"]
    assert found["south"].node == nodes["south"]
    assert found["middle"].node == nodes["head"]
    assert found["north"].gpus == ("0",)
    assert found["south"].gpus == ()
    assert there.shared.tobytes() == here.shared.tobytes()


def test_a_site_whose_node_is_too_small_goes_nowhere_else(
    nodes: dict[str, str], consortium: dict[str, Path], tmp_path: Path
) -> None:
    fed = Federation(FedAvg(), consortium, tmp_path)
    with pytest.raises(RunError, match=r"'north'.*\b2 CPU.*site=north.*\b1\b"):
        RayExecutor(fed.plans(), Resources(cpus_per_site=2))


def test_a_shard_on_another_node_is_read_by_that_node(nodes: dict[str, str], consortium: dict[str, Path]) -> None:
    from fedrecon.platform.execution.remote_shards import remote_shards
    from fedrecon.sites.data.shard import Shard

    found = remote_shards({"north": str(consortium["north"])}, "auto")
    here = Shard.open(consortium["north"])
    assert replace(found["north"], attributes=here.attributes) == here
    assert found["north"].origin == here.origin
    with pytest.raises(InputError, match=r"'south'.*nowhere\.h5"):
        remote_shards({"south": str(consortium["south"].with_name("nowhere.h5"))}, "auto")


def described(paths: dict[str, str]) -> dict[str, Any]:
    """Trained at two sites, tested at one of them and at another, each hospital with a part of its own."""
    return {
        "sites": {name: paths[name] for name in ("middle", "north")},
        "strategy": {"name": "fedbn"},
        "network": NETWORKS["fedbn"],
        "training": {"rounds": 2, "batch_size": 2},
        "evaluation": {"every": 2, "panels": False},
        "resources": {"cpus_per_site": 0.5},
        "publish_private": "all",
        "test": {
            "sites": {name: paths[name] for name in ("north", "south")},
            "operator": {"acceleration": 2},
            "unseen": "average",
        },
    }


def test_a_test_elsewhere_is_scored_on_the_nodes_of_the_sites_with_the_same_bits(
    nodes: dict[str, str], consortium: dict[str, Path], north: Path, mlflow_template: Path, tmp_path: Path
) -> None:
    """North's shard and its part of the network are seen by its node alone; south gets the average of the parts."""
    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "mlflow.db")
    paths = {name: str(path) for name, path in consortium.items()}
    here = fedrecon.run(described(paths), workspace=tmp_path, in_process=True)
    expected = scores(tmp_path, here.run_id)
    (private,) = tmp_path.glob("runs/*/private/north")
    private.rename(north / "private")
    private.symlink_to(f"{HERE}/private")
    with pytest.raises(InputError, match=r"north\.h5: there is no such file"):
        fedrecon.run(described({**paths, "north": f"{HERE}/north.h5"}), workspace=tmp_path, in_process=True)
    hidden = described({**paths, "north": f"{HERE}/north.h5"})
    there = fedrecon.run(hidden, workspace=tmp_path, address="auto", rerun=True)
    assert (there.digest, there.trained_rounds) == (here.digest, 0)
    assert there.run_id != here.run_id
    assert scores(tmp_path, there.run_id) == expected
    assert not list(RunFolder(tmp_path, there.digest).path.glob("parts"))


def scores(workspace: Path, run_id: str) -> dict[str, Any]:
    return read_scores(run_store(None, workspace).local_artifact(run_id, "scores.parquet"))


def test_a_site_that_dies_while_it_is_tested_is_asked_again_so_often_and_not_more(
    nodes: dict[str, str], consortium: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from fedrecon.platform.execution import placement, site_tasks

    def dies(folder: Path, name: str, times: int) -> list[Any]:
        (folder / f"{len(list(folder.iterdir()))}").touch()
        if len(list(folder.iterdir())) <= times:
            os._exit(1)
        return [name]

    def tests(times: int, home: dict[str, str], **options: Any) -> site_tasks.SiteTasks:
        (folder := tmp_path / f"{times}").mkdir()
        asked = site_tasks.SiteTasks(
            ray.remote(max_retries=0)(dies), folder, {"south": ("south", times)}, {"south": {"num_cpus": 0, **options}},
            {"south": placement.Demand("south", 0.0, 0.0, home)},
        )  # fmt: skip
        asked.start("south")
        return asked

    assert tests(1, {}).result("south", restarts=1) == ["south"]
    with pytest.raises(RunError, match=r"'south'.*\b1 restart"):
        tests(2, {}).result("south", restarts=1)
    monkeypatch.setattr(site_tasks, "PATIENCE", 0.1)
    monkeypatch.setattr(site_tasks, "RESTART_TIMEOUT", 0.3)
    nowhere = {"site": "nowhere"}
    gone = tests(0, nowhere, label_selector=nowhere)
    with pytest.raises(RunError, match=r"\bnode\b.*\b0 s\b"):
        gone.result("south", restarts=1)
    gone.cancel()


def test_nodes_that_cannot_see_a_plug_in_train_and_test_with_it(
    nodes: dict[str, str], consortium: dict[str, Path], mlflow_template: Path, tmp_path: Path
) -> None:
    """The files are gone when the run starts. Its test under another operator is scored on the node of the site."""
    (source := tmp_path / "source").mkdir()
    test = {"operator": {"acceleration": 3}}
    given = extended(
        {"north": consortium["north"]}, write_examples(source), test=test, resources={"cpus_per_site": 0.5}
    )
    one, results = Experiment.read(given), []
    shutil.rmtree(source)
    for name, options in {"here": {"in_process": True}, "there": {"address": "auto"}}.items():
        (workspace := tmp_path / name).mkdir()
        shutil.copy(mlflow_template / "mlflow.db", workspace / "mlflow.db")
        results.append(fedrecon.run(one, workspace=workspace, **options))
    here, there = results
    assert (there.digest, there.trained_rounds) == (here.digest, 1)
    assert scores(tmp_path / "there", there.run_id) == scores(tmp_path / "here", here.run_id)


def test_a_reply_of_another_node_comes_before_it_is_taken(nodes: dict[str, str]) -> None:
    """:func:`fetch` returns at once, and Ray brings the object all the same; who only looks does not fetch it."""
    import numpy as np
    import ray
    from ray.experimental import get_object_locations

    from fedrecon.platform.execution.ray_cluster import fetch

    def here(reference: Any) -> bool:
        return nodes["head"] in get_object_locations([reference])[reference]["node_ids"]

    task = ray.remote(num_cpus=0, label_selector={"site": "north"})(lambda: np.zeros(1 << 20, np.float32))
    reference = task.remote()
    assert ray.wait([reference], timeout=60, fetch_local=False)[0]
    assert not here(reference)
    fetch([])
    fetch([reference])
    wait_for(lambda: here(reference), "an object to come to this node", every=0.05)
