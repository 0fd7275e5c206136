"""The executor on Ray: one actor for each member. Dead actors are restarted, and no member is left out silently."""

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
    bundle_option,
    connect,
    free,
    has_process,
    member_demands,
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
"""Time in seconds for the process of a placed actor to start, on a busy machine."""

Change = tuple[str, tuple[Any, ...]]
"""A method that changes the site permanently, and the arguments of the method."""

DIED = (ActorUnavailableError, ObjectLostError)
"""The errors of a call to an actor that can come back. ObjectLostError: a node was lost together with a reply."""


class SiteActor:
    """A site as a Ray actor, with its own threads and its own GPU. A restarted process makes the same site again."""

    def __init__(self, plan: SitePlan) -> None:
        self.plan, self._changed, self._endpoint = plan, 0, SiteEndpoint()

    @cached_property
    def site(self) -> Site:
        """The site. It is made at the first call, so that a problem with its shard is an error of that call."""
        import torch

        from fedrecon.sites.member.site import Site

        torch.set_num_threads(self.plan.threads)
        return Site(self.plan)

    def call(self, changes: Sequence[Change], method: str, *arguments: Any) -> tuple[int, str, Any]:
        """Calls a method of the site.

        Args:
            changes: all changes that the executor has made to the site. A restarted process makes them again.
            method: name of the method.
            arguments: arguments of the method. A request may be a :class:`PackedMessage`; then the reply is packed too
                if it has a buffer.

        Returns:
            the process id (a new one shows the executor that the actor was restarted), the id of the Ray node, and the
            answer of the site.
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
    """Members as actors on a running cluster, or on a local cluster that this executor starts and stops.

    Args:
        plans: plans of the members, in the roster's order.
        resources: resources of the experiment.
        address: address of a running cluster; None starts one on this machine. If this process is connected to a
            cluster already (a notebook, a Tune trial), that cluster is used and left running.
        bundle_members: members that have a bundle in the placement group of this process, in the order of the bundles.
            The first bundle of the group belongs to this process. Empty without a placement group.
        make_transport: function that makes the transport of requests and replies.
        wire_log: record of the messages; None makes one in memory.
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
        """See :class:`Executor`. The vectors are read-only views of Ray's store or of the reply buffer."""
        yield from self._each("fit", (request,), request.round)

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """See :class:`Executor`."""
        return list(self._each("evaluate", (request, ScoreTask(split, part)), request.round - 1))

    def samples(self, request: TrainRequest) -> list[Samples]:
        """See :class:`Executor`."""
        return list(self._each("samples", (request,), request.round - 1))

    def panels(self, request: TrainRequest, split: str, note: str) -> dict[str, bytes]:
        """See :class:`Executor`."""
        answers = self._each("panels", (request, PanelTask(split, note)))
        return {site: png for one in answers for site, png in one.pictures.items()}

    def private_parts(self, request: TrainRequest, members: Sequence[str]) -> dict[str, PrivatePart]:
        """See :class:`Executor`."""
        return dict(self._named("private_part", (request,), members=members))

    def tune_reconstructors(self) -> dict[str, TunedReconstructor]:
        """See :class:`Executor`. A restarted site gets its chosen parameters again."""
        tuned = dict(self._named("tune_reconstructor", ()))
        for name, one in tuned.items():
            self._changes[name].append(("use_reconstructor", (one,)))
        return tuned

    def describe(self) -> dict[str, Description]:
        """See :class:`Executor`."""
        return dict(self._named("describe", ()))

    def close(self) -> None:
        """Ends the actors, and the cluster if this executor started it."""
        for actor in self.actors.values():
            ray.kill(actor)
        self.actors = {}
        self.transport.close()
        if self._owns and ray.is_initialized():
            ray.shutdown()

    def _start(self, plans: Sequence[SitePlan], bundle_members: Sequence[str]) -> None:
        """Makes the actors, and waits until each is placed and has opened its shard."""
        demanded = member_demands([plan.member for plan in plans], self.resources, bundle_members)
        remote, by_member = ray.remote(SiteActor), {plan.member: plan for plan in plans}
        restarts = {"max_restarts": self.resources.max_restarts, "max_task_retries": 0}
        made = {}
        for one in placement.first_bound(demanded):
            options = {**restarts, **one.options(), **bundle_option(one.member, bundle_members)}
            made[one.member] = remote.options(**options).remote(by_member[one.member])
        self.actors = {plan.member: made[plan.member] for plan in plans}
        self._await_start({one.member: one for one in demanded}, bool(bundle_members))
        self.describe()

    def _await_start(self, demanded: Mapping[str, placement.Demand], reserved: bool) -> None:
        """Waits until every actor's process is ready.

        Without reserved bundles it refuses an actor that gets no process because others use the resources.
        """
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
        """Calls the living members (of ``members``, if given) at once. Yields the results in the roster's order."""
        check_call(method, arguments)
        alive = [name for name in self.members if members is None or name in members]
        delivery = self.transport.send(method, arguments)
        running = {name: self._call(name, method, arguments, delivery) for name in alive}
        for name in alive:
            try:
                result = self._result(name, method, arguments, running.pop(name), delivery, round_number)
            except _StaysDeadError as error:
                self._mark_dead(name, round_number, str(error))
                continue
            self._wire_log.received(name, result)
            yield name, result
            del result
        delivery.close()

    def _call(self, name: str, method: str, arguments: tuple[Any, ...], delivery: Delivery) -> Any:
        """Calls the member, for the first time or again. Returns the reference of the answer."""
        for _, changed in self._changes[name]:
            self._wire_log.sent((name,), changed)
        self._wire_log.sent((name,), arguments)
        remote = self.actors[name].call.options(name=f"SiteActor.{method}")
        return remote.remote(self._changes[name], method, *delivery.arguments(name))

    def _result(
        self,
        name: str,
        method: str,
        arguments: tuple[Any, ...],
        reference: Any,
        delivery: Delivery,
        round_number: int | None,
    ) -> Any:
        """The result of the call. A member whose process died is called again when it is back."""
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
                reference = self._call(name, method, arguments, delivery)
                continue
            # A process that died between two calls was replaced without an error.
            self.restarts += self._processes.get(name) not in (None, process)
            self._processes[name] = process
            self.transport.note_node(name, node, isinstance(result, Unreachable))
            if not isinstance(result, Unreachable):
                return self._checked(name, method, delivery.received(name, result), round_number)
            reference = self._call(name, method, arguments, delivery)

    def _checked(self, name: str, method: str, answer: Any, round_number: int | None) -> Any:
        try:
            return check_answer(method, answer, name)
        except RunError as error:
            raise RunError(at_site(name, round_number, str(error))) from error

    def _await_return(self, name: str) -> None:
        """Waits until the restarted actor answers, on its node or on another node that can hold it."""
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
    """A member has no restarts left, or did not come back in time."""
