"""The pace of a training on this machine, measured with a few slices and a network of full size."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fedrecon.platform.consortium.network import images, site_plan
from fedrecon.platform.consortium.shards import is_here

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.sites.data.shard import Shard


def work(experiment: Experiment, trained: float, validation: int, test: int) -> float:
    """The work of a run, as the number of slices whose training takes as long.

    Args:
        trained: slices that all members train on, over all rounds. validation, test: slices that are scored at a time.
    """
    evaluation, method = experiment.evaluation, experiment.method
    times = 1 if method.is_prior else -(-experiment.rounds // evaluation.every)
    scored = (validation * times + test) * (8 if evaluation.self_ensemble else 1)
    return trained + method.scoring_cost() * scored


def seconds_per_slice(experiment: Experiment, shards: Mapping[str, Shard]) -> float | None:
    """Seconds of training per slice, measured at the first member whose shards are all here; None without one.

    It takes a second or two, with the experiment's number of threads. The first fit is left out, because it includes
    the loading of torch and the first step.
    """
    import torch

    from fedrecon.sites.member.site import Site

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
