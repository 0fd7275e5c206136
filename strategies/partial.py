"""Partial sharing: FedAvg over one part of the network, while each site keeps the rest to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.errors import InputError, unknown
from fedrecon.strategies.fedavg import FedAvg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import nn


class Partial(FedAvg):
    """What ``private`` names never leaves the site: it is the site's memory, kept over rounds, restarts and resumes.

    The base of FedPer, LG-FedAvg, FedBN and FedMRI, which differ in what they keep private and in what they add.

    Attributes:
        private: parts of the network (``encoder``, ``decoder``, ``head``, ``norm``: see the network's ``parts``), or
            parameters by name or by the beginning of their names (``unet.encoder.levels.0``). Empty is FedAvg.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"private": ()}

    private: tuple[str, ...] = ()

    def shares(self, name: str, network: nn.Module) -> bool:
        """Whether ``private`` leaves this parameter out.

        Raises:
            InputError: a word is no part and no parameter of this network, or a part that is empty here.
        """
        return not any(_within(name, prefix) for word in self.private for prefix in _prefixes(word, network))


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def _prefixes(word: str, network: nn.Module) -> tuple[str, ...]:
    parts: Mapping[str, tuple[str, ...]] = getattr(network, "parts", {})
    if word in parts:
        if not parts[word]:
            raise InputError(
                f"strategy.private: this network has no parameter in its part '{word}'.{_remedy(word, network)}"
            )
        return parts[word]
    named = (*network.named_parameters(), *network.named_buffers())
    if not any(_within(name, word) for name, _ in named):
        raise unknown("part or parameter in strategy.private", word, parts)
    return (word,)


def _remedy(part: str, network: nn.Module) -> str:
    from torch.nn import BatchNorm2d, InstanceNorm2d

    if part != "norm":
        return ""
    if not any(isinstance(one, BatchNorm2d | InstanceNorm2d) for one in network.modules()):
        return " It normalises nothing; unet, unrolled and dual_domain do."
    return (
        " Its normalisation is not affine, so there is nothing to keep private: choose network.norm=instance_affine "
        "or network.norm=batch."
    )
