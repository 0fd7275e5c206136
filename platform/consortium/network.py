"""The network of an experiment, as the driver sees it: what to build, and its parameters' names and first values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.consent import consented
from fedrecon.sites.data.shard import Shard

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.imaging.measurement import Images
    from fedrecon.sites.member.site_plan import SitePlan


_KNOWN: set[str] = set()
"""Strategies and networks that fit each other."""


def network_choice(experiment: Experiment) -> Any:
    """The network, or None where nothing is trained."""
    from fedrecon.strategies.networks.choice import NetworkChoice

    return NetworkChoice.parse(experiment.network) if experiment.trains else None


def check_network(experiment: Experiment, shards: Mapping[str, Shard]) -> None:
    """Asks the strategy which parameters it shares, of a network that holds no values.

    Raises:
        InputError: it names a part that this network does not have.
    """
    if not experiment.trains:
        return
    import torch

    method, shapes = experiment.method, images(shards, experiment.scale)
    key = json.dumps([experiment.strategy, experiment.network, repr(shapes)], sort_keys=True)
    if key in _KNOWN:  # hundreds of trials of a plan differ in other things
        return
    with torch.device("meta"):
        model = method.build(network_choice(experiment), shapes)
    for name, _ in model.named_parameters():
        method.shares(name, model)
    _KNOWN.add(key)


def network_layout(experiment: Experiment, shards: Mapping[str, Shard]) -> Any:
    """:class:`Parameters` of a new network for these sites, or None where nothing is trained."""
    if not experiment.trains:
        return None
    from fedrecon.sites.member.site import new_network
    from fedrecon.sites.training.parameters import Parameters

    method = experiment.method
    model = new_network(method, network_choice(experiment), images(shards, experiment.scale), experiment.seed)
    return Parameters(model, lambda name: method.shares(name, model))


def images(shards: Mapping[str, Shard], scale: int = 1) -> Images:
    """What a network for these sites is built for; ``scale`` of super-resolution."""
    from fedrecon.sites.imaging.measurement import Images

    volumes = [volume for shard in shards.values() for volume in shard.volumes]
    return Images(
        complex_valued=any(shard.phase != "none" for shard in shards.values()),
        size=(max(v.shape[0] for v in volumes), max(v.shape[1] for v in volumes)),
        n_coils=max(volume.n_coils for volume in volumes),
        sites=tuple(shards),
        scale=scale,
    )


def private_members(experiment: Experiment, layout: Any, sites: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The members whose private parameters reconstruct, and whether nothing at all is shared.

    Args:
        layout: the network's :class:`Parameters`; None where nothing is trained. sites: that train.
    """
    if layout is None or not len(layout.private) or not experiment.method.private_reconstructs:
        return (), False
    members = tuple(experiment.method.roster(list(sites)))
    return members, bool(members) and layout.n_shared == 0


def site_plan(
    experiment: Experiment,
    images: Images,
    member: str,
    shards: Mapping[str, str],
    operators: Mapping[str, Acquisition],
    **more: Any,
) -> SitePlan:
    """What a member of this experiment's federation is started with.

    Args:
        images: what the network is built for. shards: paths by site. operators: by site.
        more: other fields of :class:`SitePlan`: memory, memory_source, sample, training.
    """
    from fedrecon.sites.member.site_plan import SitePlan

    given = {
        "method": experiment.method,
        "network": network_choice(experiment),
        "training": experiment.training,
        "evaluation": experiment.evaluation,
        "seed": experiment.seed,
        "reconstructor": experiment.classical,
        "threads": experiment.resources.threads,
        "publish_private": consented(experiment.publish_private, member),
    }
    return SitePlan(member=member, shards=shards, operators=operators, images=images, **{**given, **more})
