"""THE round loop: one for every strategy and every crew. Resuming is the same path as starting."""

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
class _Fold:
    """Watches the replies pass by on their way into the merge."""

    declared: tuple[str, ...] = ()
    sound: list[str] = field(default_factory=list)
    bytes_up: int = 0
    extra_up: int = 0
    losses: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def watch(self, replies: Iterable[TrainReply]) -> Iterator[TrainReply]:
        for reply in replies:
            refuse_undeclared(reply, self.declared)
            refuse_unsound(reply)
            self.sound.append(reply.site)
            self.bytes_up += reply.nbytes
            self.extra_up += reply.nbytes - reply.shared.nbytes
            self.losses[reply.site] = reply.losses
            yield reply


def federate(
    experiment: Experiment, executor: Executor, record: Recorder, state: State, n_slices: Mapping[str, int]
) -> State:
    """Trains from ``state`` to the experiment's last round; see :func:`rounds`."""
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
    """Trains from ``state`` to the experiment's last round, and stands still after each committed one.

    Args:
        scorer: of the crew that trains. record: commits each round.
        n_slices: training slices of every member.

    Returns:
        the state after the last round.

    Raises:
        RunError: a site stays dead, fails, or replies with what is no number.
    """
    strategy, executor = experiment.method, scorer.executor
    while state.round < experiment.rounds:
        start, restarts, fold = time.perf_counter(), executor.restarts, _Fold(strategy.replies)
        request = strategy.request(state)
        state = strategy.merge(state, fold.watch(executor.fit(request)), n_slices).owned()
        seconds = time.perf_counter() - start
        finished = Round(
            number=state.round,
            replied=tuple(fold.sound),
            restarts=executor.restarts - restarts,
            seconds=seconds,
            bytes_up=fold.bytes_up,
            bytes_down=request.nbytes * len(fold.sound),
            losses=fold.losses,
            extra_up=fold.extra_up,
            extra_down=(request.nbytes - request.shared.nbytes) * len(fold.sound),
        )
        seen = ValidationResult()
        if experiment.scores_due(state.round):
            seen = scorer.validation(state, state.round == experiment.rounds, experiment.evaluation.panels is not False)
        yield record.commit(finished, state, seen)
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
    """Refuses a reply that holds NaN or infinity, by name; the sum of a sound vector is finite.

    Raises:
        RunError: names the site, the round and what was not finite.
    """
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
