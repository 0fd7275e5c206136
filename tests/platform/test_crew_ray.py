import gc
import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_crews import local_cluster, outcome, ray_crew
from tiny import Federation

from fedrecon.platform.crew import InProcessCrew
from fedrecon.platform.crew_ray import RayCrew
from fedrecon.platform.experiment import Resources
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.wire import Reply
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.local import Local

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Four CPUs and two GPUs that are only logical."""
    with local_cluster(num_cpus=4, num_gpus=2):
        yield


@pytest.fixture
def four(consortium: dict[str, Path], tmp_path: Path) -> Federation:
    return Federation(FedAvg(), {**consortium, "west": consortium["north"]}, tmp_path / "memory")


def test_four_sites_share_two_gpus(four: Federation) -> None:
    with ray_crew(four) as crew:
        found = crew.describe()
    assert list(found) == ["north", "middle", "south", "west"]
    assert sorted(one["gpus"] for one in found.values()) == [["0"], ["0"], ["1"], ["1"]]
    assert len({one["pid"] for one in found.values()}) == 4
    assert {one["threads"] for one in found.values()} == {1}
    assert {one["device"] for one in found.values()} == {"cpu"}


@pytest.mark.parametrize(
    ("method", "training", "resources"),
    [
        (FedAvg(), {"optimizer_state": "keep"}, {"cpus_per_site": 1}),
        (Local(), {}, {"cpus_per_site": 0.5, "gpus_per_site": 0}),
    ],
    ids=["fedavg-keep", "local"],
)
def test_the_same_bits_as_in_this_process(
    method: Any, training: dict[str, Any], resources: dict[str, Any], consortium: dict[str, Path], tmp_path: Path
) -> None:
    """On four CPUs; on two they are compared in test_kill.py."""
    here = Federation(method, consortium, tmp_path / "here", training=training)
    there = replace(here, memory=tmp_path / "there")
    rows, expected = outcome(here, here.crew())
    with ray_crew(there, **resources) as crew:
        rows_on_ray, found = outcome(there, crew)
    assert set(expected["memory"]) == set(consortium)
    assert found == expected
    same = ("round", "replied", "restarts", "bytes_up", "bytes_down", "losses")
    assert [[row[k] for k in same] for row in rows_on_ray] == [[row[k] for k in same] for row in rows]


def test_the_order_is_only_read_and_replies_do_not_pile_up(four: Federation) -> None:
    state = four.begin()
    order = four.method.order(state)
    before = hashlib.sha256(order.shared.tobytes()).hexdigest()
    with ray_crew(four) as crew:
        alive = []
        for reply in crew.fit(order):
            assert not np.shares_memory(reply.shared, order.shared)
            assert not reply.shared.flags.writeable
            assert reply.shared.tobytes() != order.shared.tobytes()
            gc.collect()
            alive.append(sum(isinstance(one, Reply) for one in gc.get_objects()))
        again = [reply.shared.tobytes() for reply in crew.fit(order)]
        assert again == [reply.shared.tobytes() for reply in crew.fit(order)]
    assert hashlib.sha256(order.shared.tobytes()).hexdigest() == before
    assert max(alive) <= 2


def test_all_sites_read_one_unchanged_object(four: Federation) -> None:
    """What Ray shares is read-only, and a fit leaves it as it was."""
    import ray

    order = four.method.order(four.begin())
    with ray_crew(four) as crew:
        reference = ray.put(order)
        stored = ray.get(reference)
        before = stored.shared.tobytes()
        assert not stored.shared.flags.writeable
        assert len(list(crew._each("fit", (reference,), 1))) == 4
        assert stored.shared.tobytes() == before


def test_a_tuned_site_that_comes_back_is_tuned(consortium: dict[str, Path], tmp_path: Path) -> None:
    from fedrecon.sites.classical.tv import TV

    fed = Federation(FedAvg(), consortium, tmp_path)
    plans = [replace(plan, network=None, reconstructor=TV()) for plan in fed.plans()]
    order, here, crew = fed.method.order(fed.begin()), InProcessCrew(plans), RayCrew(plans, Resources())
    try:
        assert {n: one["chosen"] for n, one in here.tune().items()} == {
            n: one["chosen"] for n, one in crew.tune().items()
        }
        kill(crew.describe()["middle"]["pid"])
        time.sleep(1.0)
        expected = [one.columns["psnr" if "psnr" in one.columns else "ssim"] for one in here.evaluate(order, "test")]
        found = [one.columns["psnr" if "psnr" in one.columns else "ssim"] for one in crew.evaluate(order, "test")]
    finally:
        crew.close()
    assert found == expected
    assert crew.restarts == 1


def kill(process: int) -> None:
    import os
    import signal

    os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        ({"gpus_per_site": 4}, "site 'north' cannot be placed.*GPU: asked 4, its largest node has 2"),
        ({"cpus_per_site": 64}, "site 'north' cannot be placed.*CPU: asked 64, its largest node has 4"),
        ({"cpus_per_site": 2}, "site 'south' cannot be placed.*full with the other sites"),
    ],
)
def test_what_cannot_be_had_is_refused_at_once(four: Federation, resources: dict[str, Any], says: str) -> None:
    start = time.monotonic()
    with pytest.raises(RunError, match=says):
        RayCrew(four.plans(), Resources(**resources))
    assert time.monotonic() - start < 5


def test_one_and_a_half_gpus_are_the_users_mistake(four: Federation) -> None:
    with pytest.raises(InputError, match="gpus_per_site is 1.5"):
        RayCrew(four.plans(), Resources(gpus_per_site=1.5))


def test_a_cluster_that_others_fill_is_named_in_time(four: Federation) -> None:
    import ray

    class Other:
        def ready(self) -> bool:
            return True

    other = ray.remote(Other).options(num_cpus=3).remote()
    ray.get(other.ready.remote())
    try:
        start = time.monotonic()
        with pytest.raises(RunError, match=r"cannot be placed .*waited .*CPU: asked 1, free on a node are 0"):
            RayCrew(four.plans(), Resources(cpus_per_site=1, start_timeout=4))
        assert 4 <= time.monotonic() - start < 25
    finally:
        ray.kill(other)


def test_a_shard_that_is_not_there_on_the_node_is_named(four: Federation, tmp_path: Path) -> None:
    plans = four.plans()
    plans[1] = replace(plans[1], shards={"middle": str(tmp_path / "nowhere" / "middle.h5")})
    with pytest.raises(RunError, match=r"site 'middle': .*nowhere/middle\.h5") as error:
        RayCrew(plans, Resources())
    assert "Traceback" not in str(error.value)


def test_an_address_where_nothing_answers_is_refused_in_time() -> None:
    from fedrecon.platform.crew_ray import _check_answers

    start = time.monotonic()
    with pytest.raises(RunError, match=r"no Ray cluster answers at '127\.0\.0\.1:9'"):
        _check_answers("127.0.0.1:9")
    assert time.monotonic() - start < 10


def test_a_reply_that_is_no_number_is_refused_by_site_and_round(consortium: dict[str, Path], tmp_path: Path) -> None:
    fed = Federation(FedAvg(), consortium, tmp_path, training={"optimizer": "sgd", "learning_rate": 1e30})
    with ray_crew(fed) as crew, pytest.raises(RunError, match=r"site 'north', round \d: replied with"):
        fed.train(crew)
