"""THE round loop: one loop for every strategy and every executor. A resumed run takes the same path as a new one."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fedrecon.platform.config.resources import DEAD, UNSCORED
from fedrecon.platform.federation.attendance import Attendance
from fedrecon.platform.federation.recorder import Round, ValidationResult
from fedrecon.platform.federation.reply_gate import SHARED, ReplyGate, check_merged
from fedrecon.platform.federation.scorer import Scorer

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.execution.executor import Executor
    from fedrecon.platform.federation.recorder import CommittedRound, Recorder
    from fedrecon.platform.federation.score_gate import ScoreGate
    from fedrecon.sites.wire import State, TrainReply


def federate(
    experiment: Experiment,
    executor: Executor,
    gate: ScoreGate,
    record: Recorder,
    state: State,
    n_slices: Mapping[str, int],
) -> State:
    """Trains from ``state`` to the experiment's last round without a pause; see :func:`rounds`."""
    training = rounds(experiment, Scorer(executor, experiment.method, gate), record, state, n_slices)
    while True:
        try:
            next(training)
        except StopIteration as end:
            last: State = end.value
            return last


def rounds(
    experiment: Experiment,
    scorer: Scorer,
    record: Recorder,
    state: State,
    n_slices: Mapping[str, int],
    attendance: Attendance | None = None,
) -> Generator[CommittedRound, None, State]:
    """Trains from ``state`` to the experiment's last round. The generator pauses after each committed round.

    Args:
        scorer: the scorer; its executor also trains.
        record: the recorder, which commits each round.
        n_slices: number of training slices of every member.
        attendance: who misses a round, and who missed it before; None keeps that in memory.

    Yields:
        each round that was committed.

    Returns:
        the state after the last round.

    Raises:
        RunError: a site stays dead, fails, or replies with what :class:`ReplyGate` refuses.
    """
    strategy, personal, executor = experiment.method, experiment.personalise, scorer.executor
    attendance = attendance or Attendance(None, list(n_slices))
    while state.round < experiment.rounds and not record.ended:
        start, restarts = time.perf_counter(), executor.restarts
        request = replace(strategy.request(state), kept=record.kept.get("standing", {}))
        local = personal is not None and personal.local(request.round, experiment.rounds)
        if local:
            request = replace(request, extra={})
        before, absent = attendance.missed.get(str(request.round), {}), attendance.absent(request.round)
        asked = [one for one in executor.members if one not in absent]
        executor.waited.clear()
        gone = ChainMap(executor.dead, executor.missed)
        sizes = {SHARED: 0} if local else strategy.reply_sizes(request)
        gate = ReplyGate(request, sizes, asked, gone, n_slices)
        replies, passed = gate.checked(executor.fit(request, absent, gate.reader)), gate.passed
        merged = _without_merge(state, replies) if local else strategy.merge(state, replies, n_slices)
        state = check_merged(merged, state, strategy).owned()
        gate.check_merge(replies, state, strategy)
        seconds = time.perf_counter() - start
        away = [one for one in n_slices if one not in passed.members]
        missed = {one: before.get(one) or executor.missed.get(one, DEAD) for one in away}
        validated = ValidationResult()
        due = experiment.scores_due(state.round)
        if due:
            validated = scorer.validation(state, state.round == experiment.rounds)
        # Before the tracker hears of the round: if it is trained again, the same members are left out.
        unscored = dict.fromkeys((one for one in executor.dead if one not in missed), UNSCORED)
        attendance.note(state.round, missed | unscored)
        finished = Round(
            number=state.round,
            replied=tuple(passed.members),
            restarts=executor.restarts - restarts,
            seconds=seconds,
            bytes_up=passed.bytes_up,
            bytes_down=request.nbytes * len(passed.members),
            losses=passed.losses,
            extra_up=passed.extra_up,
            extra_down=(request.nbytes - request.shared.nbytes) * len(passed.members),
            missed=missed,
            waited=dict(executor.waited),
            usage=passed.usage,
        )
        committed = record.commit(finished, state, validated)
        if due:
            record.picture(state.round, scorer.picture(state, validated.pictures))
        yield committed
    return state


def _without_merge(state: State, replies: Iterable[TrainReply]) -> State:
    """The state after a local round: the sites have gone on, and what they share stays as it is."""
    replied = {reply.site: reply.round for reply in replies}
    if not replied:
        raise ValueError("no member replied")
    return state.next(state.shared, state.extra, replied)
