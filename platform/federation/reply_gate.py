"""The gate before the merge: each reply is compared with its request and with what the strategy declares.

Every reply of every executor passes here, on the driver, before the strategy sees it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.sites.errors import RunError, at_site
from fedrecon.sites.extension.origin import named, remedy
from fedrecon.sites.finite import REMEDY, first_not_finite
from fedrecon.sites.wire import State, TrainReply

if TYPE_CHECKING:
    from fedrecon.sites.wire import TrainRequest
    from fedrecon.strategies import Strategy

SHARED = "shared parameters"


class ReplyGate:
    """Checks the replies to one request.

    Args:
        request: the request that the members were sent.
        extras: the lengths of the further vectors that each reply must carry, by name (``Strategy.reply_sizes``).
        members: the members that were asked, in the roster's order.
        dead: the members that stay dead, by reason. The executor may add to it between two replies.
        n_slices: the number of training slices of every member.
    """

    def __init__(
        self,
        request: TrainRequest,
        extras: Mapping[str, int],
        members: Sequence[str],
        dead: Mapping[str, str],
        n_slices: Mapping[str, int],
    ) -> None:
        self.round, self.sizes, self.n_slices = request.round, {SHARED: len(request.shared), **extras}, n_slices
        self._waiting, self._dead = list(members), dead

    def checked(self, replies: Iterable[TrainReply]) -> Iterator[TrainReply]:
        """The replies, each checked when it comes.

        Raises:
            RunError: a reply is not what its member was asked for. The message names the site, the round and what is
                wrong.
        """
        for reply in replies:
            self._check(reply)
            yield reply

    def _check(self, reply: TrainReply) -> None:
        member = next((one for one in self._waiting if one not in self._dead), "")
        if problem := self._problem(member, reply):
            raise RunError(at_site(member, self.round, f"replied with {problem}"))
        del self._waiting[: self._waiting.index(member) + 1]

    def _problem(self, member: str, reply: Any) -> str:
        """What is wrong with the reply of this member; empty if nothing is."""
        if type(reply) is not TrainReply:
            return f"{type(reply).__name__} instead of a TrainReply; refused."
        if not member:
            return f"the name '{reply.site}', though every member has replied; refused."
        if reply.site != member:
            return f"the name '{reply.site}' instead of its own; refused."
        for name, given, wanted in (
            ("round", reply.round, self.round),
            ("n_slices", reply.n_slices, self.n_slices[member]),
        ):
            if type(given) is not int or given != wanted:
                return f"{name} = {given!r} instead of {wanted}; refused."
        return self._wrong_vector(reply) or _wrong_number(reply)

    def _wrong_vector(self, reply: TrainReply) -> str:
        given, declared = set(reply.extra), [name for name in self.sizes if name != SHARED]
        says = f"its strategy declares {', '.join(declared) or 'none'}. Refused."
        if more := sorted(given - set(declared)):
            return f"{', '.join(more)} beside the shared parameters; {says}"
        if less := sorted(set(declared) - given):
            return f"no {', '.join(less)} beside the shared parameters; {says}"
        vectors: dict[str, Any] = {SHARED: reply.shared, **reply.extra}
        for name, values in vectors.items():
            if what := _no_vector(values):
                return f"{name} of type {what} instead of a flat float32 vector; refused."
            if len(values) != self.sizes[name]:
                return f"{len(values)} {name} instead of {self.sizes[name]}; refused."
        found = first_not_finite(vectors)
        return found and f"{found}; refused. {REMEDY}"


def _wrong_number(reply: TrainReply) -> str:
    numbers = {**reply.losses, "seconds": reply.seconds}
    for name, value in numbers.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            return f"{name} = {value!r} instead of a finite number; refused."
    if type(reply.steps) is not int or reply.steps < 0:
        return f"steps = {reply.steps!r} instead of a number of steps; refused."
    return "" if reply.seconds >= 0 else f"seconds = {reply.seconds!r}, which is negative; refused."


def check_merged(state: State, before: State, strategy: Strategy) -> State:
    """The merged state itself. The commit looks for NaN and infinity in it.

    Args:
        state: what the hook ``merge`` of the strategy returned. before: the state before the round.

    Raises:
        RunError: it is no state of the next round, or a vector of it is no flat float32 vector of its length.
    """
    if problem := _wrong_state(state, before):
        kind, number = type(strategy), before.round + 1
        raise RunError(f"strategy {named(kind)}, round {number}: merge returned {problem}; refused{remedy(kind)}")
    return state


def _wrong_state(state: Any, before: State) -> str:
    """What is wrong with a merged state; empty if nothing is."""
    if not isinstance(state, State):
        return f"{type(state).__name__} instead of state.next(shared, extra, replied)"
    if state.round != before.round + 1:
        return f"a state of round {state.round!r}"
    for name, values in {SHARED: state.shared, **state.extra}.items():
        if what := _no_vector(values):
            return f"{name} of type {what} instead of a flat float32 vector"
    wanted = len(before.shared)
    return f"{len(state.shared)} {SHARED} instead of {wanted}" if len(state.shared) != wanted else ""


def _no_vector(values: Any) -> str:
    """What these values are; empty if they are a flat float32 vector."""
    if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.ndim == 1:
        return ""
    return f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
