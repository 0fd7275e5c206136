"""A method's network with its first weights, and its parameters in one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedrecon.sites.seeding import seed
from fedrecon.sites.training.parameters import Parameters, Room, initialise

if TYPE_CHECKING:
    from torch import nn


def new_network(method: Any, network: Any, images: Any, experiment_seed: int) -> nn.Module:
    """The network with its first weights. They follow from the seed, so they are the same everywhere."""
    return initialise(lambda: method.build(network, images), seed(experiment_seed, "weights"))


def layout(method: Any, personalise: Any, model: nn.Module, room: Room = lambda _: None) -> Parameters:
    """The parameters of a method's network in one vector; ``personalise`` is the method's local rounds, or None.

    Without local rounds the vector lies in the memory that ``room`` gives, see :class:`Parameters`.
    """
    if personalise is None:
        return Parameters(model, lambda name: method.shares(name, model), room=room)
    return Parameters(model, lambda name: method.shares(name, model), lambda name: personalise.takes(name, model))
