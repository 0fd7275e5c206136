"""A sweep on several nodes: sites on the nodes that carry their names, two trials on the halves of each GPU."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import HERE, end_local_cluster, ray_warnings, started_here

from fedrecon.platform.runs.run import run
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError, RunError
from fedrecon.tune.engine.drivers import seeing
from fedrecon.tune.study.run import load_study, study
from fedrecon.tune.sweep.run import sweep

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("no_pixels")]

SITES = ("north", "south")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, consortium: dict[str, Path]) -> Iterator[dict[str, str]]:
    """Node ids: a head without a GPU, and a node with one logical GPU for each site.

    The node of each site alone sees its shard as ``HERE/NAME.h5``.
    """
    end_local_cluster()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"
    with ray_warnings(), started_here():
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            own = {}
            for site in SITES:
                (folder := tmp_path_factory.mktemp(site)).joinpath(f"{site}.h5").symlink_to(consortium[site])
                with contextlib.chdir(folder):
                    own[site] = cluster.add_node(num_cpus=1, num_gpus=1, labels={"site": site}).node_id
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            cluster.wait_for_nodes()
            yield {**own, "head": cluster.head_node.node_id}
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def base(consortium: dict[str, Path]) -> dict[str, Any]:
    return {
        "name": "tiny",
        "sites": {name: str(consortium[name]) for name in SITES},
        "operator": {"mask": "random", "acceleration": 3},
        "network": {"name": "unet", "channels": 2, "pools": 1},
        "training": {"rounds": 2, "batch_size": 2},
        "evaluation": {"panels": False},
        "resources": {"gpus_per_site": 0.5, "cpus_per_site": 0.5},
    }


def test_sites_on_their_nodes_in_halves_of_their_gpus_and_the_same_bits(
    nodes: dict[str, str], base: dict[str, Any], tmp_path: Path, mlflow_template: Path
) -> None:
    spaces = {name: tmp_path / name for name in ("there", "here")}
    for place in spaces.values():
        place.mkdir()
        shutil.copy(mlflow_template / "mlflow.db", place / "mlflow.db")
    search = {"operator.acceleration": {"grid": [3, 4]}}
    result = sweep(base, search, name="spread", workspace=spaces["there"])
    assert [(row.status, row.error) for row in result.trials] == [("FINISHED", None)] * 2
    for row in result.trials:
        found = RunFolder(spaces["there"], row.trial.digest).result()
        assert found is not None
        members = found["environment"]["members"]
        assert {name: one["node"] for name, one in members.items()} == {site: nodes[site] for site in SITES}
        assert {name: one["gpus"] for name, one in members.items()} == {site: ["0"] for site in SITES}
        alone = run(row.trial.experiment, ["resources.gpus_per_site=0"], workspace=spaces["here"], in_process=True)
        assert row.metrics["test/mean/psnr"] == alone.mean["psnr"]


def test_a_trial_that_no_node_can_hold_is_refused_at_once(
    nodes: dict[str, str], base: dict[str, Any], tmp_path: Path
) -> None:
    large = {**base, "resources": {"gpus_per_site": 1, "cpus_per_site": 64}}
    with pytest.raises(RunError, match=r"'north'.*CPU\b.*\b64\b"):
        sweep(large, {"seed": {"grid": [0, 1]}}, name="large", workspace=tmp_path)


def test_a_study_of_a_shard_that_its_own_node_alone_sees(
    nodes: dict[str, str], base: dict[str, Any], tmp_path: Path, mlflow_template: Path
) -> None:
    """North is tested by what south trained, and by what trains nothing; no picture of it is drawn."""
    spaces = {name: tmp_path / name for name in ("there", "here")}
    for place in spaces.values():
        place.mkdir()
        shutil.copy(mlflow_template / "mlflow.db", place / "mlflow.db")
    hidden = {**base["sites"], "north": f"{HERE}/north.h5"}
    described = {
        "name": "hidden",
        "experiment": {**base, "sites": hidden, "evaluation": {"panels": True}},
        "methods": {"unet": {}, "zero-filled": {"reconstructor": "zero_filled"}},
        "train": {"sites": [["south"]]},
        "max_failures": 0,
        "concurrency": 1,
    }
    result = study(described, workspace=spaces["there"], address="auto")
    assert (result.status, result.missing) == ("finished", [])
    found = {(one["method"], one["tested_on"]): one["psnr"] for one in result.cells}
    for method, changes in {
        "unet": {"sites": {"south": base["sites"]["south"]}, "test": {"sites": {"north": base["sites"]["north"]}}},
        "zero-filled": {"reconstructor": "zero_filled"},
    }.items():
        alone = run({**base, **changes, "resources": {}}, workspace=spaces["here"], in_process=True)
        assert found[method, "north"] == pytest.approx(alone.sites["north"]["psnr"], abs=1e-12)
    assert len(found) == 4
    assert len(list((spaces["there"] / "studies" / "hidden" / "panels").iterdir())) == 1
    assert load_study("hidden", spaces["there"], "auto").cells == result.cells
    with pytest.raises(InputError, match="in-process opens every shard in one process"):
        study(
            {**described, "experiment": {**base, "sites": hidden, "resources": {"crew": "in-process"}}}, address="auto"
        )


def test_the_nodes_that_see_a_workspace_are_found(
    nodes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.chdir(tmp_path)
    (workspace := tmp_path / "workspace").mkdir()
    table: Any = ray.nodes()  # type: ignore[no-untyped-call]
    assert sorted(seeing(workspace, table, nodes["head"])) == sorted(nodes.values())
    assert seeing(Path(HERE) / "workspace", table, nodes["head"]) == [nodes["head"]]
    assert list(workspace.iterdir()) == []
