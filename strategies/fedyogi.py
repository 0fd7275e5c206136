"""FedYogi: Yogi on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedrecon.strategies.fedopt import FedOpt

if TYPE_CHECKING:
    from fedrecon.sites.wire import Vector


class FedYogi(FedOpt):
    """Yogi on the server: v_t = v_{t-1} - (1 - beta2) D_t^2 sign(v_{t-1} - D_t^2).

    :class:`FedOpt` defines the other symbols and the parameters.
    """

    def second(self, v: Vector, squared: Vector) -> Vector:
        """v_t moves towards D_t^2 by (1 - beta2) D_t^2, up or down."""
        result: Vector = v - (np.float32(1) - np.float32(self.beta2)) * squared * np.sign(v - squared)
        return result
