"""The labels of shards that lie on other nodes of a cluster: read there, by a task on the site's own node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from fedrecon.platform import placement
from fedrecon.platform.crew_ray import connect
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.shard import Shard

TIMEOUT = 60.0
"""Seconds for a node to read a shard's labels."""


def remote_shards(paths: Mapping[str, str], address: str) -> dict[str, Shard]:
    """The shards by site name as their own nodes see them; only labels come here, no data.

    Raises:
        InputError: the node says what is wrong with the path. RunError: no answer.
    """
    owns = not ray.is_initialized()
    if owns:
        connect(address)
    try:
        asked = placement.demands(list(paths), ray.nodes(), cpus=0.0, gpus=0.0)  # type: ignore[no-untyped-call]
        read = ray.remote(labels)
        pending = {one.member: read.options(**one.options()).remote(paths[one.member]) for one in asked}
        return {site: Shard(**_answer(site, reference)) for site, reference in pending.items()}
    finally:
        if owns:
            ray.shutdown()


def labels(path: str) -> dict[str, Any]:
    """All fields of the shard at ``path``, or under ``error`` what is wrong with it."""
    try:
        return dict(vars(Shard.open(path)))
    except InputError as error:
        return {"error": str(error)}


def _answer(site: str, reference: Any) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = ray.get(reference, timeout=TIMEOUT)
    except (GetTimeoutError, RayTaskError) as error:
        raise RunError(f"site '{site}': its node did not tell what is in its shard: {error}") from error
    if "error" in fields:
        raise InputError(f"site '{site}', on its own node: {fields['error']}")
    return fields
