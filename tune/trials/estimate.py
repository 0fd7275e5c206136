"""A rough estimate of the duration of a sweep before it starts.

A few slices of each kind of training are timed on this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace

from fedrecon.platform.consortium.budget import budgets
from fedrecon.platform.consortium.shards import is_here
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
            pace = _pace(planner, trial) if len(known) < KINDS else sum(known) / len(known)
            if pace is None:
                return None
            paces[kind] = pace
        slices = _per_round(planner, trial)
        times = 1 if experiment.method.network_kind == "prior" else experiment.rounds // experiment.evaluation.every
        scored = planner.slices(trial, "validation") * times + planner.slices(trial, "test")
        scored *= 8 if experiment.evaluation.self_ensemble else 1
        work = experiment.method.scoring_cost() * scored + (
            0 if trial.training in trained else slices * experiment.rounds
        )
        trained.add(trial.training)
        total += paces[kind] * work
    return total / max(at_once, 1)


def _per_round(planner: Planner, trial: Trial) -> int:
    """The number of slices that all members together train on in one round."""
    found = budgets(trial.experiment, planner.shards(trial.experiment)).values()
    return round(sum(one.slices for one in found) / max(trial.experiment.rounds, 1))


def _pace(planner: Planner, trial: Trial) -> float | None:
    """Seconds of training per slice, measured at the first member whose shards are all here; None without one."""
    import torch

    from fedrecon.platform.consortium.network import images, site_plan
    from fedrecon.sites.member.site import Site

    experiment, shards = trial.experiment, planner.shards(trial.experiment)
    roster = experiment.method.roster(list(shards)).items()
    member, held = next((one for one in roster if all(is_here(shards[name]) for name in one[1])), (None, ()))
    if member is None:
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(experiment.resources.threads)
    try:
        one_epoch = experiment.training.model_copy(update={"local_epochs": 1, "local_steps": None})
        plan = site_plan(
            experiment,
            images(shards, experiment.scale),
            member,
            {name: str(shards[name].path) for name in held},
            {name: experiment.operator_at(name) for name in held},
            training=one_epoch,
            reconstructor=None,
            sample=2 * experiment.training.batch_size,
        )
        site = Site(plan)
        first = experiment.method.begin(site.parameters.shared.detach().cpu().numpy().copy())
        # The request is for the last round, because the first rounds of a method may train in another way.
        request = replace(experiment.method.request(first), round=max(experiment.rounds, 1))
        site.fit(request)
        start = time.perf_counter()
        reply = site.fit(request)
        seen = min(reply.n_slices, reply.steps * experiment.training.batch_size)
        return (time.perf_counter() - start) / max(seen, 1)
    finally:
        torch.set_num_threads(before)
