"""The network of an experiment, as the driver sees it: what to build, and its parameters' names and first values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedrecon.platform.cohort import images

if TYPE_CHECKING:
    from fedrecon.platform.experiment import Experiment
    from fedrecon.sites.shard import Shard

_KNOWN: set[str] = set()
"""Strategies and networks that fit each other."""


def network_choice(experiment: Experiment) -> Any:
    """The network, or None where nothing is trained."""
    from fedrecon.strategies.networks.network import NetworkChoice

    return NetworkChoice.parse(experiment.network) if experiment.trains else None


def check_network(experiment: Experiment, shards: Mapping[str, Shard]) -> None:
    """Asks the strategy which parameters it shares, of a network that holds no values.

    Raises:
        InputError: it names a part that this network does not have.
    """
    if not experiment.trains:
        return
    import torch

    method, shapes = experiment.method, images(shards, experiment.scale)
    key = json.dumps([experiment.strategy, experiment.network, repr(shapes)], sort_keys=True)
    if key in _KNOWN:  # hundreds of trials of a plan differ in other things
        return
    with torch.device("meta"):
        model = method.build(network_choice(experiment), shapes)
    for name, _ in model.named_parameters():
        method.shares(name, model)
    _KNOWN.add(key)


def network_layout(experiment: Experiment, shards: Mapping[str, Shard]) -> Any:
    """:class:`Parameters` of a new network for these sites, or None where nothing is trained."""
    if not experiment.trains:
        return None
    from fedrecon.sites.parameters import Parameters
    from fedrecon.sites.site import new_network

    method = experiment.method
    model = new_network(method, network_choice(experiment), images(shards, experiment.scale), experiment.seed)
    return Parameters(model, lambda name: method.shares(name, model))
