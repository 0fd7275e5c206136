"""Pooled: all data in one place. The control that federated learning is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fedrecon.strategies.strategy import Strategy


class Pooled(Strategy):
    """One member holds every shard, each slice under its own site's operator: the raw data has been moved.

    Attributes:
        allow_pooling: says that the data may be moved; without it only a simulated consortium is pooled.
    """

    paper: ClassVar[str] = ""
    neutral: ClassVar[None] = None
    not_neutral: ClassVar[str] = "one member holds all data, so there is nothing to average"
    moves_data: ClassVar[bool] = True

    allow_pooling: bool = False

    def roster(self, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """One member for all sites."""
        return {"pooled": tuple(sites)}
