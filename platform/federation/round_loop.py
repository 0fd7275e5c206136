"""THE round loop: one loop for every strategy and every executor. A resumed run takes the same path as a new one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedrecon.platform.federation.recorder import Round, ValidationResult
from fedrecon.platform.federation.reply_gate import ReplyGate, check_merged
from fedrecon.platform.federation.scorer import Scorer

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.execution.executor import Executor
    from fedrecon.platform.federation.recorder import CommittedRound, Recorder
    from fedrecon.sites.wire import State, TrainReply


@dataclass
class _ReplyCounter:
    """Counts the replies on their way into the merge."""

    members: list[str] = field(default_factory=list)
    bytes_up: int = 0
    extra_up: int = 0
    losses: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def count(self, replies: Iterable[TrainReply]) -> Iterator[TrainReply]:
        for reply in replies:
            self.members.append(reply.site)
            self.bytes_up += reply.nbytes
            self.extra_up += reply.nbytes - reply.shared.nbytes
            self.losses[reply.site] = reply.losses
            yield reply


def federate(
    experiment: Experiment, executor: Executor, record: Recorder, state: State, n_slices: Mapping[str, int]
) -> State:
    """Trains from ``state`` to the experiment's last round without a pause; see :func:`rounds`."""
    training = rounds(experiment, Scorer(executor, experiment.method), record, state, n_slices)
    while True:
        try:
            next(training)
        except StopIteration as end:
            last: State = end.value
            return last


def rounds(
    experiment: Experiment, scorer: Scorer, record: Recorder, state: State, n_slices: Mapping[str, int]
) -> Generator[CommittedRound, None, State]:
    """Trains from ``state`` to the experiment's last round. The generator pauses after each committed round.

    Args:
        scorer: the scorer; its executor also trains.
        record: the recorder, which commits each round.
        n_slices: number of training slices of every member.

    Yields:
        each round that was committed.

    Returns:
        the state after the last round.

    Raises:
        RunError: a site stays dead, fails, or replies with what :class:`ReplyGate` refuses.
    """
    strategy, executor = experiment.method, scorer.executor
    while state.round < experiment.rounds:
        start, restarts, counted = time.perf_counter(), executor.restarts, _ReplyCounter()
        request = strategy.request(state)
        gate = ReplyGate(request, strategy.reply_sizes(request), executor.members, executor.dead, n_slices)
        replies = counted.count(gate.checked(executor.fit(request)))
        state = check_merged(strategy.merge(state, replies, n_slices), state).owned()
        seconds = time.perf_counter() - start
        finished = Round(
            number=state.round,
            replied=tuple(counted.members),
            restarts=executor.restarts - restarts,
            seconds=seconds,
            bytes_up=counted.bytes_up,
            bytes_down=request.nbytes * len(counted.members),
            losses=counted.losses,
            extra_up=counted.extra_up,
            extra_down=(request.nbytes - request.shared.nbytes) * len(counted.members),
        )
        validated = ValidationResult()
        if experiment.scores_due(state.round):
            panels = experiment.evaluation.panels is not False
            validated = scorer.validation(state, state.round == experiment.rounds, panels)
        yield record.commit(finished, state, validated)
    return state
