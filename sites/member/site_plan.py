"""The plan of a member: everything from which a site starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedrecon.sites.errors import RunError
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.settings import Training

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.extension.plugin_file import PluginFile


@dataclass(frozen=True)
class SitePlan:
    """Everything from which a member of the federation (one site, or the pooled control) starts.

    Attributes:
        member: name of the member; a strategy that pools has one member for all sites.
        shards: paths of the member's shards, by site.
        contents: content hash of each shard as the run was planned, by site; a shard without one is not compared.
        operators: settings of the measurement, by site.
        method: the strategy, for its site hooks.
        network: the network choice; None if nothing is trained.
        images: properties of the images for which the network is built.
        training, evaluation, seed: blocks and seed of the experiment.
        reconstructor: a classical method in place of a network, or None.
        memory: folder for the private memory, on the member's own node; None keeps the memory in the process only.
        memory_source: folder of the private memory of another run of the same training. A run that continues that
            training reads it.
        memory_owner: digest of the training to which the private memory belongs; empty is not compared.
        publish_private: whether this member agreed that its private part may leave it.
        threads: number of torch threads.
        sample: number of training slices in place of ``training.max_slices``, to measure the training time; None takes
            ``training.max_slices``.
        start: values of the network with which the training begins, by name; None takes those of the seed.
        personalise: the local rounds at the end of the training, or None.
        plugins: the experiment's plug-in files, whose classes the other attributes may be of.
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
    memory_owner: str = ""
    publish_private: bool = False
    threads: int = 1
    sample: int | None = None
    contents: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] | None = None
    personalise: Any = None
    plugins: tuple[PluginFile, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """The plug-in files travel first: the other attributes cannot be unpickled before they are loaded."""
        return _planned, (self.plugins, vars(self))


def _planned(_: tuple[PluginFile, ...], attributes: Mapping[str, Any]) -> SitePlan:
    return SitePlan(**attributes)


def refuse_other(shard: Shard, planned: str) -> None:
    """Refuses a shard whose content hash is not the planned one.

    Raises:
        RunError: the message names the shard and both hashes.
    """
    if shard.content_hash != planned:
        raise RunError(
            f"{shard.path}: the shard changed during the run: its content hash was {planned} and is "
            f"{shard.content_hash}. Start the run again: it gets another digest"
        )
