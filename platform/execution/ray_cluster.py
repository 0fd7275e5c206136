"""The Ray cluster of this process: the connection, the nodes, their free resources, and the demands of members."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private import ray_constants, services
from ray._private import state as ray_state
from ray._private.node import Node
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedrecon.platform.config.address import check_cluster
from fedrecon.platform.execution import last_word, placement
from fedrecon.platform.execution.forking.start import forking
from fedrecon.platform.execution.lost_ray import answered, own_handler_kept, quiet, shutdown
from fedrecon.sites import debris
from fedrecon.sites.errors import InputError, RunError, cause_of
from fedrecon.sites.phases import phase

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources


RESTART_TIMEOUT = 600.0
"""Time in seconds for a dead actor to come back, on its own node or on another node that carries its name."""

LONGEST_SOCKET = 107
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The path of Ray's longest socket below its folder, with the longest process id of Linux."""

OWNER = "fedrecon.owner"
"""Name of a file in the folder of a Ray session: the name of the driver (:func:`fedrecon.sites.debris.owner`)."""


def member_demands(
    members: Sequence[str], resources: Resources, bundle_members: Sequence[str]
) -> list[placement.Demand]:
    """The demand of each member: the resources of its bundle, or without bundles its share of the nodes.

    Args:
        bundle_members: members that have a bundle in this process's placement group; empty without a group.

    Raises:
        RunError: no node can hold a member.
    """
    if bundle_members:
        group: Any = get_current_placement_group()
        return placement.bundled(members, [group.bundle_specs[bundle_members.index(member) + 1] for member in members])
    demanded = placement.demands(members, nodes(), resources.cpus_per_site, resources.gpus_per_site)
    placement.check(demanded, nodes())
    return demanded


def bundle_option(member: str, bundle_members: Sequence[str]) -> dict[str, Any]:
    """Ray's option that puts a member into its bundle; empty without bundles."""
    if not bundle_members:
        return {}
    group: Any = get_current_placement_group()
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle_members.index(member) + 1)}


def has_process(actor: Any) -> bool:
    """Whether a node has started a process for the actor. The process may not be ready yet."""
    try:
        return bool(answered(lambda: ray_state.actors(actor._actor_id.hex())).get("Pid"))
    except Exception:  # noqa: BLE001 - not public in Ray; on failure a slow start counts as not placed
        return False


def store_size(node: str) -> int:
    """Size of Ray's object store on a node in bytes. It is the limit for the shared-memory buffers that replace it."""
    return sum(int(one["Resources"].get("object_store_memory", 0)) for one in nodes() if one["NodeID"] == node)


def cpus() -> int:
    """Number of CPUs of the cluster, at least 1."""
    return max(1, int(sum(one["Resources"].get("CPU", 0.0) for one in nodes() if one["Alive"])))


def fetch(references: Sequence[Any]) -> None:
    """Has Ray bring objects to this node that exist on another one. It returns at once, and the transfer goes on."""
    if references:
        ray.wait(list(references), num_returns=len(references), timeout=0, fetch_local=True)


def nodes() -> list[dict[str, Any]]:
    """Ray's node table."""
    return list(answered(ray.nodes))


def free() -> list[dict[str, Any]]:
    """Ray's node table, with the resources that are free now in place of all resources."""
    left = answered(ray_state.available_resources_per_node)
    return [{**node, "Resources": left.get(node["NodeID"], {})} for node in nodes()]


def connect(address: str | None, modules: Sequence[str] = ()) -> None:
    """Connects this process to the cluster at ``address``; None starts a cluster on this machine.

    Args:
        modules: what the workers of a cluster that is started here load beside what the process of a member does.

    Raises:
        InputError: the folder for temporary files has too long a path for Ray's sockets.
        RunError: no cluster answers at ``address``, or Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this an actor that asked for no GPU sees all GPUs of its node (ray#54868).
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    check_cluster(address)
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    here = address in (None, "local")
    if here:
        check_temporary_folder()
        options |= {"include_dashboard": False}
    last_word.keep()
    shown = phase("starting Ray" if here else f"connecting to Ray at {address}")
    with contextlib.ExitStack() as stack:
        forks = forking(here, modules)
        for one in (shown, own_handler_kept(), _groups_of_their_own(), forks, loopback(here), lean(here), quiet()):
            stack.enter_context(one)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            begun: Any = ray.init(address=address or "local", **options)
        except Exception as error:  # Ray raises a plain Exception if its processes take too long
            if here:
                advice = "Free CPUs and memory, or run without Ray: --in-process"
                raise RunError(f"Ray does not start on this machine: {cause_of(error)} {advice}") from error
            raise RunError(f"Ray at '{address}' cannot be reached: {cause_of(error)}") from error
    if here:
        _sweep_sessions(Path(begun.address_info["session_dir"]))
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)  # Ray makes the file readable for all users


@contextlib.contextmanager
def loopback(wanted: bool = True) -> Iterator[None]:
    """A Ray that is started in the body listens on this machine's loopback only, its exporters of metrics too.

    Ray does so where it knows no clusters, on macOS and Windows, by this switch. On Linux it puts the machine's own
    address in place of 127.0.0.1, and its exporters answer the whole network without a token. Its other processes read
    the switch from the environment.
    """
    if not wanted:
        yield
        return
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    inherited = os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if inherited is not None:
            os.environ[name] = inherited


UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's node that start its autoscaler, its reader of log files and the server of its dashboard."""


@contextlib.contextmanager
def lean(wanted: bool = True) -> Iterator[None]:
    """A Ray that is started in the body has no process that a run on one machine never asks.

    There is nothing to scale, no log goes to the driver, and the dashboard is off. Each is a Python process of about
    one CPU-second at the start; Ray has no public option for them. See docs/decisions/028.
    """
    with contextlib.ExitStack() as kept:
        for name in UNUSED if wanted else ():
            method = getattr(Node, name, None)  # not public in Ray; a Ray without it starts what it likes
            if method is not None:
                setattr(Node, name, _starts_nothing)
                kept.callback(setattr, Node, name, method)
        yield


def _starts_nothing(_node: Node, **_options: Any) -> None:
    """In the place of a method of Ray's node that starts a process."""


def check_temporary_folder() -> None:
    """Refuses a folder for temporary files whose path leaves no room for Ray's sockets: Linux takes 107 characters.

    Raises:
        InputError: the message says how long the path may be, and what to set.
    """
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    length, room = len(os.fsencode(folder)), LONGEST_SOCKET - len(_SOCKET)
    if length > room:
        raise InputError(
            f"the path of the folder for temporary files has {length} bytes, and Ray's sockets leave room for {room}: "
            f"{folder}; set RAY_TMPDIR to a short folder, such as RAY_TMPDIR=SHORT_FOLDER, or use --in-process"
        )


@contextlib.contextmanager
def _groups_of_their_own() -> Iterator[None]:
    """Starts each process of Ray in a process group of its own.

    SIGTERM is often sent to the whole group of a command. If Ray's processes end at once with the driver, Ray ends the
    driver too, with exit code 1 and before it has ended its run. Now the driver alone gets the signal, and ends them.
    """
    ray_services: Any = services  # not public in Ray; without this class they share the driver's group
    popen = getattr(services, "ConsolePopen", None)
    if popen is None:
        yield
        return
    ray_services.ConsolePopen = functools.partial(popen, process_group=0)
    try:
        yield
    finally:
        ray_services.ConsolePopen = popen


def _sweep_sessions(own: Path) -> None:
    """Deletes the session folders that Ray left of earlier drivers of fedrecon, once all their processes have ended."""
    (own / OWNER).write_text(debris.owner(), encoding="utf-8")
    for mark in own.parent.glob(f"session_*/{OWNER}"):
        with contextlib.suppress(OSError, ValueError):  # it is of another user, or being swept
            if (
                not mark.parent.is_symlink()
                and debris.is_dead(mark.read_text(encoding="utf-8"))
                and not _lives(mark.parent.name)
            ):
                debris.remove(mark.parent)


def _lives(session: str) -> bool:
    """Whether a process of Ray names this session in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if session.encode() in path.read_bytes():
                return True
    return False


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects this process to the cluster in the body. A connection that existed before stays open after it."""
    owns = not ray.is_initialized()
    if owns:
        connect(address)
    try:
        yield
    finally:
        if owns:
            shutdown()
