"""Twins: methods of which only the strategy differs, so the difference of their scores is due to it."""

from __future__ import annotations

from collections.abc import Iterable

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.science import hashed


def twin_digest(experiment: Experiment, sites: Iterable[str]) -> str:
    """The identity of all that influences a training at these sites, but strategy and data; "" without training."""
    if not experiment.trains:
        return ""
    return hashed({**experiment.training_part(dict.fromkeys(sites, ""), operators=True), "strategy": None})
