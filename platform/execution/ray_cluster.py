"""The Ray cluster that this process is connected to: its nodes, what is free on them, and the seats of members."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private import state as ray_state
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedrecon.platform.config.address import no_answer
from fedrecon.platform.execution import placement
from fedrecon.sites.errors import RunError

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources


RESTART_TIMEOUT = 600.0
"""Seconds for a dead actor to come back, on its own node or on another one that carries its label."""

CONNECT_TIMEOUT = 5.0
"""Seconds for a cluster's address to answer; Ray itself would try for minutes."""


def seats(members: Sequence[str], resources: Resources, bundle_members: Sequence[str]) -> list[placement.Demand]:
    """What each member asks for: what its bundle holds, or where there are none its share of the nodes.

    Raises:
        RunError: no node can hold a member.
    """
    if bundle_members:
        group: Any = get_current_placement_group()
        return placement.bundled(members, [group.bundle_specs[bundle_members.index(member) + 1] for member in members])
    demanded = placement.demands(members, nodes(), resources.cpus_per_site, resources.gpus_per_site)
    placement.check(demanded, nodes())
    return demanded


def seated(member: str, bundle_members: Sequence[str]) -> dict[str, Any]:
    """Ray's option that puts a member into its bundle."""
    if not bundle_members:
        return {}
    group: Any = get_current_placement_group()
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle_members.index(member) + 1)}


def has_process(actor: Any) -> bool:
    """Whether a node has given the actor a process, which may still be starting."""
    try:
        return bool(ray_state.actors(actor._actor_id.hex()).get("Pid"))
    except Exception:  # noqa: BLE001 - not public in Ray; without it a slow start looks like no place
        return False


def store_size(node: str) -> int:
    """Bytes of Ray's object store on a node: what lanes take instead of it, they may take."""
    return sum(int(one["Resources"].get("object_store_memory", 0)) for one in nodes() if one["NodeID"] == node)


def nodes() -> list[dict[str, Any]]:
    """Ray's node table."""
    return list(ray.nodes())  # type: ignore[no-untyped-call]


def free() -> list[dict[str, Any]]:
    """Ray's node table with what is free now instead of what there is."""
    left = ray_state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return [{**node, "Resources": left.get(node["NodeID"], {})} for node in nodes()]


def connect(address: str | None) -> None:
    """Connects this process to the cluster at ``address``, or starts one here; RunError if none answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it an actor that asked for no GPU sees all of its node's (ray#54868).
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    _check_answers(address)
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address in (None, "local"):
        options |= {"include_dashboard": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(address=address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RunError(f"Ray at '{address or 'local'}' cannot be reached: {error}") from error
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)  # Ray writes it readable for all


def _check_answers(address: str | None) -> None:
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    if (reason := no_answer(host, int(port), CONNECT_TIMEOUT)) is not None:
        raise RunError(f"no Ray cluster answers at '{address}': {reason}")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """In here this process is connected to the cluster; it stays so if it was before."""
    owns = not ray.is_initialized()
    if owns:
        connect(address)
    try:
        yield
    finally:
        if owns:
            ray.shutdown()
