"""FedAdam: Adam on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedrecon.strategies.fedopt import FedOpt

if TYPE_CHECKING:
    from fedrecon.sites.wire import Vector


class FedAdam(FedOpt):
    """Adam on the server: v_t = beta2 v_{t-1} + (1 - beta2) D_t^2.

    :class:`FedOpt` defines the other symbols and the parameters.
    """

    def second(self, v: Vector, squared: Vector) -> Vector:
        """v_t as an exponential moving average of D_t^2."""
        beta2 = np.float32(self.beta2)
        return beta2 * v + (np.float32(1) - beta2) * squared
