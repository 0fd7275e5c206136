"""Ray with a clock of its own, for laws of the executor that need no process: time is a number here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

from fedrecon.platform.config.resources import Resources
from fedrecon.platform.execution import ray_executor
from fedrecon.platform.execution.liveness import Patience, Watch
from fedrecon.platform.execution.ray_executor import RayExecutor
from fedrecon.platform.execution.transport import RayStoreTransport
from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.sites.wire import Description, TrainReply, TrainRequest

NAMES = ("a", "b", "c")
N_SLICES = {"a": 6, "b": 2, "c": 4}
FOR_EVER = float("inf")


class FakeRay:
    """Ray with a clock of its own: an actor answers after so many seconds of it, and a kill makes it come back."""

    def __init__(self, **takes: list[float]) -> None:
        self.now, self.takes, self.killed, self.restarts = 0.0, takes, list[str](), 10
        self.answers: dict[Any, tuple[float, Any]] = {}
        self.travels: dict[str, float] = {}
        """Seconds that an answer takes to come here, by actor."""
        self.fetched: list[str] = []
        """Whose answers were fetched."""
        self.puts: list[Any] = []
        self.taken, self.most_out = 0, 0

    def call(self, name: str, value: Any) -> object:
        reference = (name, len(self.answers))
        queue = self.takes.get(name, [1.0])
        takes = queue.pop(0) if len(queue) > 1 else queue[0]
        self.answers[reference] = (self.now + takes, value)
        self.most_out = max(self.most_out, len(self.answers) - self.taken)
        return reference

    def get(self, reference: Any, timeout: float = FOR_EVER) -> Any:
        at, value = self.answers[reference]
        at += self.travels.get(reference[0], 0.0)
        if at > self.now + timeout:
            assert timeout < FOR_EVER, "it would wait for ever"
            self.now += timeout
            raise GetTimeoutError
        self.now, self.taken = max(self.now, at), self.taken + 1
        if isinstance(value, Exception):
            raise value
        return value

    def wait(
        self, references: list[Any], num_returns: int, timeout: float, fetch_local: bool = True
    ) -> tuple[list[Any], list[Any]]:
        done = [one for one in references if self.answers[one][0] <= self.now + timeout]
        self.fetched += [one[0] for one in done if fetch_local]
        return done, [one for one in references if one not in done]

    def put(self, value: Any) -> Any:
        self.puts.append(value)
        return value

    def kill(self, actor: Any, no_restart: bool) -> None:
        assert not no_restart
        self.killed.append(actor.name)
        self.restarts -= 1
        error = ActorDiedError() if self.restarts < 0 else ActorUnavailableError("killed", None)
        for reference, (at, _) in self.answers.items():
            if reference[0] == actor.name and at > self.now:
                self.answers[reference] = (self.now + 6, error)


class FakeActor:
    def __init__(self, ray: FakeRay, name: str, number: int) -> None:
        self.ray, self.name, self.number = ray, name, number
        self.call = SimpleNamespace(options=lambda name: SimpleNamespace(remote=self.answer))
        self.__ray_ready__ = SimpleNamespace(remote=lambda: ray.call("ready", True))

    def answer(self, tenancy: Any, changes: Any, method: str, *arguments: Any) -> object:
        if method == "describe":
            found = Description(self.name, 1, "cpu", 1, "torch", "AVX2", {})
            return self.ray.call(self.name, (1, "node", found))
        request: TrainRequest = arguments[0]
        value = request.shared + np.float32(self.number)
        reply = TrainReply(self.name, request.round, N_SLICES.get(self.name, 1), value, {}, {"loss": 0.5})
        return self.ray.call(self.name, (1, "node", reply))


def executor_on(
    monkeypatch: pytest.MonkeyPatch,
    events: Path,
    ray: FakeRay,
    patience: Patience | None = None,
    names: Sequence[str] = NAMES,
    **resources: Any,
) -> Any:
    """An executor on a fake; ``said`` has the lines that stay and ``shown`` the others."""
    one: Any = object.__new__(RayExecutor)
    one.said, one.shown = [], []
    watch = Watch(patience or Patience(), one.shown.append, one.said.append, events, lambda: ray.now)
    one._prepare(Resources(**resources), WireLog(), watch)
    one.transport = RayStoreTransport()
    one._changes, one._token = {name: [] for name in names}, "executor"
    one._plans = dict.fromkeys(names, SimpleNamespace(shards={}))
    one.actors = {name: FakeActor(ray, name, number) for number, name in enumerate(names, start=1)}
    for name in ("get", "wait", "kill"):
        monkeypatch.setattr(ray_executor.ray, name, getattr(ray, name))
    monkeypatch.setattr(ray_executor.ray, "put", ray.put)
    monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: ray.now, sleep=lambda _: None))
    return one
