"""Pooled: all data in one place. Federated learning is compared with this control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from fedrecon.sites.plugin import ADDED_LATER
from fedrecon.strategies.strategy import Strategy

if TYPE_CHECKING:
    from fedrecon.sites.training.settings import Training


class Pooled(Strategy):
    """One member holds the shards of all sites, so the raw data is moved. Each slice keeps its own site's operator.

    With K sites of n slices, one network cannot have both as many updates as each site and as many passes over each
    slice: a pass is K times longer. Reports state both numbers.

    Attributes:
        allow_pooling: permission to move the data. Without it, only simulated sites can be pooled.
        budget: what equals that of a site that trains alone. ``updates``: its optimiser steps (with ``local_epochs``
            their mean over the sites). ``passes``: how often each slice is seen; the network then takes as many steps
            as all sites together. None: ``updates`` with ``local_steps``, else ``passes``.
    """

    paper: ClassVar[str] = ""
    neutral: ClassVar[None] = None
    not_personal: ClassVar[str] = "one member holds all data, so no site trains alone"
    not_neutral: ClassVar[str] = "one member holds all data, so there is nothing to average"
    moves_data: ClassVar[bool] = True

    allow_pooling: bool = False
    budget: Annotated[Literal["updates", "passes"] | None, ADDED_LATER] = None

    def roster(self, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """One member for all sites."""
        return {"pooled": tuple(sites)}

    def updates(self, training: Training, per_pass: int, per_pass_of_sites: Sequence[int]) -> int:
        """The steps of a round, as ``budget`` says."""
        if self.budget == "passes" and training.local_steps is not None:
            return training.local_steps * len(per_pass_of_sites)
        if self.budget == "updates" and training.local_steps is None:
            return max(1, round(training.local_epochs * sum(per_pass_of_sites) / len(per_pass_of_sites)))
        return super().updates(training, per_pass, per_pass_of_sites)
