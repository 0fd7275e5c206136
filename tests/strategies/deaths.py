"""A training in which nothing may be written to, and whose driver dies before each commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import federation
from tiny import Commits, Federation, freeze, private_bits

from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.platform.execution.wire_log import MakeReader, unread
from fedrecon.platform.federation.recorder import Round
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.sites.wire import State, TrainReply, TrainRequest


class Frozen(InProcessExecutor):
    """As in Ray's store, nothing that crosses may be written to; between the rounds the sites are scored."""

    def fit(
        self, request: TrainRequest, without: Sequence[str] = (), reader: MakeReader = unread
    ) -> Iterator[TrainReply]:
        freeze(request.shared, *request.extra.values())
        if request.round > 1:
            self.evaluate(request, "validation")
        for reply in super().fit(request, without, reader):
            freeze(reply.shared, *reply.extra.values())
            yield reply


class FrozenCommits(Commits):
    """Nor may a state be written to. The last one is kept, committed or not."""

    def commit(self, finished: Round, state: State, seen: Any) -> None:
        freeze(state.shared, *state.extra.values())
        self.last = state
        super().commit(finished, state, seen)


@dataclass(frozen=True)
class Died:
    """What a training left whose driver died.

    Attributes:
        uncommitted: the state and the private memory before the last commit, when all rounds had been trained without a
            pause.
        starts: the round that each start found.
        executor: the one of the last start, which came to the end.
        resumed: the state of the end.
    """

    one: Federation
    uncommitted: tuple[State, dict[str, dict[str, bytes]]]
    starts: list[int]
    executor: InProcessExecutor
    resumed: State


def die(name: str, paths: Mapping[str, Path], folder: Path, rounds: int) -> Died:
    """Trains a case. Its driver dies before each commit, and once when only one member has trained the second round."""
    torch.manual_seed(99)  # no global generator has a say
    one, commits = federation(name, paths, folder / "memory", rounds=rounds, scored=True), folder / "commits"
    Checkpoints(commits).save(one.begin(), {})
    starts = []
    for number in range(1, rounds + 1):
        found, _ = Checkpoints(commits).latest()
        starts.append(found.round)
        freeze(found.shared, *found.extra.values())
        executor, record = Frozen(one.plans()), FrozenCommits(commits, dies_at=number)
        with pytest.raises(KeyboardInterrupt):
            one.train(executor, record, found)
        uncommitted = record.last, private_bits(executor)
    found, _ = Checkpoints(commits).latest()
    starts.append(found.round)
    next(one.executor().fit(one.method.request(found)))  # one round is committed, and there is a memory of it
    last = one.executor()
    resumed = replace(one, scored=False).train(last, Commits(commits), found)  # scored it was before the last death
    return Died(one, uncommitted, starts, last, resumed)
