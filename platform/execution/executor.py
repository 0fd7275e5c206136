"""Who carries out a request: Ray actors (``ray_executor.py``), or this process. Both give the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.sites.errors import FedreconError, RunError, at_site
from fedrecon.sites.wire import PanelTask, ScoreTask

if TYPE_CHECKING:
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.wire import (
        Description,
        PrivatePart,
        Samples,
        Scores,
        TrainReply,
        TrainRequest,
        TunedReconstructor,
    )


class Executor(Protocol):
    """The members of one federation, in the roster's order.

    Attributes:
        restarts: processes of sites that died and came back, since the crew was made.
        dead: members that stay dead, with the reason.
    """

    restarts: int
    dead: dict[str, str]

    @property
    def members(self) -> tuple[str, ...]:
        """Those that are alive."""
        ...

    def fit(self, request: TrainRequest) -> Iterator[TrainReply]:
        """Trains everywhere; replies come in the roster's order, each as soon as it and those before it are there.

        The vectors of a reply are good until the next fit; who keeps one longer copies it (:meth:`State.owned`).
        """
        ...

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """Scores of one split at every member, or of one batch of it."""
        ...

    def samples(self, request: TrainRequest) -> list[Samples]:
        """What a prior draws for every member."""
        ...

    def panels(self, request: TrainRequest, split: str, note: str) -> dict[str, bytes]:
        """One picture (PNG) for each shard of which pictures may leave."""
        ...

    def private_parts(self, request: TrainRequest, members: Sequence[str]) -> dict[str, PrivatePart]:
        """Private parts of these members; each must have consented."""
        ...

    def tune_reconstructors(self) -> dict[str, TunedReconstructor]:
        """Tunes a classical reconstructor at every member on its validation subjects."""
        ...

    def describe(self) -> dict[str, Description]:
        """Where each member runs."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class InProcessExecutor:
    """Every member in this process, one after the other: start-up in two seconds, and pdb works.

    Args:
        plans: one for each member, in the roster's order. wire_log: notes what crosses the walls.
    """

    def __init__(self, plans: Sequence[SitePlan], wire_log: WireLog | None = None) -> None:
        from fedrecon.sites.member.site import Site

        self.sites = {plan.member: Site(plan) for plan in plans}
        self.restarts = 0
        self.dead: dict[str, str] = {}
        self._wire_log = wire_log or WireLog()

    @property
    def members(self) -> tuple[str, ...]:
        """See :class:`Executor`."""
        return tuple(self.sites)

    def fit(self, request: TrainRequest) -> Iterator[TrainReply]:
        """See :class:`Executor`."""
        for name in self.sites:
            reply = self._call(name, "fit", request, round_number=request.round)
            yield replace(reply, shared=reply.shared.copy())

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """See :class:`Executor`."""
        return [self._call(name, "evaluate", request, ScoreTask(split, part)) for name in self.sites]

    def samples(self, request: TrainRequest) -> list[Samples]:
        """See :class:`Executor`."""
        return [self._call(name, "samples", request) for name in self.sites]

    def panels(self, request: TrainRequest, split: str, note: str) -> dict[str, bytes]:
        """See :class:`Executor`."""
        answers = [self._call(name, "panels", request, PanelTask(split, note)) for name in self.sites]
        return {site: png for one in answers for site, png in one.pictures.items()}

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
        """Lets the sites go."""
        self.sites.clear()

    def _call(self, name: str, method: str, *arguments: Any, round_number: int | None = None) -> Any:
        from fedrecon.sites.member.gate import call
        from fedrecon.sites.training.local_loop import threads

        site = self.sites[name]
        self._wire_log.sent((name,), arguments)
        with threads(site.plan.threads):
            try:
                answer = call(site, method, arguments)
            except FedreconError as error:
                raise RunError(at_site(name, round_number, str(error))) from error
        self._wire_log.received(name, answer)
        return answer
