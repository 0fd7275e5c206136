"""Pooled: all data in one place. Federated learning is compared with this control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fedrecon.strategies.strategy import Strategy


class Pooled(Strategy):
    """One member holds the shards of all sites, so the raw data is moved. Each slice keeps its own site's operator.

    Attributes:
        allow_pooling: permission to move the data. Without it, only simulated sites can be pooled.
    """

    paper: ClassVar[str] = ""
    neutral: ClassVar[None] = None
    not_neutral: ClassVar[str] = "one member holds all data, so there is nothing to average"
    moves_data: ClassVar[bool] = True

    allow_pooling: bool = False

    def roster(self, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """One member for all sites."""
        return {"pooled": tuple(sites)}
