"""Twins: methods of which only the strategy differs, so the difference of their scores is due to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.science import hashed


def twin_digest(experiment: Experiment, sites: Iterable[str], searched: Sequence[str] = ()) -> str:
    """The identity of all that influences a network and its scores at these sites, but strategy and data.

    It is "" without training.

    Args:
        searched: keys of the training that were searched for each method, as in a study's ``searched``; left out.
    """
    if not experiment.trains:
        return ""
    part = experiment.training_part(dict.fromkeys(sites, ""), operators=True)
    training = {key: value for key, value in part["training"].items() if f"training.{key}" not in searched}
    averaged = {"self_ensemble": True} if experiment.evaluation.self_ensemble else {}  # it raises a score by itself
    return hashed({**part, **averaged, "training": training, "strategy": None})
