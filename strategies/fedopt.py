"""Server optimisers. The mean change of a round is a pseudo-gradient; the server takes an adaptive step along it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from fedrecon.sites.wire import State, TrainRequest
from fedrecon.strategies.fedavg import FedAvg

if TYPE_CHECKING:
    from fedrecon.sites.wire import Buffers, TrainReply, Vector

BUFFERS = "buffers"
"""Name of the mask of the buffers in the server's state."""


class FedOpt(FedAvg):
    """Algorithm 2 of Reddi et al. (ICLR 2021). FedAdam and FedYogi differ only in the second moment.

        m_t = beta1 m_{t-1} + (1 - beta1) D_t,        D_t the weighted mean of the sites' changes in round t
        x_t = x_{t-1} + server_rate m_t / (sqrt(v_t) + tau)

    with m_0 = 0, v_0 = tau^2 and no bias correction, as in the paper. The moments stay on the server, so a round
    sends no more bytes than FedAvg. Buffers (running statistics) are no parameters: they are averaged as in FedAvg.

    Attributes:
        server_rate: step size of the server, eta in the paper.
        beta1, beta2: decay of the first and of the second moment.
        tau: degree of adaptivity; the paper's default is 1e-3.
    """

    paper: ClassVar[str] = """
        @inproceedings{reddi2021fedopt,
            author = {Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and Rush, Keith and
                Kone{\\v{c}}n{\\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan},
            title = {Adaptive Federated Optimization},
            booktitle = {International Conference on Learning Representations (ICLR)},
            year = {2021}
        }
    """
    neutral: ClassVar[None] = None
    not_neutral: ClassVar[str] = "the step is divided by the root of a second moment, so it never equals the mean"

    server_rate: float = Field(0.01, gt=0, le=1000)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0, le=1000)

    @abstractmethod
    def second(self, v: Vector, squared: Vector) -> Vector:
        """The second moment v_t from v_{t-1} (``v``) and D_t^2 (``squared``), all (n_shared,)."""

    def begin(self, weights: Vector, buffers: Buffers | None = None) -> State:
        """The first state, with the moments m = 0 and v = tau^2, and a 1 at each buffer if there are any."""
        extra = {"m": np.zeros_like(weights), "v": np.full_like(weights, self.tau**2)}
        if buffers is not None and buffers.any():
            extra[BUFFERS] = buffers.astype(np.float32)
        return replace(super().begin(weights, buffers), extra=extra)

    def request(self, state: State) -> TrainRequest:
        """The parameters only: the moments stay on the server."""
        return replace(super().request(state), extra={})

    def merge(self, state: State, replies: Iterable[TrainReply], n_slices: Mapping[str, int]) -> State:
        """One server step along the mean change; the plain mean at the buffers."""
        mean = super().merge(state, replies, n_slices)
        change = mean.shared - state.shared
        beta1 = np.float32(self.beta1)
        m = beta1 * state.extra["m"] + (np.float32(1) - beta1) * change
        v = self.second(state.extra["v"], change * change)
        step = np.float32(self.server_rate) * m / (np.sqrt(v) + np.float32(self.tau))
        shared = (state.shared + step).astype(np.float32, copy=False)
        kept = {name: value for name, value in state.extra.items() if name == BUFFERS}
        if kept:
            shared = np.where(kept[BUFFERS] > 0, mean.shared, shared)
        return replace(mean, shared=shared, extra={"m": m, "v": v, **kept})
