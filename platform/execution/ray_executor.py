"""The crew on Ray: one actor per member, restarted when its process dies, never silently left out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, ObjectLostError, RayTaskError

from fedrecon.platform.execution import placement
from fedrecon.platform.execution.ray_cluster import (
    RESTART_TIMEOUT,
    connect,
    free,
    has_process,
    seated,
    seats,
    store_size,
)
from fedrecon.platform.execution.shared_memory import PackedMessage, SharedMemoryError, SiteEndpoint, Unreachable
from fedrecon.platform.execution.transport import Delivery, MakeTransport, SharedMemoryTransport
from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.sites.errors import RunError, at_site, cause_of
from fedrecon.sites.member.gate import check_answer, check_call
from fedrecon.sites.wire import (
    Description,
    PanelTask,
    PrivatePart,
    ScoreTask,
    TrainReply,
    TrainRequest,
    TunedReconstructor,
)

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources
    from fedrecon.sites.member.site import Site
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.wire import Samples, Scores

READY_TIMEOUT = 600.0
"""Seconds for a placed actor to import torch and open its shard, on a machine that is busy."""

Change = tuple[str, tuple[Any, ...]]
"""A method of the site that changes it for good, and its arguments."""

DIED = (ActorUnavailableError, ObjectLostError)
"""What a call of an actor that will come back ends with; ObjectLost when a whole node took its replies along."""


class SiteActor:
    """A site as a Ray actor, on its own threads and its own GPU; a new process makes the same site again."""

    def __init__(self, plan: SitePlan) -> None:
        self.plan, self._changed, self._endpoint = plan, 0, SiteEndpoint()

    @cached_property
    def site(self) -> Site:
        """The site, made at the first call: what is wrong with its shard is then that call's error."""
        import torch

        from fedrecon.sites.member.site import Site

        torch.set_num_threads(self.plan.threads)
        return Site(self.plan)

    def call(self, changes: Sequence[Change], method: str, *arguments: Any) -> tuple[int, str, Any]:
        """The process, by which the crew sees that it is a new one; its node; and what the site answers.

        Args:
            changes: all that the crew has changed about the site; a new process catches up with them.
            arguments: an order may come as a :class:`PackedMessage`, and then the reply goes the same way where it can.
        """
        from fedrecon.sites.member.gate import call

        node = ray.get_runtime_context().get_node_id()
        for name, given in changes[self._changed :]:
            call(self.site, name, given)
        self._changed = len(changes)
        try:
            ready = [self._endpoint.receive(one) if isinstance(one, PackedMessage) else one for one in arguments]
        except SharedMemoryError as error:
            return os.getpid(), node, Unreachable(str(error))
        result = call(self.site, method, tuple(ready))
        if isinstance(result, Description):
            result = replace(result, node=node, gpus=tuple(str(gpu) for gpu in ray.get_gpu_ids()))
        back = next((one.back for one in arguments if isinstance(one, PackedMessage)), None)
        return os.getpid(), node, self._endpoint.send(result, back)


class RayExecutor:
    """Members as actors on the running cluster, or on a local one that this crew starts and stops.

    Args:
        plans: one per member, in the roster's order.
        resources: of the experiment.
        address: of a running cluster; None starts one on this machine. A cluster that this process is connected to
            already (a notebook, a Tune trial) is used as it is and left running.
        bundles: for whom this process's placement group holds a bundle each, after its own; none: there is no group.
    """

    def __init__(
        self,
        plans: Sequence[SitePlan],
        resources: Resources,
        address: str | None = None,
        bundle_members: Sequence[str] = (),
        make_transport: MakeTransport = SharedMemoryTransport,
        wire_log: WireLog | None = None,
    ) -> None:
        self._wire_log = wire_log or WireLog()
        self.resources, self.restarts = resources, 0
        self.dead: dict[str, str] = {}
        self.actors: dict[str, Any] = {}
        self._changes: dict[str, list[Change]] = {plan.member: [] for plan in plans}
        self._processes: dict[str, int | None] = {}
        self._owns = not ray.is_initialized()
        if self._owns:
            connect(address)
        node = ray.get_runtime_context().get_node_id()
        self.transport = make_transport(node, store_size(node))
        try:
            self._start(plans, bundle_members)
        except BaseException:
            self.close()
            raise

    @property
    def members(self) -> tuple[str, ...]:
        """See :class:`Executor`."""
        return tuple(name for name in self.actors if name not in self.dead)

    def fit(self, request: TrainRequest) -> Iterator[TrainReply]:
        """See :class:`Executor`. Replies are only read where they lie, in Ray's store or in the member's lane."""
        yield from self._each("fit", (request,), request.round)

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """See :class:`Executor`."""
        return list(self._each("evaluate", (request, ScoreTask(split, part))))

    def samples(self, request: TrainRequest) -> list[Samples]:
        """See :class:`Executor`."""
        return list(self._each("samples", (request,)))

    def panels(self, request: TrainRequest, split: str, note: str) -> dict[str, bytes]:
        """See :class:`Executor`."""
        answers = self._each("panels", (request, PanelTask(split, note)))
        return {site: png for one in answers for site, png in one.pictures.items()}

    def private_parts(self, request: TrainRequest, members: Sequence[str]) -> dict[str, PrivatePart]:
        """See :class:`Executor`."""
        return dict(self._named("private_part", (request,), members=members))

    def tune_reconstructors(self) -> dict[str, TunedReconstructor]:
        """See :class:`Executor`. A site that comes back is asked to use its choice again."""
        tuned = dict(self._named("tune_reconstructor", ()))
        for name, one in tuned.items():
            self._changes[name].append(("use_reconstructor", (one,)))
        return tuned

    def describe(self) -> dict[str, Description]:
        """See :class:`Executor`."""
        return dict(self._named("describe", ()))

    def close(self) -> None:
        """Ends the actors, and the cluster if this crew started it."""
        for actor in self.actors.values():
            ray.kill(actor)
        self.actors = {}
        self.transport.close()
        if self._owns and ray.is_initialized():
            ray.shutdown()

    def _start(self, plans: Sequence[SitePlan], bundle_members: Sequence[str]) -> None:
        """Makes the actors, and waits until each has a place and has opened its shard."""
        demanded = seats([plan.member for plan in plans], self.resources, bundle_members)
        remote, by_member = ray.remote(SiteActor), {plan.member: plan for plan in plans}
        restarts = {"max_restarts": self.resources.max_restarts, "max_task_retries": 0}
        made = {}
        for one in placement.first_bound(demanded):
            options = {**restarts, **one.options(), **seated(one.member, bundle_members)}
            made[one.member] = remote.options(**options).remote(by_member[one.member])
        self.actors = {plan.member: made[plan.member] for plan in plans}
        self._await_start({one.member: one for one in demanded}, bool(bundle_members))
        self.describe()

    def _await_start(self, demanded: Mapping[str, placement.Demand], reserved: bool) -> None:
        """Waits until every actor's process runs; refuses when others hold the room of one that is not reserved."""
        waiting = {actor.__ray_ready__.remote(): member for member, actor in self.actors.items()}
        start, patience = time.monotonic(), self.resources.start_timeout
        while waiting:
            _, left = ray.wait(list(waiting), num_returns=len(waiting), timeout=patience)
            waiting, waited = {one: waiting[one] for one in left}, time.monotonic() - start
            unplaced = [demanded[m] for m in waiting.values() if not reserved and not has_process(self.actors[m])]
            placement.check(unplaced, free(), waited)
            patience = 2.0
            if waiting and waited > READY_TIMEOUT:
                member = next(iter(waiting.values()))
                raise RunError(at_site(member, None, f"its process did not start within {waited:.0f} s"))

    def _each(self, method: str, arguments: tuple[Any, ...], round_number: int | None = None) -> Iterator[Any]:
        for _, result in self._named(method, arguments, round_number):
            yield result

    def _named(
        self,
        method: str,
        arguments: tuple[Any, ...],
        round_number: int | None = None,
        members: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Starts the call everywhere, then takes the results in the roster's order."""
        check_call(method, arguments)
        alive = [name for name in self.members if members is None or name in members]
        self._wire_log.sent(alive, arguments)
        delivery = self.transport.send(method, arguments)
        running = {name: self._call(name, method, delivery) for name in alive}
        for name in alive:
            try:
                result = self._result(name, method, running.pop(name), delivery, round_number)
            except _StaysDeadError as error:
                self._mark_dead(name, round_number, str(error))
                continue
            self._wire_log.received(name, result)
            yield name, result
            del result
        delivery.close()

    def _call(self, name: str, method: str, delivery: Delivery) -> Any:
        """Calls the member, for the first time or again; the reference of its answer."""
        remote = self.actors[name].call.options(name=f"SiteActor.{method}")
        return remote.remote(self._changes[name], method, *delivery.arguments(name))

    def _result(self, name: str, method: str, reference: Any, delivery: Delivery, round_number: int | None) -> Any:
        """The call's result; a member whose process died is asked again once it is back."""
        while True:
            try:
                process, node, result = ray.get(reference)
            except RayTaskError as error:
                raise RunError(at_site(name, round_number, cause_of(error))) from error
            except ActorDiedError as error:
                raise _StaysDeadError(cause_of(error)) from error
            except DIED:
                self.restarts, self._processes[name] = self.restarts + 1, None
                self._await_return(name)
                reference = self._call(name, method, delivery)
                continue
            # A process that died between two calls was replaced without an error.
            self.restarts += self._processes.get(name) not in (None, process)
            self._processes[name] = process
            self.transport.note_node(name, node, isinstance(result, Unreachable))
            if not isinstance(result, Unreachable):
                return self._checked(name, method, delivery.received(name, result), round_number)
            reference = self._call(name, method, delivery)

    def _checked(self, name: str, method: str, answer: Any, round_number: int | None) -> Any:
        try:
            return check_answer(method, answer)
        except RunError as error:
            raise RunError(at_site(name, round_number, str(error))) from error

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

    def _mark_dead(self, name: str, round_number: int | None, reason: str) -> None:
        self.dead[name] = reason
        self.transport.drop(name)
        alive, wanted = len(self.actors) - len(self.dead), self.resources.min_sites
        if wanted is None or alive < wanted:
            rule = "resources.min_sites is not set" if wanted is None else f"resources.min_sites is {wanted}"
            raise RunError(
                at_site(name, round_number, f"stays dead after {self.resources.max_restarts} restarts: {reason}")
                + f" The run stops here: {alive} of {len(self.actors)} sites are left, and {rule}."
            )


class _StaysDeadError(Exception):
    """A member used up its restarts."""
