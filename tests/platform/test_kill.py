"""A site's process dies with kill -9: it comes back and the bits stay; or it stays dead, and nobody hides it.

A process that imports torch is four CPU-seconds: one that outlived a test serves the next that can use it.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusters import local_cluster
from drivers import ROUNDS, experiment, fair
from memory_store import MemoryStore
from ray_executors import killed_in_fit, memory_bits, outcome, ray_executor
from test_training_run import bits as run_bits
from test_training_run import finish
from tiny import Commits, Federation, bits

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.execution.liveness import Patience
from fedrecon.platform.execution.site_actor import ActorPool
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import steps
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.sites.errors import RunError
from fedrecon.strategies import STRATEGIES
from fedrecon.strategies.fedavg import FedAvg

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two CPUs."""
    with local_cluster(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[ActorPool]:
    """The actors of sites that did not die, for the next test that asks for the same ones."""
    pool = ActorPool()
    yield pool
    pool.close()


class Impatient(Patience):
    def limit(self, tries: int) -> float:
        return 60.0 if tries else 4.0


@pytest.mark.kill
def test_a_site_that_dies_or_is_stopped_comes_back_with_the_same_bits(
    consortium: dict[str, Path], tmp_path: Path, pool: ActorPool
) -> None:
    """Killed in a fit of the second round, and again between two rounds; then SIGSTOP in a fit of the fourth.

    A stopped process lives and never answers; its memory of the round before is on disk. On two CPUs, against this
    process. FedPer with kept moments: the site has a shared part, a private part and an optimiser to come back with.
    """
    faults = {2: signal.SIGKILL, 3: None, 4: signal.SIGSTOP}  # None: killed between rounds
    training = {"optimizer_state": "keep", "local_epochs": 20}
    sites = {name: consortium[name] for name in ("north", "middle")}
    here, there = (
        Federation(STRATEGIES["fedper"](), sites, tmp_path / name, training=training, rounds=4)
        for name in ("here", "there")
    )
    _, expected = outcome(here, here.executor())
    record, lines = Commits(None), list[str]()
    with ray_executor(there, pool, cpus_per_site="auto") as executor:
        executor._watch.say = lines.append
        state = there.begin()
        for number in (1, 2, 3, 4):
            there = replace(there, rounds=number)
            process = executor.describe()["middle"].pid
            fault = faults.get(number)
            if fault == signal.SIGSTOP:
                executor._watch.patience = Impatient(first=2.0)  # only now: a process that comes back loads torch
            if number in faults and fault is None:
                os.kill(process, signal.SIGKILL)
            with killed_in_fit(process, fault) if fault else nullcontext():
                state = there.train(executor, record, state)
            assert (executor.describe()["middle"].pid != process) == (number in faults)
        scores = executor.evaluate(there.method.request(state), "test")
    assert [one.restarts for one in record.rounds] == [number in faults for number in (1, 2, 3, 4)]
    assert {one.replied for one in record.rounds} == {tuple(sites)}
    assert "middle" in record.rounds[3].waited
    assert [line.partition(":")[0] for line in lines] == [f"site 'middle', round {number}" for number in faults]
    assert bits(state) == expected["state"]
    assert memory_bits(there.memory, 4) == expected["memory"] != {}
    assert [(one.site, {k: v for k, v in one.columns.items() if k != "seconds"}) for one in scores] == expected[
        "scores"
    ]


@pytest.mark.kill
@pytest.mark.parametrize(("name", "members"), [("personal", ("north", "middle")), ("patient", ("north",))])
def test_the_keys_of_fair_comparisons_leave_the_same_bits_on_ray_and_after_deaths(
    consortium: dict[str, Path], tmp_path: Path, pool: ActorPool, name: str, members: tuple[str, ...]
) -> None:
    """A run on Ray is left after the third round, and ends in this process; with two sites one dies before that round.

    The third round is the first local one of ``personal`` and the best one of ``patient``; both end with the fourth.
    """
    sites, start = {one: consortium[one] for one in members}, {}

    def course(folder: str, given: dict[str, Any], executor: str = "in-process") -> Any:
        context = RunContext(workspace=tmp_path / folder, executor=executor, store=MemoryStore(), pool=pool)
        return steps(Experiment.read(given), context)

    (tmp_path / "calm").mkdir()
    if name == "personal":
        start["start"] = finish(course("calm", experiment(sites, "fedavg", rounds=1)))[1].digest
    shutil.copytree(tmp_path / "calm", tmp_path / "stormy")
    given = {**fair(sites, name, **start), "resources": {"cpus_per_site": 1}}
    rounds, calm = finish(course("calm", given))
    there = course("stormy", given, "actors")
    assert [next(there) for _ in range(2)] == rounds[:2]
    if "middle" in members:
        noted = tmp_path / "stormy" / "runs" / calm.digest / "environment.json"
        os.kill(json.loads(noted.read_text())["members"]["middle"]["pid"], signal.SIGKILL)
    assert next(there) == rounds[2]
    there.close()
    rest, result = finish(course("stormy", given))
    assert (rest, result.resumed_from, result.rounds) == (rounds, 3, 4)
    kept = ("rounds", "kept_round", "sites", "mean", "validation")
    assert [getattr(result, key) for key in kept] == [getattr(calm, key) for key in kept]
    here, left = (tmp_path / one for one in ("calm", "stormy"))
    assert run_bits(left, result) == run_bits(here, calm)
    memories = [memory_bits(one / "runs" / calm.digest / "private", 4) for one in (here, left)]
    assert memories[0] == memories[1] != {}


LOST_FOR_GOOD = {"max_restarts": 0, "cpus_per_site": 0.5}


def test_with_min_sites_the_run_goes_on_and_says_who_replied(
    consortium: dict[str, Path], tmp_path: Path, pool: ActorPool
) -> None:
    """And the mean is over those that did, with their weights scaled to one."""
    given = experiment(consortium, "fedavg", local_epochs=20)
    given["resources"] = {**LOST_FOR_GOOD, "min_sites": 2}
    course = steps(Experiment.read(given), RunContext(workspace=tmp_path, store=MemoryStore(), pool=pool))
    next(course)
    (noted,) = tmp_path.glob("runs/*/environment.json")
    with killed_in_fit(json.loads(noted.read_text())["members"]["middle"]["pid"]):
        next(course)
    _, result = finish(course)
    assert result.missing_sites == ("middle",)
    assert set(result.sites) == {"north", "south"}
    assert result.rounds == ROUNDS
    found = Checkpoints(next(tmp_path.glob("runs/*/checkpoints"))).latest()
    assert found is not None
    replied = [row["replied"] for row in found[1]["rounds"]]
    assert replied == [["middle", "north", "south"]] + [["north", "south"]] * (ROUNDS - 1)
    assert found[0].standing == {"middle": 1, "north": ROUNDS, "south": ROUNDS}


def test_a_site_that_stays_dead_stops_the_run_by_name(
    consortium: dict[str, Path], tmp_path: Path, pool: ActorPool
) -> None:
    fed = Federation(FedAvg(), {"north": consortium["north"]}, tmp_path, training={"local_epochs": 20})
    record = Commits(None)
    with ray_executor(fed, pool, **LOST_FOR_GOOD) as executor:
        process = executor.describe()["north"].pid
        with (
            killed_in_fit(process),
            pytest.raises(
                RunError, match=r"site 'north', round 1: stays dead.*resources\.min_sites is not set"
            ) as error,
        ):
            fed.train(executor, record)
    assert record.rounds == []
    assert len(str(error.value)) < 600
