"""A rough estimate of the duration of a sweep before it starts.

A few slices of each kind of training are timed on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from fedrecon.platform.consortium.budget import budgets
from fedrecon.platform.consortium.pace import seconds_per_slice, work
from fedrecon.tune.trials.planner import Planner, Trial

KINDS = 6
"""The number of kinds of training that are timed. Each further kind gets the mean time of these."""

TRIAL = 1.5
"""Seconds that a trial takes beside training and scoring: to open shards, to record, to draw images."""


def seconds(planner: Planner, trials: Iterable[Trial], at_once: int) -> float | None:
    """The wall time of the trials on this machine in seconds, with ``at_once`` trials at the same time.

    Networks of full size are trained on a few slices, so the estimate takes a second or two for each kind of training.
    Each training uses the experiment's number of threads. The first measurement is left out, because it includes the
    loading of torch and the first step.

    Returns:
        the seconds; None if the shards for a measurement lie on other nodes.
    """
    paces: dict[str, float] = {}
    total, trained = 0.0, set[str]()
    for trial in trials:
        experiment = trial.experiment
        total += TRIAL
        if not experiment.trains:
            continue
        training = experiment.training
        kind = json.dumps([
            experiment.network, experiment.strategy["name"], training.batch_size, training.patch,
            experiment.operator_at("").group(),
        ])  # fmt: skip
        if kind not in paces:
            known = list(paces.values())
            if len(known) < KINDS:
                pace = seconds_per_slice(experiment, planner.shards(experiment))
            else:
                pace = sum(known) / len(known)
            if pace is None:
                return None
            paces[kind] = pace
        slices = 0 if trial.training in trained else _per_round(planner, trial) * experiment.rounds
        trained.add(trial.training)
        scored = (planner.slices(trial, split) for split in ("validation", "test"))
        total += paces[kind] * work(experiment, slices, *scored)
    return total / max(at_once, 1)


def _per_round(planner: Planner, trial: Trial) -> int:
    """The number of slices that all members together train on in one round."""
    found = budgets(trial.experiment, planner.shards(trial.experiment)).values()
    return round(sum(one.slices for one in found) / max(trial.experiment.rounds, 1))
