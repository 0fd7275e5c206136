"""Executors carry out requests, on Ray actors (``ray_executor.py``) or in this process. Both give the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from fedrecon.platform.execution.wire_log import MakeReader, WireLog, unread
from fedrecon.sites.errors import errors_at
from fedrecon.sites.wire import ScoreTask, TrainReply, addressed

if TYPE_CHECKING:
    from fedrecon.platform.execution.liveness import Watch
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.wire import (
        Description,
        Panels,
        PanelTask,
        PrivatePart,
        Samples,
        Scores,
        TrainRequest,
        TunedReconstructor,
    )


class Executor(Protocol):
    """The members of one federation, in the roster's order.

    Attributes:
        restarts: number of site processes that died and came back, since the executor was made.
        dead: reasons by member, for the members that stay dead.
        missed: the members that missed the last fit, and why: ``late`` or ``dead`` (``platform/config/resources.py``).
        gpu_shares: number of GPUs by member; empty if all members share the device of this process.
        waited: time in seconds, by member, that calls took which were so long that the member was named. The caller
            clears it.
    """

    restarts: int
    dead: dict[str, str]
    missed: dict[str, str]
    waited: dict[str, float]
    gpu_shares: dict[str, float]

    @property
    def members(self) -> tuple[str, ...]:
        """The members that are alive."""
        ...

    def fit(
        self, request: TrainRequest, without: Sequence[str] = (), reader: MakeReader = unread
    ) -> Iterator[TrainReply]:
        """Trains at every member but those in ``without``. Yields the replies in the roster's order.

        A reply is yielded as soon as it and the replies before it have arrived. Its vectors are valid until the next
        call. A caller that keeps them longer copies them (:meth:`State.owned`).

        Args:
            reader: gives what reads a reply's vectors before it is yielded, while the record of messages hashes them.
        """
        ...

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """Scores of one split at every member; ``part`` is the number of one batch, None takes all batches."""
        ...

    def samples(self, request: TrainRequest) -> list[Samples]:
        """The comparison of a prior's drawn images with the slices of every member."""
        ...

    def panels(self, request: TrainRequest, task: PanelTask) -> list[Panels]:
        """The pictures that the task asks for, of every member that holds one of its sites."""
        ...

    def private_parts(self, request: TrainRequest, members: Sequence[str]) -> dict[str, PrivatePart]:
        """The private parts of these members, by member. Each of them must have consented."""
        ...

    def tune_reconstructors(self) -> dict[str, TunedReconstructor]:
        """Tunes a classical reconstructor at every member, on the member's validation subjects."""
        ...

    def describe(self) -> dict[str, Description]:
        """Descriptions by member: where it runs and which shards it holds."""
        ...

    def close(self) -> None:
        """Ends everything that the executor started."""
        ...


def holds_one(plan: SitePlan, task: PanelTask) -> bool:
    """Whether the member of this plan holds a shard that the task asks for."""
    return not task.sites or not plan.shards.keys().isdisjoint(task.sites)


class InProcessExecutor:
    """Every member in this process, one after the other. It starts in two seconds, and pdb works.

    Args:
        plans: plans of the members, in the roster's order.
        wire_log: record of the messages; None makes one in memory.
        watch: names the members that take long; None names none. Nothing can end a member in this process.
    """

    def __init__(self, plans: Sequence[SitePlan], wire_log: WireLog | None = None, watch: Watch | None = None) -> None:
        from fedrecon.sites.member.site import Site

        self.sites = {plan.member: Site(plan) for plan in plans}
        self.restarts = 0
        self.dead: dict[str, str] = {}
        self.missed: dict[str, str] = {}
        self.gpu_shares: dict[str, float] = {}
        self.waited: dict[str, float] = {} if watch is None else watch.waited
        self._wire_log, self._watch = wire_log or WireLog(), watch

    @property
    def members(self) -> tuple[str, ...]:
        """See :class:`Executor`."""
        return tuple(self.sites)

    def fit(
        self, request: TrainRequest, without: Sequence[str] = (), reader: MakeReader = unread
    ) -> Iterator[TrainReply]:
        """See :class:`Executor`."""
        for name in [one for one in self.sites if one not in without]:
            yield self._call(name, "fit", request, round_number=request.round, reader=reader)

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """See :class:`Executor`."""
        task = ScoreTask(split, part)
        return [self._call(name, "evaluate", request, task, round_number=request.round - 1) for name in self.sites]

    def samples(self, request: TrainRequest) -> list[Samples]:
        """See :class:`Executor`."""
        return [self._call(name, "samples", request, round_number=request.round - 1) for name in self.sites]

    def panels(self, request: TrainRequest, task: PanelTask) -> list[Panels]:
        """See :class:`Executor`."""
        asked = [name for name, one in self.sites.items() if holds_one(one.plan, task)]
        return [self._call(name, "panels", request, task) for name in asked]

    def private_parts(self, request: TrainRequest, members: Sequence[str]) -> dict[str, PrivatePart]:
        """See :class:`Executor`."""
        return {name: self._call(name, "private_part", request) for name in members}

    def tune_reconstructors(self) -> dict[str, TunedReconstructor]:
        """See :class:`Executor`."""
        return {name: self._call(name, "tune_reconstructor") for name in self.sites}

    def describe(self) -> dict[str, Description]:
        """See :class:`Executor`."""
        return {name: self._call(name, "describe") for name in self.sites}

    def close(self) -> None:
        """Releases the sites."""
        self.sites.clear()

    def _call(
        self,
        name: str,
        method: str,
        *arguments: Any,
        round_number: int | None = None,
        reader: MakeReader = unread,
    ) -> Any:
        from fedrecon.sites.member.gate import call
        from fedrecon.sites.training.local_loop import threads

        site = self.sites[name]
        self._wire_log.sent((name,), arguments)
        named = nullcontext() if self._watch is None else self._watch.named(method, round_number, name)
        with threads(site.plan.threads), named, errors_at(name, round_number):
            answer = call(site, method, tuple(addressed(one, name) for one in arguments))
        if isinstance(answer, TrainReply):
            # No copy: each site has a network of its own, and the reply's vector is a view of it until its next call.
            shared = answer.shared.view()
            shared.flags.writeable = False
            answer = replace(answer, shared=shared)
        self._wire_log.received(name, answer, reader(answer))
        return answer
