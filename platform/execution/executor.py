"""Who carries out a request: Ray actors (``ray_executor.py``), or this process. Both give the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from fedrecon.sites.errors import FedreconError, RunError, at_site

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.wire import Samples, Scores, TrainReply, TrainRequest


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
        """One picture (PNG) per site."""
        ...

    def private(self, request: TrainRequest) -> dict[str, Mapping[str, Any]]:
        """Private parameters by member and name, of members that have any."""
        ...

    def tune_reconstructors(self) -> dict[str, dict[str, Any]]:
        """Tunes a classical reconstructor at every member on its validation subjects; the tables by member."""
        ...

    def measure_with(self, operators: Mapping[str, Acquisition]) -> None:
        """From now on measures with other operators."""
        ...

    def describe(self) -> dict[str, dict[str, Any]]:
        """Where each member runs."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class InProcessExecutor:
    """Every member in this process, one after the other: start-up in two seconds, and pdb works."""

    def __init__(self, plans: Sequence[SitePlan]) -> None:
        from fedrecon.sites.member.site import Site

        self.sites = {plan.member: Site(plan) for plan in plans}
        self.restarts = 0
        self.dead: dict[str, str] = {}

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
        return [self._call(name, "evaluate", request, split, part) for name in self.sites]

    def samples(self, request: TrainRequest) -> list[Samples]:
        """See :class:`Executor`."""
        return [self._call(name, "samples", request) for name in self.sites]

    def panels(self, request: TrainRequest, split: str, note: str) -> dict[str, bytes]:
        """See :class:`Executor`."""
        pictures: dict[str, bytes] = {}
        for name in self.sites:
            pictures |= self._call(name, "panel", request, split, note)
        return pictures

    def private(self, request: TrainRequest) -> dict[str, Mapping[str, Any]]:
        """See :class:`Executor`."""
        found = {name: self._call(name, "private_parameters", request) for name in self.sites}
        return {name: values for name, values in found.items() if values}

    def tune_reconstructors(self) -> dict[str, dict[str, Any]]:
        """See :class:`Executor`."""
        return {name: self._call(name, "tune_reconstructor") for name in self.sites}

    def measure_with(self, operators: Mapping[str, Acquisition]) -> None:
        """See :class:`Executor`."""
        for site in self.sites.values():
            site.measure_with({name: operators[name] for name in site.shards})

    def describe(self) -> dict[str, dict[str, Any]]:
        """See :class:`Executor`."""
        return {name: self._call(name, "describe") for name in self.sites}

    def close(self) -> None:
        """Lets the sites go."""
        self.sites.clear()

    def _call(self, name: str, method: str, *arguments: Any, round_number: int | None = None) -> Any:
        from fedrecon.sites.training.local_loop import threads

        site = self.sites[name]
        with threads(site.plan.threads):
            try:
                return getattr(site, method)(*arguments)
            except FedreconError as error:
                raise RunError(at_site(name, round_number, str(error))) from error
