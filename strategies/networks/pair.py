"""Two equal networks in one module, for a strategy that trains a shared and a personal network."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class Pair(nn.Module):
    """A shared and a personal network. They start with the same weights; the personal network reconstructs.

    Attributes:
        shared: the given network.
        personal: a copy of it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.shared = network
        self.personal = copy.deepcopy(network)

    def forward(self, measurement: Measurement) -> Tensor:
        """The personal network's image."""
        image: Tensor = self.personal(measurement)
        return image
