"""What a trial asks of the cluster, by hand, from node tables that are written out here."""

import contextlib
from typing import Any

import pytest

from fedrecon.platform.config.experiment import Experiment
from fedrecon.sites.errors import RunError
from fedrecon.tune.engine.packing import DRIVER_CPUS, NOTHING, PER_GPU, Packing, asked, roster

TWO = ["north", "south"]
AUTO = ("auto", "auto")


def node(cpus: float, gpus: float = 0, name: str = "head", site: str | None = None, **more: Any) -> dict[str, Any]:
    labels = {"ray.io/node-id": name, **({"site": site} if site else {})}
    resources = {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {}), **more.pop("resources", {})}
    return {"Alive": True, "NodeID": name, "Resources": resources, "Labels": labels, **more}


def packed(*nodes: dict[str, Any], executor: str = "auto", concurrency: int | str = "auto") -> Packing:
    return Packing.of(executor, concurrency, nodes, "head")


def bundles(packing: Packing, each: Any = AUTO, members: Any = TWO) -> list[dict[str, float]]:
    return list(packing.factory(each, members).bundles)


def selectors(group: Any) -> list[dict[str, str]]:
    """What Ray is given to choose each bundle's node by."""
    return list(group._bound.kwargs["bundle_label_selector"])


@pytest.mark.parametrize(
    ("nodes", "executor"),
    [
        ([node(2)], "in-process"),
        ([node(64, 1)], "in-process"),
        ([node(64, 2)], "actors"),
        ([node(2), node(2, name="b")], "actors"),
        ([node(2), node(2, 8, name="b", Alive=False)], "in-process"),
    ],
    ids=["2 CPU", "1 GPU", "2 GPU", "2 nodes", "a dead node"],
)
def test_auto_is_in_process_where_one_device_holds_all_sites(nodes, executor):
    assert packed(*nodes).executor == executor


@pytest.mark.parametrize(("asks", "nodes"), [("actors", [node(2)]), ("in-process", [node(8, 2), node(8, name="b")])])
def test_what_is_asked_for_is_done(asks, nodes):
    assert packed(*nodes, executor=asks).executor == asks


@pytest.mark.parametrize(
    ("nodes", "concurrency", "at_once"),
    [
        ([node(2)], "auto", 2),
        ([node(2)], 5, 5),
        ([node(0.5)], "auto", 1),
        ([node(64, 1)], "auto", PER_GPU),
        ([node(3, 1)], "auto", 3),
        ([node(8, 2)], "auto", None),  # actors: what fits
        ([node(8, 2)], 3, 3),
    ],
)
def test_trials_at_once(nodes, concurrency, at_once):
    assert packed(*nodes, concurrency=concurrency).at_once == at_once


@pytest.mark.parametrize(
    ("nodes", "concurrency", "bundle"),
    [
        ([node(2)], "auto", {"CPU": 1.0}),
        ([node(2)], 1, {"CPU": 1.0}),
        ([node(2)], 4, {"CPU": 0.5}),
        ([node(2)], 3, {"CPU": 0.6666}),
        ([node(64, 1)], "auto", {"CPU": 1.0, "GPU": 0.25}),
        ([node(64, 1)], 2, {"CPU": 1.0, "GPU": 0.5}),
        ([node(64, 1)], 3, {"CPU": 1.0, "GPU": 0.3333}),
        ([node(64, 1)], 1, {"CPU": 1.0, "GPU": 1.0}),
    ],
)
def test_a_trial_in_process_is_one_bundle_of_its_share(nodes, concurrency, bundle):
    packing = packed(*nodes, concurrency=concurrency)
    assert bundles(packing) == [bundle]
    assert all(packing.at_once * bundle[name] <= nodes[0]["Resources"][name] for name in bundle if packing.at_once > 1)


def test_more_gpus_hold_more_trials_in_process():
    packing = packed(node(64, 2), executor="in-process")
    assert packing.at_once == 2 * PER_GPU
    assert bundles(packing) == [{"CPU": 1.0, "GPU": 0.25}]


@pytest.mark.parametrize(("nodes", "at_once"), [([node(8, 2)], 3), ([node(3), node(3, name="b")], 4)])
def test_as_many_as_are_wanted_at_once_do_fit(nodes, at_once):
    """A fraction of a GPU is one of a single GPU, and a bundle lies on a single node."""
    packing = packed(*nodes, executor="in-process", concurrency=at_once)
    (bundle,) = bundles(packing)
    room = 0
    for one in nodes:
        have = one["Resources"]
        by_gpu = int(have["GPU"]) * int(1 / bundle["GPU"] + 1e-6) if "GPU" in bundle else 10**6
        room += min(int(have["CPU"] / bundle["CPU"] + 1e-6), by_gpu)
    assert room >= at_once


def test_actors_have_a_bundle_for_the_trial_and_one_for_each_site():
    group = packed(node(4, 2)).factory(AUTO, TWO)
    driver, *sites = group.bundles
    assert driver == {"CPU": DRIVER_CPUS}
    assert sites == [{"CPU": 0.95, "GPU": 1.0}] * 2  # 2 sites of a CPU, less a tenth for the trial's own process
    assert group.strategy == "PACK"
    assert selectors(group) == [{"ray.io/node-id": "head"}, {}, {}]


@pytest.mark.parametrize(
    ("nodes", "each", "bundle"),
    [
        ([node(2)], AUTO, {"CPU": 1.0}),  # in process, as any other trial
        ([node(8, 2)], AUTO, {"CPU": 1.0, "GPU": 1.0}),
        ([node(8, 2)], (2, 0.5), {"CPU": 2.0, "GPU": 0.5}),
        ([node(4), node(8, 2, name="b")], (1, 1), {"CPU": 1.0}),  # a head without a GPU
    ],
)
def test_what_trains_nothing_is_one_bundle_where_the_workspace_is(nodes, each, bundle):
    group = packed(*nodes).alone(each)
    assert list(group.bundles) == [bundle]
    if packed(*nodes).executor == "actors":
        assert selectors(group) == [{"ray.io/node-id": "head"}]


def test_what_trains_nothing_is_refused_where_it_cannot_be():
    with pytest.raises(RunError, match="CPU: asked 3"):
        packed(node(2), node(8, 2, name="b")).alone((3, 0))


@pytest.mark.parametrize(
    ("nodes", "members", "gpu"),
    [
        ([node(8, 2)], 4, 0.5),
        ([node(8, 2)], 3, 0.5),
        ([node(8, 4)], 2, 1.0),
        ([node(2), node(2, 1, name="b"), node(2, 1, name="c")], 4, 0.5),
    ],
)
def test_auto_shares_the_gpus_among_the_sites_of_a_trial(nodes, members, gpu):
    _, *sites = bundles(packed(*nodes), AUTO, [f"s{i}" for i in range(members)])
    assert [one.get("GPU") for one in sites] == [gpu] * members


@pytest.mark.parametrize(
    ("nodes", "concurrency", "gpu"),
    [
        ([node(8, 2)], 2, 0.5),
        ([node(8, 2)], 4, 0.25),
        ([node(8, 1), node(8, 1, name="b")], 2, 0.5),
        ([node(8, 4)], 2, 1.0),
    ],
)
def test_auto_shares_the_gpus_among_the_trials_too(nodes, concurrency, gpu):
    """Two sites each; nobody is left without a GPU where there are some."""
    _, *sites = bundles(packed(*nodes, concurrency=concurrency), AUTO)
    assert [one.get("GPU") for one in sites] == [gpu, gpu]


def test_auto_shares_the_cpus_among_the_trials_too():
    _, *sites = bundles(packed(node(2), executor="actors", concurrency=2), AUTO)
    assert [one["CPU"] for one in sites] == [0.45] * 2  # with a tenth for the process of each trial
    _, *sites = bundles(packed(node(2), executor="actors", concurrency=4), AUTO)
    assert [one["CPU"] for one in sites] == [0.2] * 2


def test_what_is_given_is_asked_for():
    _, *sites = bundles(packed(node(8, 2)), (2, 0.5))
    assert sites == [{"CPU": 2.0, "GPU": 0.5}] * 2
    _, *sites = bundles(packed(node(8, 2)), (0.5, 0))
    assert sites == [{"CPU": 0.5}] * 2
    _, *sites = bundles(packed(node(8, 2)), (0, 0))
    assert sites == [{"CPU": NOTHING}] * 2


def test_a_trial_of_auto_asks_for_what_its_sites_would_have():
    """So as many fit as without a share for the process of each; here 8 of 2 CPUs on 16."""
    driver, *sites = bundles(packed(node(16, 16), executor="actors"))
    assert (driver["CPU"], *(one["CPU"] for one in sites)) == (0.1, 0.95, 0.95)
    driver, *sites = bundles(packed(node(2), executor="actors", concurrency=16))
    assert (driver["CPU"], *(one["CPU"] for one in sites)) == (0.0625, 0.0312, 0.0312)  # at most half for the processes


IP = {"node:10.0.0.1": 1.0, "node:__internal_head__": 1.0}


@pytest.mark.parametrize(
    ("cpus", "each", "concurrency", "own"),
    [
        (4, (1, 0), "auto", {"CPU": 0.1}),
        (4, (1, 0), 1, {"CPU": 0.1}),
        (4, (1, 0), 2, {"node:10.0.0.1": NOTHING}),  # two at once were wanted, and do fit
        (4, (1, 0), 3, {"CPU": 0.1}),  # three do not fit anyway
        (2, (1, 0), "auto", {"node:10.0.0.1": NOTHING}),  # the sites take all
        (0, (0, 0), "auto", {"node:10.0.0.1": NOTHING}),  # a head without a CPU for Ray
    ],
)
def test_the_trial_s_own_process_is_seen_by_ray_where_there_is_room(cpus, each, concurrency, own):
    nodes = node(cpus, resources=IP), node(8, name="b", site="elsewhere")
    assert bundles(packed(*nodes[: 1 + (cpus == 0)], executor="actors", concurrency=concurrency), each)[0] == own


@pytest.mark.parametrize("each", [AUTO, (1, 0), (1, 1)])
@pytest.mark.parametrize("cpus", [2, 3, 8])
def test_the_bundles_of_a_trial_fit_the_cluster_together_or_are_refused(each, cpus):
    """Ray Tune would wait for them without a word."""
    made: list[dict[str, float]] = []
    with contextlib.suppress(RunError):
        made = bundles(packed(node(cpus, 2)), each)
    assert made or (cpus == 2 and each != AUTO)
    assert sum(one["CPU"] for one in made) <= cpus + 1e-9
    assert sum(one.get("GPU", 0) for one in made) <= 2


def test_a_site_s_label_or_resource_binds_its_bundle():
    nodes = [
        node(4),
        node(2, 1, name="b", site="north"),
        node(2, 1, name="c", resources={"site:south": 1.0}),
    ]
    group = packed(*nodes).factory(AUTO, [*TWO, "east"])
    assert selectors(group) == [{"ray.io/node-id": "head"}, {"site": "north"}, {}, {}]
    _, north, south, east = group.bundles
    assert north["GPU"] == 1.0
    assert south["site:south"] == 0.001
    assert "GPU" not in east


@pytest.mark.parametrize(
    ("each", "says"),
    [
        ((64, 0), ["'north'", "CPU: asked 64", "largest node has 4"]),
        ((1, 3), ["'north'", "GPU: asked 3", "largest node has 2"]),
        ((3, 0), ["'south'", "full with the other sites", "resources.cpus_per_site"]),
        ((1, 1.01), []),
    ],
)
def test_a_bundle_that_no_node_can_hold_is_refused_at_once(each, says):
    from fedrecon.sites.errors import FedreconError

    with pytest.raises(FedreconError) as error:
        bundles(packed(node(4, 2)), each)
    for part in says:
        assert part in str(error.value)


def test_a_bound_site_is_refused_for_its_own_node():
    nodes = [node(64), node(1, name="b", site="north")]
    with pytest.raises(RunError, match=r"'north'.*site=north.*CPU\b.*\b2\b.*\b1\b"):
        bundles(packed(*nodes), (2, 0))


def test_a_cluster_without_a_cpu_is_refused():
    with pytest.raises(RunError, match="no CPU"):
        bundles(packed(node(0)))


def experiment(**changes: Any) -> Experiment:
    return Experiment.read({"sites": {"north": "n.h5", "south": "s.h5"}, **changes})


@pytest.mark.parametrize(
    ("changes", "members"),
    [
        ({}, ["north", "south"]),
        ({"strategy": {"name": "local"}}, ["north", "south"]),
        ({"strategy": {"name": "pooled"}}, ["pooled"]),
        ({"strategy": {"name": "pooled"}, "reconstructor": "tv"}, ["north", "south"]),
    ],
)
def test_the_members_are_those_of_the_method(changes, members):
    assert roster(experiment(**changes), TWO) == members


def test_pooled_has_one_bundle():
    one = experiment(strategy={"name": "pooled"}, resources={"cpus_per_site": 2, "gpus_per_site": 1})
    assert bundles(packed(node(4, 2)), asked(one), roster(one, TWO)) == [{"CPU": DRIVER_CPUS}, {"CPU": 2.0, "GPU": 1.0}]


def test_an_experiment_says_what_its_sites_ask_for():
    assert asked(experiment()) == AUTO
    assert asked(experiment(resources={"cpus_per_site": 2, "gpus_per_site": 0.25})) == (2, 0.25)


def test_a_trial_in_one_process_runs_where_the_workspace_is_seen_alone():
    """Elsewhere it would write into a folder of another disk, and nobody would find its result."""
    cluster = [node(2), node(4, name="b"), node(8, name="c")]
    everywhere = Packing.of("in-process", "auto", cluster, "head", ["head", "b", "c"])
    assert (everywhere.at_once, everywhere.bound) == (14, False)
    part = Packing.of("in-process", "auto", cluster, "head", ["head", "b"])
    assert part.at_once == 6
    assert selectors(part.factory(AUTO, TWO)) == [{"ray.io/node-id": "in(b, head)"}]
    assert Packing.of("actors", "auto", cluster, "head", ["head"]).nodes == cluster  # their sites may be anywhere
