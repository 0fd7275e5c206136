"""The crew on Ray: one actor per member, restarted when its process dies, never silently left out."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private import state as ray_state
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, ObjectLostError, RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedrecon.platform import placement
from fedrecon.platform.crew import at, cause_of
from fedrecon.platform.lane import Buffer, Ends, LaneError, Lanes, Lost, Parcel, unpack
from fedrecon.sites.errors import RunError
from fedrecon.sites.wire import Order, Reply

if TYPE_CHECKING:
    from fedrecon.platform.resources import Resources
    from fedrecon.sites.acquisition import Acquisition
    from fedrecon.sites.settings import Plan
    from fedrecon.sites.site import Site
    from fedrecon.sites.wire import Samples, Scores

READY_TIMEOUT = 600.0
"""Seconds for a placed actor to import torch and open its shard, on a machine that is busy."""

RESTART_TIMEOUT = 600.0
"""Seconds for a dead actor to come back, on its own node or on another that carries its label."""

CONNECT_TIMEOUT = 5.0
"""Seconds for a cluster's address to answer; Ray itself would try for minutes."""

Change = tuple[str, tuple[Any, ...]]
"""A method of the site that changes it for good, and its arguments."""

DIED = (ActorUnavailableError, ObjectLostError)
"""What a call of an actor that will come back ends with; ObjectLost when a whole node took its replies along."""


class SiteActor:
    """A site as a Ray actor, on its own threads and its own GPU; a new process makes the same site again."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self._changed, self._ends = plan, 0, Ends()

    @cached_property
    def site(self) -> Site:
        """The site, made at the first call: what is wrong with its shard is then that call's error."""
        import torch

        from fedrecon.sites.site import Site

        torch.set_num_threads(self.plan.threads)
        return Site(self.plan)

    def call(self, changes: Sequence[Change], method: str, *arguments: Any) -> tuple[int, str, Any]:
        """The process, by which the crew sees that it is a new one; its node; and what the site answers.

        Args:
            changes: all that the crew has changed about the site; a new process catches up with them.
            arguments: an order may come as a :class:`Parcel`, and then the reply goes the same way where it can.
        """
        node = ray.get_runtime_context().get_node_id()
        for name, given in changes[self._changed :]:
            getattr(self.site, name)(*given)
        self._changed = len(changes)
        try:
            ready = [self._ends.receive(one) if isinstance(one, Parcel) else one for one in arguments]
        except LaneError as error:
            return os.getpid(), node, Lost(str(error))
        result = getattr(self.site, method)(*ready)
        if method == "describe":
            result |= {"node": node, "gpus": [str(gpu) for gpu in ray.get_gpu_ids()]}
        back = next((one.back for one in arguments if isinstance(one, Parcel)), None)
        return os.getpid(), node, self._ends.send(result, back)


class RayCrew:
    """Members as actors on the running cluster, or on a local one that this crew starts and stops.

    Args:
        plans: one per member, in the roster's order.
        resources: of the experiment.
        address: of a running cluster; None starts one on this machine. A cluster that this process is connected to
            already (a notebook, a Tune trial) is used as it is and left running.
        bundles: for whom this process's placement group holds a bundle each, after its own; none: there is no group.
    """

    def __init__(
        self, plans: Sequence[Plan], resources: Resources, address: str | None = None, bundles: Sequence[str] = ()
    ) -> None:
        self.resources, self.restarts = resources, 0
        self.dead: dict[str, str] = {}
        self.actors: dict[str, Any] = {}
        self._sites = {plan.member: tuple(plan.shards) for plan in plans}
        self._changes: dict[str, list[Change]] = {plan.member: [] for plan in plans}
        self._processes: dict[str, int | None] = {}
        self._near, self._refused = set[str](), set[str]()
        self._owns = not ray.is_initialized()
        if self._owns:
            connect(address)
        self._node = ray.get_runtime_context().get_node_id()
        self.lanes = Lanes(_store_size(self._node))
        try:
            self._start(plans, bundles)
        except BaseException:
            self.close()
            raise

    @property
    def members(self) -> tuple[str, ...]:
        """See :class:`Crew`."""
        return tuple(name for name in self.actors if name not in self.dead)

    def fit(self, order: Order) -> Iterator[Reply]:
        """See :class:`Crew`. Replies are only read where they lie, in Ray's store or in the member's lane."""
        yield from self._each("fit", (order,), order.round)

    def evaluate(self, order: Order, split: str, part: int | None = None) -> list[Scores]:
        """See :class:`Crew`."""
        return list(self._each("evaluate", (order, split, part)))

    def samples(self, order: Order) -> list[Samples]:
        """See :class:`Crew`."""
        return list(self._each("samples", (order,)))

    def panels(self, order: Order, split: str, note: str) -> dict[str, bytes]:
        """See :class:`Crew`."""
        return {site: png for one in self._each("panel", (order, split, note)) for site, png in one.items()}

    def private(self, order: Order) -> dict[str, Mapping[str, Any]]:
        """See :class:`Crew`."""
        return {name: one for name, one in self._named("private_parameters", (order,)) if one}

    def tune(self) -> dict[str, dict[str, Any]]:
        """See :class:`Crew`. What was chosen is told again to a site that comes back."""
        tuned = dict(self._named("tune", ()))
        for name, one in tuned.items():
            self._changes[name].append(("use", (one["chosen"],)))
        return tuned

    def measure_with(self, operators: Mapping[str, Acquisition]) -> None:
        """See :class:`Crew`."""
        for name, sites in self._sites.items():
            self._changes[name].append(("measure_with", ({site: operators[site] for site in sites},)))

    def describe(self) -> dict[str, dict[str, Any]]:
        """See :class:`Crew`."""
        return dict(self._named("describe", ()))

    def close(self) -> None:
        """Ends the actors, and the cluster if this crew started it."""
        for actor in self.actors.values():
            ray.kill(actor)
        self.actors = {}
        self.lanes.close()
        if self._owns and ray.is_initialized():
            ray.shutdown()

    def _start(self, plans: Sequence[Plan], bundles: Sequence[str]) -> None:
        """Makes the actors, and waits until each has a place and has opened its shard."""
        demanded = seats([plan.member for plan in plans], self.resources, bundles)
        remote, by_member = ray.remote(SiteActor), {plan.member: plan for plan in plans}
        restarts = {"max_restarts": self.resources.max_restarts, "max_task_retries": 0}
        made = {}
        for one in placement.first_bound(demanded):
            options = {**restarts, **one.options(), **seated(one.member, bundles)}
            made[one.member] = remote.options(**options).remote(by_member[one.member])
        self.actors = {plan.member: made[plan.member] for plan in plans}
        self._await_places({one.member: one for one in demanded}, bool(bundles))
        self.describe()

    def _await_places(self, demanded: Mapping[str, placement.Demand], reserved: bool) -> None:
        """Waits until every actor's process runs; refuses when others hold the room of one that is not reserved."""
        waiting = {actor.__ray_ready__.remote(): member for member, actor in self.actors.items()}
        start, patience = time.monotonic(), self.resources.start_timeout
        while waiting:
            _, left = ray.wait(list(waiting), num_returns=len(waiting), timeout=patience)
            waiting, waited = {one: waiting[one] for one in left}, time.monotonic() - start
            homeless = [demanded[m] for m in waiting.values() if not reserved and not _has_place(self.actors[m])]
            placement.check(homeless, free(), waited)
            patience = 2.0
            if waiting and waited > READY_TIMEOUT:
                member = next(iter(waiting.values()))
                raise RunError(at(member, None, f"its process did not start within {waited:.0f} s"))

    def _each(self, method: str, arguments: tuple[Any, ...], round_number: int | None = None) -> Iterator[Any]:
        for _, result in self._named(method, arguments, round_number):
            yield result

    def _named(
        self, method: str, arguments: tuple[Any, ...], round_number: int | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Starts the call everywhere, then takes the results in the roster's order."""
        alive = list(self.members)
        errand = _Errand(self, method, arguments)
        running = {name: errand.start(name) for name in alive}
        for name in alive:
            try:
                result = self._result(name, running.pop(name), errand, round_number)
            except _StaysDeadError as error:
                self._bury(name, round_number, str(error))
                continue
            yield name, result
            del result
        errand.done()

    def _result(self, name: str, reference: Any, errand: _Errand, round_number: int | None) -> Any:
        """The call's result; a member whose process died is asked again once it is back."""
        while True:
            try:
                process, node, result = ray.get(reference)
            except RayTaskError as error:
                raise RunError(at(name, round_number, cause_of(error))) from error
            except ActorDiedError as error:
                raise _StaysDeadError(cause_of(error)) from error
            except DIED:
                self.restarts, self._processes[name] = self.restarts + 1, None
                self._await_return(name)
                reference = errand.start(name)
                continue
            # A process that died between two calls was replaced without an error.
            self.restarts += self._processes.get(name) not in (None, process)
            self._processes[name] = process
            self._note_place(name, node, isinstance(result, Lost))
            if not isinstance(result, Lost):
                return errand.received(name, result)
            reference = errand.start(name)

    def _note_place(self, name: str, node: str, lost: bool) -> None:
        """Whether the member can be reached by a lane; one that could not open one is not asked to again."""
        if lost:
            self._refused.add(name)
        near = node == self._node and name not in self._refused
        (self._near.add if near else self._near.discard)(name)

    def _await_return(self, name: str) -> None:
        """Waits until the restarted actor answers, here or on another node that may hold it."""
        deadline = time.monotonic() + RESTART_TIMEOUT
        while time.monotonic() < deadline:
            try:
                ray.get(self.actors[name].__ray_ready__.remote(), timeout=5.0)
            except (ActorUnavailableError, GetTimeoutError):
                time.sleep(0.2)
            except ActorDiedError as error:
                raise _StaysDeadError(cause_of(error)) from error
            else:
                return
        raise _StaysDeadError(f"did not come back within {RESTART_TIMEOUT:.0f} s")

    def _bury(self, name: str, round_number: int | None, reason: str) -> None:
        self.dead[name] = reason
        self.lanes.drop(name)
        alive, wanted = len(self.actors) - len(self.dead), self.resources.min_sites
        if wanted is None or alive < wanted:
            rule = "resources.min_sites is not set" if wanted is None else f"resources.min_sites is {wanted}"
            raise RunError(
                at(name, round_number, f"stays dead after {self.resources.max_restarts} restarts: {reason}")
                + f" The run stops here: {alive} of {len(self.actors)} sites are left, and {rule}."
            )


class _Errand:
    """One call of a site's method, as each member can be told of it: an order by a lane, or through Ray's store."""

    def __init__(self, crew: RayCrew, method: str, arguments: tuple[Any, ...]) -> None:
        self._crew, self._method, self._arguments = crew, method, arguments
        order = next((one for one in arguments if isinstance(one, Order)), None)
        self._order, self._back = order, dict[str, Buffer]()
        self._posted = crew.lanes.post(order) if order is not None and crew._near else None

    @cached_property
    def _through_ray(self) -> tuple[Any, ...]:
        return tuple(ray.put(one) if isinstance(one, Order) else one for one in self._arguments)

    def start(self, name: str) -> Any:
        """Calls the member, for the first time or again; the reference of its answer."""
        remote, arguments = self._crew.actors[name].call.options(name=f"SiteActor.{self._method}"), self._through(name)
        return remote.remote(self._crew._changes[name], self._method, *arguments)

    def received(self, name: str, result: Any) -> Any:
        """The answer, its vectors read where they lie."""
        if isinstance(result, Parcel):
            result = unpack(result, self._back[name].memory)
        if isinstance(result, Reply):
            self._crew.lanes.replied(name, result)
        return result

    def done(self) -> None:
        """Every call has ended."""
        if self._posted is not None:
            self._crew.lanes.done(self._posted[1])

    def _through(self, name: str) -> tuple[Any, ...]:
        if self._posted is None or name not in self._crew._near:
            return self._through_ray
        parcel = self._posted[0]
        if self._method == "fit" and name not in self._back and self._order is not None:
            buffer = self._crew.lanes.back(name, self._order)
            if buffer is not None:
                self._back[name] = buffer
        if name in self._back:
            parcel = replace(parcel, back=self._back[name].handle)
        return tuple(parcel if isinstance(one, Order) else one for one in self._arguments)


class _StaysDeadError(Exception):
    """A member used up its restarts."""


def seats(members: Sequence[str], resources: Resources, bundles: Sequence[str]) -> list[placement.Demand]:
    """What each member asks for: what its bundle holds, or where there are none its share of the nodes.

    Raises:
        RunError: no node can hold a member.
    """
    if bundles:
        group: Any = get_current_placement_group()
        return placement.bundled(members, [group.bundle_specs[bundles.index(member) + 1] for member in members])
    demanded = placement.demands(members, nodes(), resources.cpus_per_site, resources.gpus_per_site)
    placement.check(demanded, nodes())
    return demanded


def seated(member: str, bundles: Sequence[str]) -> dict[str, Any]:
    """Ray's option that puts a member into its bundle."""
    if not bundles:
        return {}
    group: Any = get_current_placement_group()
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundles.index(member) + 1)}


def _has_place(actor: Any) -> bool:
    """Whether a node has given the actor a process, which may still be starting."""
    try:
        return bool(ray_state.actors(actor._actor_id.hex()).get("Pid"))
    except Exception:  # noqa: BLE001 - not public in Ray; without it a slow start looks like no place
        return False


def _store_size(node: str) -> int:
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
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise RunError(f"no Ray cluster answers at '{address}': {error}") from error
