"""Requests that are stored once, calls that go out so many at once, and replies that come ahead of their turn."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_ray import FakeActor, FakeRay, executor_on

from fedrecon.platform.execution import placement, ray_executor, transport
from fedrecon.platform.execution.liveness import LIVENESS, Watch
from fedrecon.platform.execution.ray_executor import AHEAD
from fedrecon.platform.execution.shared_memory import SMALL, PackedMessage
from fedrecon.platform.execution.site_actor import Tenancy, rounds_of
from fedrecon.platform.execution.transport import RayStoreTransport, SharedMemoryTransport, Transport
from fedrecon.sites.wire import State, TrainRequest
from fedrecon.strategies.fedavg import FedAvg

SITES = tuple(f"s{number}" for number in range(8))
SLICES = {name: 3 + number for number, name in enumerate(SITES)}
ARRIVALS = [[1, 1, 1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1], [40, 1, 90, 1, 5, 9, 2, 6]]


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return partial(executor_on, monkeypatch, tmp_path / LIVENESS, names=SITES)


def fake(takes: list[int]) -> FakeRay:
    return FakeRay(**{name: [float(one)] for name, one in zip(SITES, takes, strict=True)})


def request(number: int = 1) -> TrainRequest:
    return TrainRequest(number, np.linspace(-1, 1, 5, dtype=np.float32) / 3)


def test_the_order_of_arrival_changes_no_order_and_no_bit(executor: Any) -> None:
    merged, state = set(), State(0, request().shared)
    for takes in ARRIVALS:
        order, one = [], executor(fake(takes))

        def noted(replies: Any, order: list[str] = order) -> Any:
            for reply in replies:
                order.append(reply.site)
                yield reply

        merged.add(FedAvg().merge(state, noted(one.fit(request())), SLICES).shared.tobytes())
        assert order == list(SITES)
    assert len(merged) == 1


@pytest.mark.parametrize("takes", ARRIVALS)
def test_only_so_many_replies_come_ahead_of_their_turn(executor: Any, takes: list[int]) -> None:
    one, taken = executor(ray := fake(takes)), []
    for reply in one.fit(request()):
        taken.append(reply.site)
        answered = {name for (name, _), (at, _) in ray.answers.items() if at <= ray.now}
        assert set(ray.fetched) - {*taken} == answered & set(SITES[len(taken) : len(taken) + AHEAD])


def test_a_reply_on_its_way_is_named_and_its_site_is_not_ended(executor: Any) -> None:
    one = executor(ray := fake([1] * 8), fit_timeout=45)
    ray.travels = {"s3": 200.0}
    assert [reply.site for reply in one.fit(request())] == list(SITES)
    assert (ray.killed, one.restarts) == ([], 0)
    assert one.shown == [f"waiting for s3, {seconds} s" for seconds in (30, 60, 120)]
    assert one.waited == {"s3": 120.0}


def test_of_many_sites_the_line_names_the_first() -> None:
    now, shown = [0.0], list[str]()
    watch, names = Watch(show=shown.append, clock=lambda: now[0]), [f"s{number}" for number in range(64)]
    watch.ask("fit", 1, names)
    now[0] = 31.0
    assert watch.due(names) == []
    assert shown == [f"waiting for {', '.join(names[:16])} and 48 more, 31 s"]
    assert set(watch.waited) == set(names)


@pytest.mark.parametrize("at_once", [1, 2, 5, 8, 64])
def test_so_many_calls_are_out_at_once(executor: Any, at_once: int) -> None:
    one = executor(ray := fake([4, 1, 3, 1, 2, 1, 1, 1]))
    assert [name for name, _ in one._named("fit", (request(),), 1, at_once=at_once)] == list(SITES)
    assert ray.most_out == min(at_once, len(SITES))
    assert len(ray.answers) == len(SITES)
    again = executor(ray := fake([1] * 8))
    assert len(list(again.fit(request()))) == ray.most_out == len(SITES)


def test_sites_open_their_shards_in_waves_of_the_cpus(executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, opened = executor(ray := fake([2] * 8)), []
    names = iter(SITES)
    made = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: FakeActor(ray, next(names), 1)))
    monkeypatch.setattr(ray_executor.ray, "remote", lambda _: made)
    monkeypatch.setattr(ray_executor, "member_demands", lambda *_: [placement.Demand(name, 0.25, 0) for name in SITES])
    monkeypatch.setattr(ray_executor, "cpus", lambda: 2)
    monkeypatch.setattr(one, "_await_start", lambda *_: None)
    one._pool = None
    one._start([SimpleNamespace(member=name, plugins=()) for name in SITES], (), lambda: opened.append(ray.most_out))
    assert opened == [2] * len(SITES)
    assert list(one.actors) == list(SITES)


@pytest.mark.slow
@pytest.mark.parametrize("made", [RayStoreTransport(), SharedMemoryTransport("here", 1 << 30)], ids=["store", "shared"])
def test_a_request_is_stored_once_for_all_calls_and_only_while_it_lives(
    made: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On many nodes: what is stored once, each node fetches once, and a node that has it serves the others."""
    puts: list[object] = []
    monkeypatch.setattr(transport, "put", lambda _: puts.append(object()) or puts[-1])
    given, other = request(), request()
    for method, arguments in {"fit": (given,), "evaluate": (given, "part 0"), "samples": (given,)}.items():
        delivery = made.send(method, arguments)
        for name in (*SITES, "s3"):  # and again for one that died
            assert delivery.arguments(name) == (puts[0], *arguments[1:])
        delivery.close()
    assert len(puts) == 1
    assert made.send("fit", (other,)).arguments("s0") == (puts[1],)
    assert made.send("fit", (given,)).arguments("s0") == (puts[2],)
    stored = made._stored if isinstance(made, RayStoreTransport) else made.stored  # type: ignore[attr-defined]
    assert stored._reference is puts[2]
    del given, arguments, delivery
    gc.collect()
    assert stored._reference is None


@pytest.mark.parametrize("made", [RayStoreTransport(), SharedMemoryTransport("here", 1 << 30)], ids=["store", "shared"])
def test_what_is_stored_for_all_members_says_of_none_when_it_replied(
    made: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "put", lambda one: one)
    made.note_node("s1", "here", unreachable=False)
    values = np.zeros(SMALL, np.float32)
    for told in (request(), replace(request(), shared=values)):
        told = replace(told, standing={"s0": 2, "s1": 1}, kept={"s1": 1})
        delivery = made.send("evaluate", (told,))
        (common,) = delivery.arguments("s1")
        if isinstance(common, PackedMessage):
            common = common.message
        assert not common.standing
        assert not common.kept
        own = Tenancy("one", None, *rounds_of((told,), "s1")).completed(common)
        assert (own.standing, own.kept) == ({"s1": 1}, {"s1": 1})
        delivery.close()
