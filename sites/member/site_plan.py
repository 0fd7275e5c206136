"""All that a member of the federation is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.settings import Training

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition


@dataclass(frozen=True)
class SitePlan:
    """All that a member of the federation (one site, or the pooled control) is started with.

    Attributes:
        member: its name; a strategy that pools has one member for all sites.
        shards: path of each site's shard that it holds.
        operators: how each of these sites measures.
        method: the strategy (its site hooks).
        network: the network choice; None where nothing is trained.
        reconstructor: a classical method instead of a network, or None.
        images: what the network is built for.
        training, evaluation, seed: of the experiment.
        memory: folder for the private memory, on the member's own node; None keeps nothing.
        memory_source: where another run of the same training keeps it; for a run that takes over that training.
        publish_private: this member agreed that its private part may leave it.
        threads: torch threads.
        sample: training slices to take instead of ``training.max_slices``, for a measurement of the time.
    """

    member: str
    shards: Mapping[str, str]
    operators: Mapping[str, Acquisition]
    method: Any
    network: Any
    images: Any
    training: Training
    evaluation: Evaluation
    seed: int
    reconstructor: Any = None
    memory: str | None = None
    memory_source: str | None = None
    publish_private: bool = False
    threads: int = 1
    sample: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
