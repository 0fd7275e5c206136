"""The budget of a training: how many updates each member takes, and how often it sees each of its slices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.training.batches import Slices


@dataclass(frozen=True)
class Budget:
    """What one member trains in all rounds together.

    Attributes:
        updates: the number of optimiser steps. passes: how often each training slice is seen, in the mean.
        slices: the number of slices that are trained on, counted each time.
    """

    updates: int
    passes: float
    slices: int

    def __str__(self) -> str:
        return f"{self.updates:,} updates, {self.passes:.3g} passes"


def spent(members: Iterable[Budget]) -> dict[str, str]:
    """``updates`` and ``passes`` of all members as texts, each as one number or as a range; empty without members."""
    members = list(members)

    def between(values: list[float], shown: str) -> str:
        ends = dict.fromkeys(format(one, shown) for one in (min(values), max(values)))
        return " to ".join(ends)

    if not members:
        return {"updates": "", "passes": ""}
    updates, passes = [float(one.updates) for one in members], [one.passes for one in members]
    return {"updates": between(updates, ",.0f"), "passes": between(passes, ".3g")}


def budgets(
    experiment: Experiment, shards: Mapping[str, Shard], rounds: Mapping[str, int] | None = None
) -> dict[str, Budget]:
    """The budget of each member; empty if nothing is trained. Only the labels of the shards are read.

    Args:
        rounds: the number of rounds to which each member replied: a member may miss some, and ``training.patience`` may
            end the training early. None takes the rounds of the experiment.
    """
    training, found = experiment.training, {}
    for member, slices in _slices(experiment, shards):
        per_pass = max(slices.per_pass(training.batch_size), 1)
        of_sites = slices.per_pass_of_sites(training.batch_size)
        replied = training.rounds if rounds is None else rounds.get(member, 0)
        updates = replied * experiment.method.updates(training, per_pass, of_sites)
        passes = updates / per_pass
        found[member] = Budget(updates, passes, round(passes * len(slices)))
    return found


def warnings(experiment: Experiment, shards: Mapping[str, Shard]) -> Sequence[str]:
    """The lines of :meth:`fedrecon.strategies.Strategy.warnings`. Only the labels of the shards are read."""
    training, local = experiment.training, experiment.personalise
    per_pass = {member: one.per_pass(training.batch_size) for member, one in _slices(experiment, shards)}
    shared = training.model_copy(update={"rounds": training.rounds - local.rounds}) if local else training
    return experiment.method.warnings(shared, per_pass) if per_pass else ()


def _slices(experiment: Experiment, shards: Mapping[str, Shard]) -> Iterator[tuple[str, Slices]]:
    """The training slices of each member; nothing if nothing is trained."""
    if not experiment.trains:
        return
    import torch

    from fedrecon.sites.acquisition.undersampling import Undersampling
    from fedrecon.sites.training.batches import Slices

    limits = {site: experiment.training.slices_at(site) for site in shards}
    for member, held in experiment.method.roster(list(shards)).items():
        known = experiment.method.trains_on_operator
        operators = {site: experiment.operator_at(site) if known else Undersampling.whole() for site in held}
        yield member, Slices({site: shards[site] for site in held}, operators, "train", torch.device("cpu"), limits)
