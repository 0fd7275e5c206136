"""THE round loop: one loop for every strategy and every executor. A resumed run takes the same path as a new one."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedrecon.platform.federation.recorder import Round, ValidationResult
from fedrecon.platform.federation.scorer import Scorer
from fedrecon.sites.errors import RunError, at_site

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.execution.executor import Executor
    from fedrecon.platform.federation.recorder import CommittedRound, Recorder
    from fedrecon.sites.wire import State, TrainReply


@dataclass
class _ReplyCounter:
    """Checks and counts the replies on their way into the merge."""

    declared: tuple[str, ...] = ()
    members: list[str] = field(default_factory=list)
    bytes_up: int = 0
    extra_up: int = 0
    losses: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def count(self, replies: Iterable[TrainReply]) -> Iterator[TrainReply]:
        for reply in replies:
            refuse_undeclared(reply, self.declared)
            refuse_unsound(reply)
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
        RunError: a site stays dead, fails, or replies with NaN or infinity.
    """
    strategy, executor = experiment.method, scorer.executor
    while state.round < experiment.rounds:
        start, restarts, counted = time.perf_counter(), executor.restarts, _ReplyCounter(strategy.replies)
        request = strategy.request(state)
        state = strategy.merge(state, counted.count(executor.fit(request)), n_slices).owned()
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


def refuse_undeclared(reply: TrainReply, declared: Sequence[str]) -> None:
    """Refuses a reply that carries other vectors than its strategy declares (``Strategy.replies``).

    Raises:
        RunError: names the site, the round and the vectors.
    """
    if more := sorted(set(reply.extra) - set(declared)):
        wanted = ", ".join(declared) or "none"
        message = (
            f"replied with {', '.join(more)} beside the shared parameters; its strategy declares {wanted}. Refused."
        )
        raise RunError(at_site(reply.site, reply.round, message))


def refuse_unsound(reply: TrainReply) -> None:
    """Refuses a reply that holds NaN or infinity.

    Raises:
        RunError: a value is not finite; the message names the site, the round and the vector or loss.
    """
    # A finite sum proves that all values are finite. Only if the sum is not finite are the values looked at one by one.
    vectors = {"shared parameters": reply.shared, **reply.extra}
    for name, values in vectors.items():
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.sum(values, dtype=np.float32))
        if not math.isfinite(total) and not np.isfinite(values).all():
            count = int(np.count_nonzero(~np.isfinite(values)))
            raise RunError(
                at_site(
                    reply.site,
                    reply.round,
                    f"replied with NaN or infinity in {count} of {values.size} {name}; refused. ",
                )
                + "A lower training.learning_rate is the usual remedy."
            )
    for name, value in reply.losses.items():
        if not math.isfinite(value):
            raise RunError(at_site(reply.site, reply.round, f"replied with {name} = {value}; refused."))
