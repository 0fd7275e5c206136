from typing import Any

import pytest

from fedrecon.platform.execution import ray_cluster
from fedrecon.platform.execution.placement import Demand, check, demands, first_bound
from fedrecon.sites.errors import RunError


def node(cpus: float, gpus: float = 0, labels: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    resources = {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {}), **more.pop("resources", {})}
    return {"Alive": True, "Resources": resources, "Labels": labels or {}, **more}


def shares(members: int, *nodes: dict[str, Any]) -> set[tuple[float, float]]:
    found = demands([f"s{i}" for i in range(members)], nodes, "auto", "auto")
    check(found, nodes)
    return {(one.cpus, one.gpus) for one in found}


@pytest.mark.parametrize(
    ("members", "nodes", "share"),
    [
        (4, [node(4, 2)], (1.0, 0.5)),
        (4, [node(2)], (0.5, 0.0)),
        (3, [node(2)], (0.5, 0.0)),
        (7, [node(2, 2)], (0.25, 0.25)),
        (3, [node(64, 1)], (1.0, 0.3333)),
        (2, [node(8, 8)], (1.0, 1.0)),
        (5, [node(1, 1), node(1, 1)], (0.3333, 0.3333)),
        (3, [node(0)], (0.0, 0.0)),
        (2, [node(1.5), node(0.5)], (0.5, 0.0)),
        (3, [node(1, 1), node(8)], (0.25, 0.3333)),  # all beside the one GPU
        (4, [node(1, 1), node(3, 1)], (0.5, 0.5)),
    ],
)
def test_auto_shares_what_there_is_and_fits(
    members: int, nodes: list[dict[str, Any]], share: tuple[float, float]
) -> None:
    assert shares(members, *nodes) == {share}


def test_a_dead_node_counts_for_nothing() -> None:
    assert shares(2, node(8, 4, Alive=False), node(2)) == {(1.0, 0.0)}


def test_a_site_is_bound_to_the_node_that_carries_its_name() -> None:
    nodes = [node(4, labels={"site": "north"}), node(4, resources={"site:south": 1.0}), node(4)]
    north, south, east = demands(["north", "south", "east"], nodes, 1, 0)
    assert north.options() == {"num_cpus": 1.0, "num_gpus": 0.0, "label_selector": {"site": "north"}}
    assert south.options() == {"num_cpus": 1.0, "num_gpus": 0.0, "resources": {"site:south": 0.001}}
    assert east.options() == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert [one.member for one in first_bound([east, north, south])] == ["north", "south", "east"]


def test_auto_gives_a_bound_site_its_share_of_its_own_node() -> None:
    nodes = [node(4, 4, labels={"site": "rich"}), node(1, labels={"site": "poor"})]
    rich, poor = demands(["rich", "poor"], nodes, "auto", "auto")
    assert (rich.gpus, poor.gpus) == (1.0, 0.0)
    check([rich, poor], nodes)


def test_auto_gives_the_others_their_share_of_the_nodes_that_are_nobodys() -> None:
    nodes = [node(4), node(1, 1, labels={"site": "north"}), node(1, labels={"site": "south"})]
    found = demands(["north", "east", "west", "south"], nodes, "auto", "auto")
    check(found, nodes)
    assert [one.gpus for one in found] == [1.0, 0.0, 0.0, 0.0]
    only = [node(2, 1, labels={"site": "north"})]
    found = demands(["north", "east"], only, "auto", "auto")
    check(found, only)


def test_a_bound_site_finds_its_node_though_others_could_fill_it() -> None:
    nodes = [node(1, labels={"site": "north"}), node(1)]
    check(demands(["east", "north"], nodes, 1, 0), nodes)


@pytest.mark.parametrize(
    ("cpus", "gpus", "says"),
    [
        (64, 0, ["'north'", "CPU", "64", "2"]),
        (1, 4, ["'north'", "GPU", "4", "0"]),
        (1.5, 0, ["'south'", "2 CPU"]),
    ],
)
def test_what_no_node_can_hold_is_refused_by_name(cpus: float, gpus: float, says: list[str]) -> None:
    nodes = [node(2)]
    with pytest.raises(RunError) as error:
        check(demands(["north", "south"], nodes, cpus, gpus), nodes)
    for part in says:
        assert part in str(error.value)


def test_the_refusal_of_a_bound_site_speaks_of_its_own_node() -> None:
    nodes = [node(1, labels={"site": "north"}), node(64)]
    with pytest.raises(RunError, match=r"'north'.*site=north.*CPU\b.*\b2\b.*\b1\b"):
        check(demands(["north"], nodes, 2, 0), nodes)


def test_a_fraction_of_a_gpu_is_one_of_a_single_gpu() -> None:
    nodes = [node(8, 2)]
    check([Demand(name, 1, 0.6) for name in "ab"], nodes)
    with pytest.raises(RunError, match="'c' cannot be placed"):
        check([Demand(name, 1, 0.6) for name in "abc"], nodes)
    check([Demand("a", 1, 0.5), Demand("b", 1, 0.5), Demand("c", 1, 1)], nodes)


def test_who_has_waited_is_told_what_is_free() -> None:
    with pytest.raises(RunError, match=r"\b25 s\b.*CPU\b.*\b1\b.*\b0\.5"):
        check([Demand("north", 1, 0)], [node(0.5)], waited=25.0)


def test_a_ray_that_does_not_start_in_time_is_no_defect_of_fedrecon(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:  # as Ray does
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    with pytest.raises(RunError, match="--in-process"):
        ray_cluster.connect(None)
