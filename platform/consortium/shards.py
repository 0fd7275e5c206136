"""Finds and opens the shards of an experiment's sites, and checks their subjects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedrecon.sites.data.inspect import find_shards
from fedrecon.sites.data.shard import Shard, open_sealed
from fedrecon.sites.data.splits import check_consortium, subject_problems
from fedrecon.sites.data.volume import check_name
from fedrecon.sites.errors import InputError
from fedrecon.sites.phases import counted


def open_sites(sites: str | Mapping[str, str], address: str | None = None, key: str = "sites") -> dict[str, Shard]:
    """The shards by site name, in the order of the names.

    Args:
        sites: a folder of shards (NAME.h5), or {NAME: PATH}.
        address: address of a Ray cluster. A PATH that does not exist on this node is then opened on the site's node.
        key: where the sites were given, for a message.

    Raises:
        InputError: a name is not allowed or used twice, a path is missing, a shard is broken or not what its hash says,
            or a subject is in two splits.
        RunError: no Ray cluster answers, or the node of a site fails or does not answer.
    """
    if isinstance(sites, str):
        _check_there(key, sites)
        shards = [open_sealed(path) for path in counted("loading shards", find_shards(sites))]
        check_consortium(shards)
        return {shard.site: shard for shard in sorted(shards, key=lambda one: one.site)}
    if not sites:
        raise InputError("sites: at least one site is needed")
    for name in sites:
        check_name("site", name)
    remote = {name: path for name, path in sites.items() if address and not Path(path).exists()}
    here = [name for name in sites if name not in remote]
    for name in here:
        _check_there(f"{key}.{name}", sites[name])
    opened = {name: open_sealed(sites[name]) for name in counted("loading shards", here)}
    if remote and address:
        from fedrecon.platform.execution.remote_shards import remote_shards

        opened |= remote_shards(remote, address)
    check_subjects(opened)
    return dict(sorted(opened.items()))


def _check_there(key: str, path: str) -> None:
    """Refuses a path that does not exist, and names the folder where it was looked for."""
    if not Path(path).exists():
        where = "" if Path(path).is_absolute() else f"; it was looked for in the working directory, {Path.cwd()}"
        raise InputError(f"{key}: {path}: there is no such file or folder{where}")


def is_here(shard: Shard) -> bool:
    """Whether this process sees the shard's file. It knows only the labels of a shard on another node."""
    return shard.path.exists()


def n_slices(shard: Shard, split: str, limit: int | None = None) -> int:
    """The number of slices of one split that are used, at most ``limit``. Only those with a reference are scored."""
    total = sum(volume.n_slices for volume in (shard.split(split) if split == "train" else shard.scorable(split)))
    return total if limit is None else min(total, limit)


def check_subjects(shards: Mapping[str, Shard]) -> None:
    """Refuses shards under different keys, and a subject that is in different splits at two sites.

    Raises:
        InputError: the message names the subject and the two sites.
    """
    for problem in subject_problems(shards.items()):
        raise InputError(problem)
