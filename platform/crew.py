"""The seam to the machine: who carries out an order. Ray actors (``crew_ray.py``), or this process: the same bits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from fedrecon.sites.errors import FedreconError, RunError

if TYPE_CHECKING:
    from fedrecon.sites.acquisition import Acquisition
    from fedrecon.sites.settings import Plan
    from fedrecon.sites.wire import Order, Reply, Samples, Scores


class Crew(Protocol):
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

    def fit(self, order: Order) -> Iterator[Reply]:
        """Trains everywhere; replies come in the roster's order, each as soon as it and those before it are there.

        The vectors of a reply are good until the next fit; who keeps one longer copies it (:meth:`State.owned`).
        """
        ...

    def evaluate(self, order: Order, split: str, part: int | None = None) -> list[Scores]:
        """Scores of one split at every member, or of one batch of it."""
        ...

    def samples(self, order: Order) -> list[Samples]:
        """What a prior draws for every member."""
        ...

    def panels(self, order: Order, split: str, note: str) -> dict[str, bytes]:
        """One picture (PNG) per site."""
        ...

    def private(self, order: Order) -> dict[str, Mapping[str, Any]]:
        """Private parameters by member and name, of members that have any."""
        ...

    def tune(self) -> dict[str, dict[str, Any]]:
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


class InProcessCrew:
    """Every member in this process, one after the other: start-up in two seconds, and pdb works."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        from fedrecon.sites.site import Site

        self.sites = {plan.member: Site(plan) for plan in plans}
        self.restarts = 0
        self.dead: dict[str, str] = {}

    @property
    def members(self) -> tuple[str, ...]:
        """See :class:`Crew`."""
        return tuple(self.sites)

    def fit(self, order: Order) -> Iterator[Reply]:
        """See :class:`Crew`."""
        for name in self.sites:
            reply = self._call(name, "fit", order, round_number=order.round)
            yield replace(reply, shared=reply.shared.copy())

    def evaluate(self, order: Order, split: str, part: int | None = None) -> list[Scores]:
        """See :class:`Crew`."""
        return [self._call(name, "evaluate", order, split, part) for name in self.sites]

    def samples(self, order: Order) -> list[Samples]:
        """See :class:`Crew`."""
        return [self._call(name, "samples", order) for name in self.sites]

    def panels(self, order: Order, split: str, note: str) -> dict[str, bytes]:
        """See :class:`Crew`."""
        pictures: dict[str, bytes] = {}
        for name in self.sites:
            pictures |= self._call(name, "panel", order, split, note)
        return pictures

    def private(self, order: Order) -> dict[str, Mapping[str, Any]]:
        """See :class:`Crew`."""
        found = {name: self._call(name, "private_parameters", order) for name in self.sites}
        return {name: values for name, values in found.items() if values}

    def tune(self) -> dict[str, dict[str, Any]]:
        """See :class:`Crew`."""
        return {name: self._call(name, "tune") for name in self.sites}

    def measure_with(self, operators: Mapping[str, Acquisition]) -> None:
        """See :class:`Crew`."""
        for site in self.sites.values():
            site.measure_with({name: operators[name] for name in site.shards})

    def describe(self) -> dict[str, dict[str, Any]]:
        """See :class:`Crew`."""
        return {name: self._call(name, "describe") for name in self.sites}

    def close(self) -> None:
        """Lets the sites go."""
        self.sites.clear()

    def _call(self, name: str, method: str, *arguments: Any, round_number: int | None = None) -> Any:
        from fedrecon.sites.training import threads

        site = self.sites[name]
        with threads(site.plan.threads):
            try:
                return getattr(site, method)(*arguments)
            except FedreconError as error:
                raise RunError(at(name, round_number, str(error))) from error


def at(member: str, round_number: int | None, message: str) -> str:
    """A message with where it happened in front."""
    when = f", round {round_number}" if round_number is not None else ""
    return f"site '{member}'{when}: {message}"


def cause_of(error: BaseException) -> str:
    """Our own errors speak for themselves; of the others the kind, and of a long text its last line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, FedreconError):
        return str(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = " ".join(lines[-1:] if len(lines) > 6 else lines)
    return f"{type(cause).__name__}: {textwrap.shorten(text, 240, placeholder=' ...')}"
