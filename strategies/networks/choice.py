"""The network that an experiment chooses: its name and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.extension.origin import source_of
from fedrecon.sites.plugin import parse, science_of
from fedrecon.strategies.networks import MOST_WEIGHTS, NETWORKS
from fedrecon.strategies.networks.network import NetworkEntry, network_class

if TYPE_CHECKING:
    from torch import nn

    from fedrecon.sites.imaging.measurement import Images


@dataclass(frozen=True)
class NetworkChoice:
    """The network that an experiment chooses. :meth:`parse` makes it. It is hashable and can be pickled.

    Attributes:
        name: the name of the network in the registry.
        parameters: all parameters by name, defaults included.
        module: where its class is, as in :class:`NetworkEntry`.
    """

    name: str
    parameters: tuple[tuple[str, Any], ...]
    module: str

    @classmethod
    def parse(cls, given: Mapping[str, Any], networks: Mapping[str, NetworkEntry] = NETWORKS) -> NetworkChoice:
        """The choice that ``{"name": ..., **parameters}`` describes.

        Args:
            networks: the registry; by default fedrecon's own networks.

        Raises:
            InputError: the name is missing, the name or a parameter is unknown (the message gives the nearest right
                one), or a value is refused.
        """
        parameters = dict(given)
        name = parameters.pop("name", None)
        if not isinstance(name, str):
            raise InputError(f"network: 'name' is missing or not text. Allowed: {', '.join(sorted(networks))}.")
        if name not in networks:
            raise unknown("network", name, networks)
        chosen = networks[name]
        model = parse(chosen.parameters, parameters, where=f"network '{name}'")
        if (weights := chosen.weights(model)) > MOST_WEIGHTS:
            shown = ", ".join(f"{key}={value}" for key, value in model.model_dump().items())
            raise InputError(
                f"network '{name}' with {shown} has about {weights:.1e} weights; "
                f"more than {MOST_WEIGHTS:.0e} are refused"
            )
        return cls(name, tuple(model.model_dump().items()), chosen.module)

    def as_dict(self) -> dict[str, Any]:
        """``{"name": ..., **parameters}`` with every default written out; :meth:`parse` reads it back."""
        return {"name": self.name, **dict(self.parameters)}

    def science(self, networks: Mapping[str, NetworkEntry] = NETWORKS, trains: bool = False) -> dict[str, Any]:
        """The part of the choice that enters a digest: of a run, or with ``trains`` of its training."""
        chosen = networks[self.name]
        left_out = chosen.at_inference if trains else ()
        given = {key: value for key, value in self.parameters if key not in left_out}
        return {"name": self.name, **science_of(chosen.parameters(**given)), **source_of(chosen)}

    def build(self, images: Images) -> nn.Module:
        """A new network for these images, with weights drawn from torch's global generator. It imports torch."""
        network: nn.Module = network_class(self.module)(images, **dict(self.parameters))
        return network
