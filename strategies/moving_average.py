"""A moving average of the shared parameters over the rounds. The server keeps it, and it is what is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from pydantic import Field

from fedrecon.sites.wire import State, TrainReply, TrainRequest
from fedrecon.strategies.strategy import Strategy

AVERAGE = "moving_average"
"""Name of the moving average in the server's state."""


class MovingAverage(Strategy):
    """The sites train from the last mean. The exponential moving average of the means is scored and exported.

    Attributes:
        moving_average: decay of the moving average over the rounds; 0 scores the last mean.
    """

    moving_average: float = Field(0.0, ge=0, lt=1)

    def request(self, state: State) -> TrainRequest:
        """The last mean only: the moving average stays on the server."""
        return replace(super().request(state), extra={})

    def scoring_request(self, state: State) -> TrainRequest:
        """The moving average if there is one, else the last mean."""
        return replace(self.request(state), shared=state.extra.get(AVERAGE, state.shared))

    def merge(self, state: State, replies: Iterable[TrainReply], n_slices: Mapping[str, int]) -> State:
        """The mean, and its moving average. The decay grows to ``moving_average`` over the first rounds."""
        after = super().merge(state, replies, n_slices)
        if not self.moving_average:
            return after
        decay = np.float32(min(self.moving_average, state.round / (state.round + 10)))
        average = state.extra.get(AVERAGE, after.shared)
        return replace(after, extra={AVERAGE: decay * average + (1 - decay) * after.shared})
