"""THE round loop: one for every strategy and every crew. Resuming is the same path as starting."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.platform.crew import at
from fedrecon.platform.record import Seen
from fedrecon.platform.scorer import Scorer
from fedrecon.sites.errors import RunError

if TYPE_CHECKING:
    from fedrecon.platform.crew import Crew
    from fedrecon.platform.experiment import Experiment
    from fedrecon.platform.record import Committed, Record
    from fedrecon.sites.wire import Reply, State


@dataclass(frozen=True)
class Round:
    """What happened in one committed round.

    Attributes:
        number: 1, 2, ...
        replied: members whose reply was merged, in the order of folding.
        restarts: site processes that died and came back in this round.
        seconds: wall time, scoring not counted. bytes_up, bytes_down: all vectors, all members together.
        extra_up, extra_down: the bytes of these that are not the shared parameters, but what the method sends beside
            them.
        losses: by member and name.
    """

    number: int
    replied: tuple[str, ...]
    restarts: int
    seconds: float
    bytes_up: int
    bytes_down: int
    losses: Mapping[str, Mapping[str, float]]
    extra_up: int = 0
    extra_down: int = 0

    def row(self) -> dict[str, Any]:
        """The round as a row of ``rounds.parquet``."""
        return {
            "round": self.number,
            "replied": list(self.replied),
            "restarts": self.restarts,
            "seconds": self.seconds,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "losses": {member: dict(losses) for member, losses in self.losses.items()},
        }


@dataclass
class _Fold:
    """Watches the replies pass by on their way into the merge."""

    sound: list[str] = field(default_factory=list)
    bytes_up: int = 0
    extra_up: int = 0
    losses: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def watch(self, replies: Iterable[Reply]) -> Iterator[Reply]:
        for reply in replies:
            refuse_unsound(reply)
            self.sound.append(reply.site)
            self.bytes_up += reply.nbytes
            self.extra_up += reply.nbytes - reply.shared.nbytes
            self.losses[reply.site] = reply.losses
            yield reply


def federate(experiment: Experiment, crew: Crew, record: Record, state: State, n_slices: Mapping[str, int]) -> State:
    """Trains from ``state`` to the experiment's last round; see :func:`rounds`."""
    training = rounds(experiment, Scorer(crew, experiment.method), record, state, n_slices)
    while True:
        try:
            next(training)
        except StopIteration as end:
            last: State = end.value
            return last


def rounds(
    experiment: Experiment, scorer: Scorer, record: Record, state: State, n_slices: Mapping[str, int]
) -> Generator[Committed, None, State]:
    """Trains from ``state`` to the experiment's last round, and stands still after each committed one.

    Args:
        scorer: of the crew that trains. record: commits each round.
        n_slices: training slices of every member.

    Returns:
        the state after the last round.

    Raises:
        RunError: a site stays dead, fails, or replies with what is no number.
    """
    strategy, crew = experiment.method, scorer.crew
    while state.round < experiment.rounds:
        start, restarts, fold = time.perf_counter(), crew.restarts, _Fold()
        order = strategy.order(state)
        state = strategy.merge(state, fold.watch(crew.fit(order)), n_slices).owned()
        seconds = time.perf_counter() - start
        finished = Round(
            number=state.round,
            replied=tuple(fold.sound),
            restarts=crew.restarts - restarts,
            seconds=seconds,
            bytes_up=fold.bytes_up,
            bytes_down=order.nbytes * len(fold.sound),
            losses=fold.losses,
            extra_up=fold.extra_up,
            extra_down=(order.nbytes - order.shared.nbytes) * len(fold.sound),
        )
        seen = Seen()
        if experiment.scores_due(state.round):
            seen = scorer.validation(state, state.round == experiment.rounds, experiment.evaluation.panels)
        yield record.commit(finished, state, seen)
    return state


def refuse_unsound(reply: Reply) -> None:
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
                at(
                    reply.site,
                    reply.round,
                    f"replied with NaN or infinity in {count} of {values.size} {name}; refused. ",
                )
                + "A lower training.learning_rate is the usual remedy."
            )
    for name, value in reply.losses.items():
        if not math.isfinite(value):
            raise RunError(at(reply.site, reply.round, f"replied with {name} = {value}; refused."))
