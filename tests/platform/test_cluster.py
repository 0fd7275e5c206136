"""Several nodes: each site on the node that carries its name."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import ray_warnings
from ray_crews import ray_crew
from tiny import Federation

from fedrecon.platform.crew_ray import RayCrew
from fedrecon.platform.resources import Resources
from fedrecon.sites.errors import RunError
from fedrecon.strategies.fedavg import FedAvg

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, str]]:
    """Node ids: a head that could hold everybody, one node labelled north, one with the resource site:south."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with ray_warnings():
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
        try:
            north = cluster.add_node(num_cpus=1, num_gpus=1, labels={"site": "north"})
            south = cluster.add_node(num_cpus=1, resources={"site:south": 1})
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            cluster.wait_for_nodes()
            yield {"north": north.node_id, "south": south.node_id, "head": cluster.head_node.node_id}
        finally:
            ray.shutdown()
            cluster.shutdown()


def test_each_site_runs_on_its_own_node(nodes: dict[str, str], consortium: dict[str, Path], tmp_path: Path) -> None:
    fed = Federation(FedAvg(), consortium, tmp_path)
    here, record = fed.train(), None
    with ray_crew(fed, cpus_per_site=1) as crew:
        found = crew.describe()
        there = fed.train(crew, record)
    assert found["north"]["node"] == nodes["north"]
    assert found["south"]["node"] == nodes["south"]
    assert found["middle"]["node"] == nodes["head"]
    assert found["north"]["gpus"] == ["0"]
    assert found["south"]["gpus"] == []
    assert there.shared.tobytes() == here.shared.tobytes()


def test_a_site_whose_node_is_too_small_goes_nowhere_else(
    nodes: dict[str, str], consortium: dict[str, Path], tmp_path: Path
) -> None:
    fed = Federation(FedAvg(), consortium, tmp_path)
    with pytest.raises(RunError, match=r"site 'north' cannot be placed \(2 CPU.*label site=north\).*node has 1"):
        RayCrew(fed.plans(), Resources(cpus_per_site=2))


def test_a_shard_on_another_node_is_read_by_that_node(nodes: dict[str, str], consortium: dict[str, Path]) -> None:
    from fedrecon.platform.remote import remote_shards
    from fedrecon.sites.errors import InputError
    from fedrecon.sites.shard import Shard

    found = remote_shards({"north": str(consortium["north"])}, "auto")
    assert found["north"] == Shard.open(consortium["north"])
    with pytest.raises(InputError, match=r"site 'south', on its own node: .*nowhere\.h5: there is no such file"):
        remote_shards({"south": str(consortium["south"].with_name("nowhere.h5"))}, "auto")
