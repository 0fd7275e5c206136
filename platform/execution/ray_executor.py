"""The executor on Ray: one actor for each member. Dead actors are restarted, and no member is left out silently."""

from __future__ import annotations

import time
import uuid
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, ObjectLostError, RayTaskError

from fedrecon.platform.config.resources import DEAD, LATE
from fedrecon.platform.execution import placement
from fedrecon.platform.execution.executor import holds_one
from fedrecon.platform.execution.liveness import Watch
from fedrecon.platform.execution.lost_ray import LOOK, check_ray, kill, shutdown
from fedrecon.platform.execution.ray_cluster import (
    RESTART_TIMEOUT,
    bundle_option,
    connect,
    cpus,
    fetch,
    free,
    has_process,
    member_demands,
    store_size,
)
from fedrecon.platform.execution.shared_memory import Unreachable
from fedrecon.platform.execution.site_actor import ActorPool, Change, SiteActor, Tenancy, Vacant, kind_of, rounds_of
from fedrecon.platform.execution.transport import Delivery, MakeTransport, SharedMemoryTransport
from fedrecon.platform.execution.wire_log import MakeReader, WireLog, unread
from fedrecon.sites.errors import RunError, at_site, cause_of, errors_at
from fedrecon.sites.member.gate import check_answer, check_call
from fedrecon.sites.phases import Step, phase
from fedrecon.sites.wire import (
    Description,
    PrivatePart,
    ScoreTask,
    TrainReply,
    TrainRequest,
    TunedReconstructor,
)

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.wire import Panels, PanelTask, Samples, Scores

ENDED = "did not answer in time, and its process was ended"

AHEAD = 2
"""Number of replies that other nodes send to this one while a reply is merged. Each takes its size in Ray's store here:
the driver holds at most this many beside the one that it merges and the one that it has just merged."""

PEEK = 0.25
"""Time in seconds between two looks for answers that have come up and can be sent here."""

DIED = (ActorUnavailableError, ObjectLostError)
"""The errors of a call to an actor that can come back. ObjectLostError: a node was lost together with a reply."""


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
        watch: clock of the calls; None makes one that says nothing.
        pool: takes the actors when this executor closes, and gives those of an earlier one; None ends them. A cluster
            that this executor starts ends with its actors.
    """

    def __init__(
        self,
        plans: Sequence[SitePlan],
        resources: Resources,
        address: str | None = None,
        bundle_members: Sequence[str] = (),
        make_transport: MakeTransport = SharedMemoryTransport,
        wire_log: WireLog | None = None,
        watch: Watch | None = None,
        pool: ActorPool | None = None,
    ) -> None:
        self._prepare(resources, wire_log or WireLog(), watch or Watch())
        self._changes: dict[str, list[Change]] = {plan.member: [] for plan in plans}
        self._plans, self._token, self._pool = {plan.member: plan for plan in plans}, uuid.uuid4().hex, pool
        self._owns = not ray.is_initialized()
        if self._owns:
            connect(address)
        node = ray.get_runtime_context().get_node_id()
        self.transport = make_transport(node, store_size(node))
        try:
            with phase("starting sites", len(plans)) as opened:
                self._start(plans, bundle_members, opened)
        except BaseException:
            self.close()
            raise

    def _prepare(self, resources: Resources, wire_log: WireLog, watch: Watch) -> None:
        self._wire_log, self._watch, self.resources = wire_log, watch, resources
        watch.patience.fit_timeout = None if resources.fit_timeout == "auto" else resources.fit_timeout
        self.restarts, self.waited = 0, watch.waited
        self.dead: dict[str, str] = {}
        self.missed: dict[str, str] = {}
        self.actors: dict[str, Any] = {}
        self._processes: dict[str, int | None] = {}
        self._kinds: dict[str, Hashable] = {}
        self._restarted: dict[str, int] = {}
        self._open: dict[str, Any] = {}
        self._overdue: set[str] = set()
        self._returning: set[str] = set()

    @property
    def members(self) -> tuple[str, ...]:
        """See :class:`Executor`."""
        return tuple(name for name in self.actors if name not in self.dead)

    def fit(
        self, request: TrainRequest, without: Sequence[str] = (), reader: MakeReader = unread
    ) -> Iterator[TrainReply]:
        """See :class:`Executor`. The vectors are read-only views of Ray's store or of the reply buffer."""
        self.missed.clear()
        asked = [name for name in self.members if name not in without]
        yield from (reply for _, reply in self._named("fit", (request,), request.round, asked, reader=reader))

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """See :class:`Executor`."""
        return list(dict(self._named("evaluate", (request, ScoreTask(split, part)), request.round - 1)).values())

    def samples(self, request: TrainRequest) -> list[Samples]:
        """See :class:`Executor`."""
        return list(dict(self._named("samples", (request,), request.round - 1)).values())

    def panels(self, request: TrainRequest, task: PanelTask) -> list[Panels]:
        """See :class:`Executor`."""
        asked = [name for name, plan in self._plans.items() if holds_one(plan, task)]
        return list(dict(self._named("panels", (request, task), members=asked)).values())

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
        """Gives the actors to the pool or ends them, and ends the cluster if this executor started it."""
        for name, actor in () if self._owns else self.actors.items():  # an own cluster ends with its actors
            if self._pool is not None and self._is_calm(name):
                self._pool.give(self._kinds[name], actor)
            else:
                kill(actor)
        self.actors = {}
        self.transport.close()
        if self._owns:
            shutdown()

    def _start(self, plans: Sequence[SitePlan], bundle_members: Sequence[str], opened: Step) -> None:
        """Makes the actors, and waits until each is placed and has opened its shard."""
        demanded = member_demands([plan.member for plan in plans], self.resources, bundle_members)
        self.gpu_shares = {one.member: one.gpus for one in demanded}
        remote = ray.remote(SiteActor)
        restarts = {"max_restarts": self.resources.max_restarts, "max_task_retries": 0}
        options = {
            one.member: {**restarts, **one.options(), **bundle_option(one.member, bundle_members)} for one in demanded
        }
        self._kinds = {plan.member: kind_of(options[plan.member], plan) for plan in plans}
        made = {} if self._pool is None else self._pool.take(self._kinds)
        for one in placement.first_bound(demanded):
            if one.member not in made:
                made[one.member] = remote.options(**options[one.member]).remote()
        self.actors = {plan.member: made[plan.member] for plan in plans}
        self._await_start({one.member: one for one in demanded}, bool(bundle_members))
        # The first call imports torch and opens the shard: seconds of a CPU. More of them at once than there are CPUs
        # come no sooner, and each of them late.
        for _ in self._named("describe", (), at_once=cpus()):
            opened()

    def _await_start(self, demanded: Mapping[str, placement.Demand], reserved: bool) -> None:
        """Waits until every actor is ready, or has a process at least: a first call has a clock.

        Without reserved bundles it refuses an actor that gets no process because others use the resources.
        """
        self._open = {member: actor.__ray_ready__.remote() for member, actor in self.actors.items()}
        self._watch.ask("start", None, self._open)
        start, patience, unplaced = time.monotonic(), self.resources.start_timeout, list(self._open)
        while unplaced:
            _, left = ray.wait(list(self._open.values()), num_returns=len(self._open), timeout=patience)
            check_ray()
            late = [member for member, one in self._open.items() if one in left]
            unplaced = [member for member in late if not has_process(self.actors[member])]
            waited = time.monotonic() - start
            placement.check([demanded[m] for m in unplaced if not reserved], free(), waited)
            self._watch.due(late)
            patience = 2.0
            if unplaced and waited > RESTART_TIMEOUT:
                raise RunError(at_site(unplaced[0], None, f"its process did not start within {waited:.0f} s"))

    def _named(
        self,
        method: str,
        arguments: tuple[Any, ...],
        round_number: int | None = None,
        members: Sequence[str] | None = None,
        at_once: int | None = None,
        reader: MakeReader = unread,
    ) -> Iterator[tuple[str, Any]]:
        """Calls the living members (of ``members``, if given). Yields the results in the roster's order.

        Args:
            at_once: largest number of calls that run at the same time; None calls all members at once.
            reader: gives what reads the vectors of a result.
        """
        check_call(method, arguments)
        check_ray(own=True)
        alive = [name for name in self.members if members is None or name in members]
        delivery = self.transport.send(method, arguments)
        self._overdue, self._open, skipped = set(), {}, 0
        self._watch.ask(method, round_number, ())
        for place, name in enumerate(alive):
            for one in alive[place + len(self._open) : place + (at_once or len(alive))]:
                self._open[one] = self._call(one, method, arguments, delivery)
                self._watch.ask_again(one)
            # A round may go on without a late member as long as enough others can reply.
            rest = sum(one not in self.dead for one in alive) - skipped - 1
            skip = method == "fit" and self.resources.straggler == "skip" and rest >= (self.resources.min_sites or 0)
            try:
                result = self._result(name, method, arguments, delivery, round_number, skip)
            except _StaysDeadError as error:
                self._mark_dead(name, round_number, str(error))
                continue
            except _SkippedError:
                skipped += 1
                continue
            finally:
                self._open.pop(name)
            self._wire_log.received(name, result, reader(result))
            self._fetch_ahead()
            yield name, result
            del result
        delivery.close()

    def _fetch_ahead(self, more: int = 0) -> None:
        """Has Ray bring the next answers to this node, as far as they are given. No order depends on it."""
        fetch(list(self._open.values())[: AHEAD + more])

    def _call(self, name: str, method: str, arguments: tuple[Any, ...], delivery: Delivery) -> Any:
        """Calls the member, for the first time or again. Returns the reference of the answer."""
        for _, changed in self._changes[name]:
            self._wire_log.sent((name,), changed)
        self._wire_log.sent((name,), arguments)
        remote = self.actors[name].call.options(name=f"SiteActor.{method}")
        plan = self._plans[name] if self._processes.get(name) is None else None
        tenancy = Tenancy(f"{self._token} {name}", plan, *rounds_of(arguments, name))
        return remote.remote(tenancy, self._changes[name], method, *delivery.arguments(name))

    def _result(
        self,
        name: str,
        method: str,
        arguments: tuple[Any, ...],
        delivery: Delivery,
        round_number: int | None,
        skip: bool,
    ) -> Any:
        """The result of the open call. A member whose process died is called again when it is back.

        Args:
            skip: whether a member that was too late is left out of the round instead.
        """
        looked = time.monotonic()
        while True:
            self._fetch_ahead(more=1)
            try:
                process, node, result = ray.get(self._open[name], timeout=min(PEEK, self._watch.rest()))
            except RayTaskError as error:
                raise RunError(at_site(name, round_number, cause_of(error))) from error
            except GetTimeoutError:
                if time.monotonic() - looked >= LOOK or not self._watch.rest():
                    self._end_overdue()
                    looked = time.monotonic()
                continue
            except ActorDiedError as error:
                raise _StaysDeadError(ENDED if name in self._overdue else cause_of(error)) from error
            except DIED as error:
                self._note_restart(name, round_number, late := name in self._overdue)
                if skip and late:
                    self._leave_out(name, round_number)
                    raise _SkippedError from error
                self._await_return(name)
                self._open[name] = self._call(name, method, arguments, delivery)
                self._watch.ask_again(name)
                continue
            # A process that died between two calls, or was ended before it took this one, is replaced without an error.
            known, late = self._processes.get(name), name in self._overdue
            self._returning.discard(name)
            if late or known not in (None, process):
                self._note_restart(name, round_number, late)
            if late and known == process:  # it answered in the last moment, and ends now
                self._returning.add(name)
            self._processes[name] = None if isinstance(result, Vacant) else process
            self.transport.note_node(name, node, isinstance(result, Unreachable))
            if not isinstance(result, Unreachable | Vacant):
                self._watch.answered(name)
                with errors_at(name, round_number):
                    answer = delivery.received(name, result)
                    return check_answer(method, arguments, answer, name, self._plans[name].shards)
            self._open[name] = self._call(name, method, arguments, delivery)

    def _end_overdue(self, *returning: str) -> None:
        """Names the members that have not answered, and ends the processes of those that have used up their time."""
        check_ray()
        # An answer that is given and still on its way is not late, and what is not due to be fetched stays where it is.
        _, left = ray.wait(list(self._open.values()), num_returns=len(self._open), timeout=0, fetch_local=False)
        late = [name for name, one in self._open.items() if one in left or name in returning]
        arriving = [name for name in list(self._open)[:1] if name not in late]
        for name in self._watch.due(late, arriving):
            self._overdue.add(name)
            kill(self.actors[name], no_restart=False)  # it ends a stopped process too, after some seconds

    def _note_restart(self, name: str, round_number: int | None, late: bool) -> None:
        """Counts a process that died, and says so. A member that was left out of a round was counted then."""
        check_ray()
        self._processes[name] = None
        self._overdue.discard(name)
        if name in self._returning:
            self._returning.remove(name)
            return
        self.restarts += 1
        self._restarted[name] = self._restarted.get(name, 0) + 1
        why = ENDED if late else "its process died"
        text = f"{why}; restart {self._restarted[name]} of at most {self.resources.max_restarts}"
        self._watch.say(at_site(name, round_number, text))
        self._watch.note("restarted", name, why=why)

    def _leave_out(self, name: str, round_number: int | None) -> None:
        self.missed[name] = LATE
        self._returning.add(name)
        self._watch.say(at_site(name, round_number, "the round goes on without it (resources.straggler is skip)"))
        self._watch.note("skipped", name)

    def _is_calm(self, name: str) -> bool:
        """Whether the member's process has no call left and never died, so that another executor may use it."""
        troubled = (self._open, self.dead, self._overdue, self._returning, self._restarted)
        return self._processes.get(name) is not None and not any(name in one for one in troubled)

    def _await_return(self, name: str) -> None:
        """Waits until the restarted actor answers, on its node or on another node that can hold it."""
        deadline = time.monotonic() + RESTART_TIMEOUT
        while time.monotonic() < deadline:
            try:
                ray.get(self.actors[name].__ray_ready__.remote(), timeout=min(5.0, self._watch.rest()))
            except (ActorUnavailableError, GetTimeoutError):
                self._end_overdue(name)
                time.sleep(0.2)
            except ActorDiedError as error:
                raise _StaysDeadError(ENDED if name in self._overdue else cause_of(error)) from error
            else:
                return
        raise _StaysDeadError(f"did not come back within {RESTART_TIMEOUT:.0f} s")

    def _mark_dead(self, name: str, round_number: int | None, reason: str) -> None:
        check_ray()
        self.dead[name], self.missed[name] = reason, DEAD
        self.transport.drop(name)
        self._watch.note("dead", name, why=reason)
        alive, wanted = len(self.actors) - len(self.dead), self.resources.min_sites
        if wanted is None or alive < wanted:
            rule = "resources.min_sites is not set" if wanted is None else f"resources.min_sites is {wanted}"
            text = (
                f"stays dead after {self._restarted.get(name, 0)} restarts: {reason.rstrip('.')}. The run stops here: "
            )
            raise RunError(
                at_site(name, round_number, f"{text}{alive} of {len(self.actors)} sites are left, and {rule}.")
            )
        text = f"stays dead; the run goes on with {alive} of {len(self.actors)} sites: {reason}"
        self._watch.say(at_site(name, round_number, text))


class _StaysDeadError(Exception):
    """A member has no restarts left, or did not come back in time."""


class _SkippedError(Exception):
    """A member was too late, and the round goes on without it."""
