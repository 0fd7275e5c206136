"""Partial sharing: FedAvg over one part of the network. Each site keeps the other part private."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.errors import InputError, unknown
from fedrecon.strategies.fedavg import FedAvg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import nn


class Partial(FedAvg):
    """The parameters that ``private`` names never leave the site. Its memory keeps them over rounds and restarts.

    This is the base class of FedPer, LG-FedAvg, FedBN and FedMRI. They differ in the part that they keep private, and
    in their additions to the training.

    Attributes:
        private: parts of the network (``encoder``, ``decoder``, ``head``, ``norm``: see the network's ``parts``), or
            parameters by name or by the beginning of their names (``unet.encoder.levels.0``). Empty is FedAvg.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"private": ()}

    private: tuple[str, ...] = ()

    def shares(self, name: str, network: nn.Module) -> bool:
        """Whether this parameter is shared: ``private`` does not name it.

        Raises:
            InputError: ``private`` names something that is neither a part nor a parameter of this network, or a part
                without parameters.
        """
        return not any(within(name, entry, network, "strategy.private") for entry in self.private)


def within(name: str, entry: str, network: nn.Module, key: str) -> bool:
    """Whether a parameter is in a part of the network, or begins with ``entry``.

    Args:
        key: the key that holds ``entry``, for the message.

    Raises:
        InputError: the network has no such part or parameter, or the part is empty.
    """
    return any(_within(name, prefix) for prefix in _prefixes(entry, network, key))


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def _prefixes(entry: str, network: nn.Module, key: str) -> tuple[str, ...]:
    parts: Mapping[str, tuple[str, ...]] = getattr(network, "parts", {})
    if entry in parts:
        if not parts[entry]:
            raise InputError(f"{key}: this network has no parameter in its part '{entry}'.{_remedy(entry, network)}")
        return parts[entry]
    named = (*network.named_parameters(), *network.named_buffers())
    if not any(_within(name, entry) for name, _ in named):
        raise unknown(f"part or parameter in {key}", entry, parts)
    return (entry,)


def _remedy(part: str, network: nn.Module) -> str:
    from torch.nn import BatchNorm2d, InstanceNorm2d

    if part != "norm":
        return ""
    if not any(isinstance(one, BatchNorm2d | InstanceNorm2d) for one in network.modules()):
        return " It has no normalisation; unet, unrolled and dual_domain have one."
    return (
        " Its normalisation is not affine, so it has no parameters: choose network.norm=instance_affine or "
        "network.norm=batch."
    )
