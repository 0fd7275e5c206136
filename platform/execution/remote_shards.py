"""Labels of shards on other nodes of a cluster. They are read on the site's own node, without images and k-space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedrecon.platform.execution.ray_cluster import connected
from fedrecon.platform.execution.site_tasks import ask_sites
from fedrecon.sites.data.shard import Shard, open_sealed
from fedrecon.sites.errors import InputError, RunError, brief, errors_at
from fedrecon.sites.member.gate import check_remote
from fedrecon.sites.wire import ShardLabels
from fedrecon.sites.wire_check import check_message

READ = ("origin", "pseudonym_key")
"""The attributes that an experiment reads. A file may hold others, such as what its import did: they stay there."""


def remote_shards(paths: Mapping[str, str], address: str) -> dict[str, Shard]:
    """The shards by site name, as their own nodes see them. Only labels travel.

    Args:
        paths: paths of the shards on their nodes, by site.
        address: address of the Ray cluster.

    Raises:
        InputError: a node cannot open its shard; the message gives the reason.
        RunError: the cluster or a node does not answer, or answers with what are no labels of a shard.
    """
    with connected(address):
        answers = ask_sites(labels, {site: (site, path) for site, path in paths.items()}, "the labels of its shard")
    found = {}
    for site, answer in answers.items():
        one = check_remote(answer, ShardLabels, site)
        if one.problem:
            raise InputError(f"site '{site}', on its own node: {one.problem}")
        with errors_at(site):
            found[site] = _shard(one.labels)
    return found


def labels(site: str, path: str) -> ShardLabels:
    """The labels of the shard at ``path``, or the problem with the shard. This runs on the site's own node."""
    try:
        shard = open_sealed(path)
    except InputError as error:
        return check_message(ShardLabels(site, problem=str(error)))
    attributes = {key: value for key, value in shard.attributes.items() if key in READ}
    plain = {**asdict(shard), "path": str(shard.path), "attributes": attributes}
    return check_message(ShardLabels(site, plain))


def _shard(labels: Mapping[str, Any]) -> Shard:
    """The shard with these labels, which are plain values.

    Raises:
        InputError: a label may not have its value. RunError: a label is missing or of another type.
    """
    try:
        return TypeAdapter(Shard).validate_python(labels)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"the labels of its shard are refused: {brief(where)}: {first['msg']}") from None
