"""The sites of an experiment: found, opened and checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedrecon.platform.tasks import TASKS
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.inspect import find_shards
from fedrecon.sites.shard import Shard
from fedrecon.sites.splits import check_consortium

if TYPE_CHECKING:
    from fedrecon.platform.experiment import Experiment
    from fedrecon.sites.imaging.measurement import Images


def open_sites(sites: str | Mapping[str, str], address: str | None = None) -> dict[str, Shard]:
    """The shards by site name, in the order of the names: a folder of NAME.h5, or {NAME: PATH}.

    Args:
        address: of a cluster; a PATH that is not here is then looked for on the site's own node.

    Raises:
        InputError: a path that is missing, a broken shard, a site name used twice, a subject in two splits.
    """
    if isinstance(sites, str):
        shards = [Shard.open(path) for path in find_shards(sites)]
        check_consortium(shards)
        return {shard.site: shard for shard in sorted(shards, key=lambda one: one.site)}
    if not sites:
        raise InputError("sites: at least one site is needed")
    elsewhere = {name: path for name, path in sites.items() if address and not Path(path).exists()}
    opened = {name: Shard.open(Path(path)) for name, path in sites.items() if name not in elsewhere}
    if elsewhere and address:
        from fedrecon.platform.remote import remote_shards

        opened |= remote_shards(elsewhere, address)
    check_subjects(opened)
    return dict(sorted(opened.items()))


def is_here(shard: Shard) -> bool:
    """Whether this process sees the shard's file; of one on another node of the cluster it knows the labels alone."""
    return shard.path.exists()


def check_experiment(experiment: Experiment, shards: Mapping[str, Shard]) -> None:
    """Refuses a site that cannot train or be scored, a mask out of reach, data that must not move.

    Raises:
        InputError: says which site, and what would do.
    """
    for name in experiment.measured.get("per_site", {}):
        if name not in shards:
            raise unknown(f"site in {TASKS[experiment.task].block}.per_site", name, shards)
    for name, shard in shards.items():
        if experiment.trains:
            shard.require_training()
        shard.require_references("validation")
        shard.require_references("test")
        operator = experiment.operator_at(name)
        for shape in sorted({volume.shape for volume in shard.volumes}):
            try:
                operator.check(shape)
            except InputError as error:
                raise InputError(f"site '{name}': {error}") from None
        if experiment.trains:
            check_patch(experiment, name, shard)
    limits = experiment.training.max_slices
    named = {
        "publish_private": () if experiment.publish_private == "all" else experiment.publish_private,
        "training.max_slices": limits if isinstance(limits, dict) else (),
    }
    for key, names in named.items():
        for name in names:
            if name not in shards:
                raise unknown(f"site in {key}", name, shards)
    if experiment.trains and experiment.method.moves_data:
        _check_pooling(experiment, shards)


def check_patch(experiment: Experiment, name: str, shard: Shard) -> None:
    """Refuses patches that are larger than a training slice.

    Raises:
        InputError: names the site and its smallest side.
    """
    patch, sides = experiment.training.patch, [min(volume.shape) for volume in shard.split("train")]
    if patch is not None and sides and patch > min(sides):
        raise InputError(f"site '{name}': training.patch {patch} is more than the {min(sides)} pixels of its slices")


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


def n_slices(shard: Shard, split: str, limit: int | None = None) -> int:
    """Slices of one split, as many as ``limit`` lets a site take."""
    total = sum(volume.n_slices for volume in shard.split(split))
    return total if limit is None else min(total, limit)


def check_subjects(shards: Mapping[str, Shard]) -> None:
    """Refuses sites of which two hold a subject in different splits.

    Raises:
        InputError: names the subject and the two sites.
    """
    places: dict[str, tuple[str, str]] = {}
    for name, shard in shards.items():
        for subject, split in shard.subjects.items():
            other, where = places.setdefault(subject, (split, name))
            if other != split:
                raise InputError(
                    f"the subject '{subject}' is in the split '{other}' at site '{where}' and in '{split}' at site "
                    f"'{name}': a subject is in one split at all sites."
                )


def _check_pooling(experiment: Experiment, shards: Mapping[str, Shard]) -> None:
    if experiment.allow_pooling or experiment.strategy.get("allow_pooling"):
        return
    real = [name for name, shard in shards.items() if shard.attributes.get("origin") != "phantom"]
    if real:
        raise InputError(
            f"strategy '{experiment.strategy['name']}' needs the raw data of all sites in one place, and "
            f"{', '.join(real)} hold data of patients. If it may be moved, say so: allow_pooling=true."
        )
