"""The network of an experiment on the driver: its choice, its parameters (names, first values), and the site plans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.consent import consented
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError, RunError, at_site
from fedrecon.sites.finite import first_not_finite
from fedrecon.sites.phases import phase

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.imaging.measurement import Images
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.wire import PrivatePart


_ACCEPTED: set[str] = set()
"""Combinations of strategy, network and image properties that :func:`check_network` has accepted."""


def network_choice(experiment: Experiment) -> Any:
    """The :class:`NetworkChoice` of the experiment; None if nothing is trained."""
    from fedrecon.strategies.networks.choice import NetworkChoice

    return NetworkChoice.parse(experiment.network, experiment.registry("networks")) if experiment.trains else None


def check_network(experiment: Experiment, shards: Mapping[str, Shard]) -> None:
    """Refuses a strategy that names a part which the network does not have.

    It builds the network without values and asks the strategy, for each parameter, whether it is shared.

    Raises:
        InputError: the message names the part.
    """
    if not experiment.trains:
        return
    with phase("loading torch"):
        import torch

        from fedrecon.sites.training.optimizers import leave_out_compiler
    method, shapes = experiment.method, images(shards, experiment.scale)
    plugins = [one.digest for one in experiment.plugins]
    key = json.dumps([experiment.strategy, experiment.network, repr(shapes), plugins], sort_keys=True)
    if key in _ACCEPTED:  # hundreds of trials of one sweep differ only in other keys
        return
    leave_out_compiler()
    with phase("building the network"), torch.device("meta"):
        model = method.build(network_choice(experiment), shapes)
    personal = experiment.personalise
    shared = [name for name, _ in model.named_parameters() if method.shares(name, model)]
    if personal is not None and not any(personal.takes(name, model) for name in shared):
        raise InputError(f"strategy.personalise.parts: {personal.parts}: no such parameter is shared, so none is local")
    _ACCEPTED.add(key)


def network_layout(experiment: Experiment, shards: Mapping[str, Shard]) -> Any:
    """The :class:`Parameters` of a new network for these sites; None if nothing is trained."""
    return layout_for(experiment, images(shards, experiment.scale))


def layout_for(experiment: Experiment, images: Images) -> Any:
    """The :class:`Parameters` of a new network for these images; None if nothing is trained."""
    if not experiment.trains:
        return None
    from fedrecon.sites.member.network import layout, new_network

    model = new_network(experiment.method, network_choice(experiment), images, experiment.seed)
    return layout(experiment.method, experiment.personalise, model)


def images(shards: Mapping[str, Shard], scale: int = 1) -> Images:
    """The properties of the images for which a network is built; ``scale`` is the scale of super-resolution, else 1."""
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
    """The members whose private parameters are needed to reconstruct.

    Args:
        layout: :class:`Parameters` of the network; None if nothing is trained.
        sites: names of the sites that train.

    Returns:
        the members (empty if no private parameter is needed), and True if they share no parameter at all.
    """
    if layout is None or not len(layout.local) or not experiment.method.private_reconstructs:
        return (), False
    members = tuple(experiment.method.roster(list(sites)))
    return members, bool(members) and layout.n_fixed == 0


def check_part(part: PrivatePart, layout: Any) -> PrivatePart:
    """The private part itself, if it is one of this network.

    Args:
        layout: :class:`Parameters` of the network.

    Raises:
        RunError: it has other names or shapes, or NaN or infinity; the message names the member.
    """
    try:
        values = layout.joined(part.parameters, shared=False)
    except ValueError as error:
        raise RunError(at_site(part.site, None, f"its private part is refused: {error}")) from None
    if found := first_not_finite({"private parameters": values}):
        raise RunError(at_site(part.site, None, f"its private part is refused: {found}"))
    return part


def private_codes(experiment: Experiment, images: Images) -> tuple[str, ...]:
    """Names of the private parameters that hold a code for each site, a row for each of ``images.sites``."""
    import torch

    method = experiment.method
    with torch.device("meta"):
        model = method.build(network_choice(experiment), images)
    codes: tuple[str, ...] = getattr(model, "parts", {}).get("sites", ())
    return tuple(
        name for name, _ in model.named_parameters() if name.startswith(codes) and not method.shares(name, model)
    )


def site_plan(
    experiment: Experiment,
    images: Images,
    member: str,
    shards: Mapping[str, str],
    operators: Mapping[str, Acquisition],
    **more: Any,
) -> SitePlan:
    """The plan from which a member of this experiment's federation starts.

    Args:
        images: properties of the images for which the network is built.
        shards: paths of the member's shards, by site.
        operators: settings of the measurement, by site.
        more: other fields of :class:`SitePlan`: contents, memory, memory_source, sample, training.
    """
    from fedrecon.sites.member.site_plan import SitePlan

    given = {
        "method": experiment.method,
        "personalise": experiment.personalise,
        "network": network_choice(experiment),
        "training": experiment.fitting,
        "evaluation": experiment.evaluation,
        "seed": experiment.seed,
        "reconstructor": experiment.classical,
        "threads": experiment.resources.threads,
        "publish_private": consented(experiment.publish_private, member),
        "plugins": experiment.plugins,
    }
    return SitePlan(member=member, shards=shards, operators=operators, images=images, **{**given, **more})
