import gc
import hashlib
import os
import signal
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import CASES
from clusters import local_cluster
from ray_executors import outcome, ray_executor, title, wait_for
from tiny import Federation

from fedrecon.platform.config.resources import Resources
from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.platform.execution.ray_executor import RayExecutor
from fedrecon.platform.execution.site_actor import ActorPool, SiteActor, Tenancy, Vacant
from fedrecon.platform.execution.wire_log import MakeReader, Reader
from fedrecon.sites.errors import RunError
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.wire import TrainReply, TrainRequest
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.fedper import FedPer

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Four CPUs and two GPUs that are only logical."""
    with local_cluster(num_cpus=4, num_gpus=2):
        yield


SHARE = {"cpus_per_site": 0.25, "gpus_per_site": 0.5}
"""What each of the four sites gets of the four CPUs and the two GPUs."""

ALONE = {"cpus_per_site": 0.5, "gpus_per_site": 0.5}
"""Another share, for one site: two tests lend each other its actor."""


@pytest.fixture(scope="module")
def four(consortium: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Four sites with private memory; as many processes take seconds to start, so their executor is started once."""
    paths = {**consortium, "west": consortium["north"]}
    return Federation(FedAvg(), paths, tmp_path_factory.mktemp("memory"), training={"optimizer_state": "keep"})


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[ActorPool]:
    pool = ActorPool()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def executor(four: Federation, pool: ActorPool) -> Iterator[RayExecutor]:
    with ray_executor(four, pool, cpus_per_site=0.25) as started:
        yield started


@pytest.fixture(scope="module")
def lent(executor: RayExecutor, pool: ActorPool) -> ActorPool:
    """The actors of the four sites, for the tests at the end of this file: none of them asks for ``executor``.

    Each takes those of its own sites with :data:`SHARE`, and the others end. A process that imports torch is four
    CPU-seconds.
    """
    executor.close()
    return pool


def test_four_sites_share_two_gpus(executor: RayExecutor) -> None:
    found = executor.describe()
    assert list(found) == ["north", "middle", "south", "west"]
    assert sorted(list(one.gpus) for one in found.values()) == [["0"], ["0"], ["1"], ["1"]]
    assert len({one.pid for one in found.values()}) == 4
    assert {one.threads for one in found.values()} == {1}
    assert {one.device for one in found.values()} == {"cpu"}
    assert {title(one.pid) for one in found.values()} == {"ray::SiteActor"}


def test_the_same_bits_as_in_this_process(four: Federation, executor: RayExecutor, tmp_path: Path) -> None:
    """With four processes at once; on two CPUs they are compared in test_kill.py."""
    here = replace(four, memory=tmp_path)
    rows, expected = outcome(here, here.executor())
    rows_on_ray, found = outcome(four, executor)
    assert set(expected["memory"]) == set(four.paths)
    assert found == expected
    same = ("round", "replied", "restarts", "bytes_up", "bytes_down", "losses")
    assert [[row[k] for k in same] for row in rows_on_ray] == [[row[k] for k in same] for row in rows]


def replies_alive() -> int:
    gc.collect()
    return sum(type(one) is TrainReply for one in gc.get_objects())


def test_the_request_is_only_read_and_replies_do_not_pile_up(four: Federation, executor: RayExecutor) -> None:
    request = four.method.request(four.begin())
    before = hashlib.sha256(request.shared.tobytes()).hexdigest()
    alive, first = [], []
    others = replies_alive()
    for reply in executor.fit(request):
        assert not np.shares_memory(reply.shared, request.shared)
        assert not reply.shared.flags.writeable
        assert reply.shared.tobytes() != request.shared.tobytes()
        first.append(reply.shared.tobytes())
        alive.append(replies_alive() - others)
    assert max(alive) <= 2
    assert [reply.shared.tobytes() for reply in executor.fit(request)] == first
    assert hashlib.sha256(request.shared.tobytes()).hexdigest() == before


def test_every_executor_reads_a_reply_while_it_is_hashed(four: Federation, executor: RayExecutor) -> None:
    request, read = four.method.request(four.begin()), list[tuple[str, bytes]]()

    def reader(reply: TrainReply) -> Reader:
        return lambda name, part: read.append((f"{reply.site} {name}", part.tobytes()))

    for one in (executor, four.executor()):
        read.clear()
        for reply in one.fit(request, reader=reader):
            given = b"".join(part for name, part in read if name == f"{reply.site} shared")
            assert given == reply.shared.tobytes() != b""
        assert {name for name, _ in read} == {f"{site} shared" for site in four.paths}


def test_what_ray_shares_is_read_only_and_stays_as_it_was(four: Federation, executor: RayExecutor) -> None:
    import ray

    from fedrecon.platform.execution.transport import RayStoreTransport

    request = four.method.request(four.begin())
    (reference,) = RayStoreTransport().send("fit", (request,)).arguments("north")
    stored = ray.get(reference)
    before = stored.shared.tobytes()
    assert not stored.shared.flags.writeable
    # A tenant that the executor does not know of: the executor's next call makes its own site again.
    plans = {plan.member: Tenancy(f"other {plan.member}", plan) for plan in four.plans()}
    actors = [actor.call.remote(plans[name], (), "fit", reference) for name, actor in executor.actors.items()]
    assert len(ray.get(actors)) == 4
    assert stored.shared.tobytes() == before


def test_a_released_actor_holds_nothing(four: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    north = four.plans()[0]
    actor = SiteActor()
    assert isinstance(actor.call(Tenancy("one"), (), "describe")[2], Vacant)
    assert actor.call(Tenancy("one", north), (), "describe")[2].site == "north"
    site = weakref.ref(actor._site)
    shard = weakref.ref(site().shards["north"])
    assert actor.call(Tenancy("one"), (), "describe")[2].site == "north"
    actor.release()
    assert site() is None
    assert shard() is None
    assert isinstance(actor.call(Tenancy("one"), (), "describe")[2], Vacant)
    assert vars(actor).keys() == vars(SiteActor()).keys()


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        ({"cpus_per_site": 64}, "'north'.*CPU\\b.*\\b64\\b.*\\b4\\b"),
        ({"cpus_per_site": 1.5}, "'south'"),
    ],
)
def test_what_cannot_be_had_is_refused_at_once(four: Federation, resources: dict[str, Any], says: str) -> None:
    start = time.monotonic()
    with pytest.raises(RunError, match=says):
        RayExecutor(four.plans(), Resources(**resources))
    assert time.monotonic() - start < 5


def test_a_cluster_that_others_fill_is_named_in_time(four: Federation, executor: RayExecutor) -> None:
    """The four sites have one CPU of the four."""
    import ray

    class Other:
        def ready(self) -> bool:
            return True

    other = ray.remote(Other).options(num_cpus=2).remote()
    ray.get(other.ready.remote())
    try:
        start = time.monotonic()
        with pytest.raises(RunError, match=r"waited .*CPU\b.*\b2\b.*\b1\b"):
            RayExecutor(four.plans()[:1], Resources(cpus_per_site=2, gpus_per_site=0, start_timeout=4))
        assert 4 <= time.monotonic() - start < 25
    finally:
        ray.kill(other)


def test_an_address_where_nothing_answers_is_refused_in_time() -> None:
    from fedrecon.platform.config.address import check_cluster

    start = time.monotonic()
    with pytest.raises(RunError, match=r"no Ray cluster answers at '127\.0\.0\.1:9'"):
        check_cluster("127.0.0.1:9")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"round": 9}, "round = 9 instead of 1"),
        ({"site": "north"}, "the name 'north' instead of its own"),
        ({"extra": {"hidden": np.ones(3, np.float32)}}, "hidden beside the shared parameters"),
        ({"losses": {"loss": float("nan")}}, "loss = nan"),
    ],
)
def test_a_reply_that_was_not_asked_for_is_refused_by_site_and_round(
    four: Federation, executor: RayExecutor, change: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = executor.fit

    def tampered(request: TrainRequest, without: tuple[str, ...], reader: MakeReader) -> Iterator[TrainReply]:
        for reply in received(request):
            yield replace(reply, **change) if reply.site == "south" else reply

    monkeypatch.setattr(executor, "fit", tampered)
    with pytest.raises(RunError, match=f"site 'south', round 1: replied with {says}"):
        four.train(executor)


def test_ray_and_its_exporters_listen_on_the_loopback_alone(executor: RayExecutor) -> None:
    """The cluster of this file is started as :func:`connect` starts it (``tests/clusters.py``)."""
    import psutil

    found = {}
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        for one in process.net_connections(kind="inet"):
            if one.status == psutil.CONN_LISTEN:
                found[one.laddr.port] = (one.laddr.ip.removeprefix("::ffff:"), process.name())
    assert len(found) >= 6  # the control store, the raylet, its agents and exporters, the sites
    assert {address for address, _ in found.values()} <= {"127.0.0.1", "::1"}, found


def test_a_prior_draws_and_adapts_the_same_bits_and_so_does_a_site_that_comes_back(
    consortium: dict[str, Path], tmp_path: Path, lent: ActorPool
) -> None:
    case = CASES["fedgimp_full"]
    pair = {name: consortium[name] for name in ("north", "middle")}
    there, here = (
        Federation(case.kind(**case.parameters), pair, tmp_path / name, case.network, case.training, rounds=2)
        for name in ("there", "here")
    )
    rows, expected = outcome(here, inside := here.executor())
    with ray_executor(there, lent, **SHARE) as executor:
        rows_on_ray, found = outcome(there, executor)
        assert found == expected
        assert [row["losses"] for row in rows_on_ray] == [row["losses"] for row in rows]
        request = there.method.scoring_request(there.train(executor))
        drawn = executor.samples(request)
        assert drawn == inside.samples(request)
        assert [one.site for one in drawn] == list(pair)
        assert all(one.pictures[one.site].startswith(b"\x89PNG") for one in drawn)
        os.kill(executor.describe()["middle"].pid, signal.SIGKILL)
        wait_for(lambda: executor.describe() and executor.restarts, "a restart")
        for part in (0, 1):
            again = [one.columns for one in executor.evaluate(request, "test", part)]
            assert again == [one.columns for one in inside.evaluate(request, "test", part)]


def test_actors_of_a_pool_serve_the_next_executor_with_the_bits_of_new_ones(
    consortium: dict[str, Path], tmp_path: Path, lent: ActorPool
) -> None:
    pair = {name: consortium[name] for name in ("north", "middle")}
    feds = [
        Federation(FedAvg(), pair, tmp_path / "first", rounds=1),
        Federation(FedPer(), pair, tmp_path / "second", training={"learning_rate": 0.01}, rounds=2),
    ]
    pids = []

    def started(fed: Federation, share: dict[str, Any]) -> tuple[RayExecutor, dict[str, int]]:
        executor = RayExecutor(fed.plans(), Resources(**share), pool=lent)
        return executor, {name: one.pid for name, one in executor.describe().items()}

    for fed in feds:
        here = replace(fed, memory=tmp_path / f"here-{fed.memory.name}")
        executor, found = started(fed, SHARE)
        pids.append(found)
        assert outcome(fed, executor)[1] == outcome(here, here.executor())[1]
        assert executor.restarts == 0
        executor.close()
    assert pids[0] == pids[1]

    # One that died while a call of its executor was open is not used again.
    executor, third = started(feds[0], SHARE)
    assert third == pids[0]
    os.kill(third["north"], signal.SIGKILL)
    wait_for(lambda: executor.describe() and executor.restarts, "a restart")
    third = {name: one.pid for name, one in executor.describe().items()}
    executor.close()
    executor, fourth = started(feds[0], SHARE)
    assert fourth["middle"] == third["middle"]
    assert fourth["north"] != third["north"]
    executor.close()

    # Another share of the processors: another actor, and the idle ones are ended, also one that died idle.
    os.kill(fourth["north"], signal.SIGKILL)
    executor, fifth = started(replace(feds[0], paths={"north": consortium["north"]}), ALONE)
    assert fifth["north"] not in {*pids[0].values(), *third.values(), *fourth.values()}
    wait_for(lambda: not title(fourth["middle"]), "the end of an actor that nobody can use")
    executor.close()


def test_a_tuned_site_that_comes_back_is_tuned(consortium: dict[str, Path], tmp_path: Path, lent: ActorPool) -> None:
    from fedrecon.sites.classical import RECONSTRUCTORS

    fed = Federation(FedAvg(), consortium, tmp_path)
    classical = {"network": None, "reconstructor": RECONSTRUCTORS["tv"](), "evaluation": Evaluation(max_slices=1)}
    plans = [replace(plan, **classical) for plan in fed.plans()][:1]
    request, here, executor = (
        fed.method.request(fed.begin()),
        InProcessExecutor(plans),
        RayExecutor(plans, Resources(**ALONE), pool=lent),
    )
    try:
        assert {n: one.parameters for n, one in here.tune_reconstructors().items()} == {
            n: one.parameters for n, one in executor.tune_reconstructors().items()
        }
        os.kill(executor.describe()["north"].pid, signal.SIGKILL)
        wait_for(lambda: executor.describe() and executor.restarts, "a restart")
        expected = [one.columns["ssim"] for one in here.evaluate(request, "test")]
        assert [one.columns["ssim"] for one in executor.evaluate(request, "test")] == expected
        untuned = InProcessExecutor(plans).evaluate(request, "test")
        assert [one.columns["ssim"] for one in untuned] != expected
        assert executor.restarts == 1
    finally:
        executor.close()


def test_a_shard_that_is_not_there_on_the_node_is_named(four: Federation, tmp_path: Path) -> None:
    plans = [replace(four.plans()[1], shards={"middle": str(tmp_path / "nowhere" / "middle.h5")})]
    with pytest.raises(RunError, match=r"site 'middle': .*nowhere/middle\.h5") as error:
        RayExecutor(plans, Resources(cpus_per_site=1, gpus_per_site=0))
    assert "Traceback" not in str(error.value)
