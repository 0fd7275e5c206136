"""Labels of shards that lie on other nodes of a cluster, read on the site's own node. No image or k-space is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrecon.platform.execution.ray_cluster import connected
from fedrecon.platform.execution.site_tasks import ask_sites
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError


def remote_shards(paths: Mapping[str, str], address: str) -> dict[str, Shard]:
    """The shards by site name as their own nodes see them. Only labels travel.

    Raises:
        InputError: the node says what is wrong with the path. RunError: no answer.
    """
    with connected(address):
        answers = ask_sites(labels, {site: (path,) for site, path in paths.items()}, "what is in its shard")
    for site, fields in answers.items():
        if "error" in fields:
            raise InputError(f"site '{site}', on its own node: {fields['error']}")
    return {site: Shard(**fields) for site, fields in answers.items()}


def labels(path: str) -> dict[str, Any]:
    """All fields of the shard at ``path``, or under ``error`` what is wrong with it."""
    try:
        return dict(vars(Shard.open(path)))
    except InputError as error:
        return {"error": str(error)}
