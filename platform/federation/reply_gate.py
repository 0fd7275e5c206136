"""The gate before the merge: each reply is compared with its request and with what the strategy declares.

Every reply of every executor passes here, on the driver, before the strategy sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.sites.errors import RunError, at_site, brief
from fedrecon.sites.extension.origin import named, remedy
from fedrecon.sites.finite import REMEDY, first_not_finite, is_finite
from fedrecon.sites.member.usage import NAMES
from fedrecon.sites.score_columns import DISTANCES, METRICS
from fedrecon.sites.wire import State, TrainReply

if TYPE_CHECKING:
    from fedrecon.sites.wire import TrainRequest
    from fedrecon.strategies import Strategy

SHARED = "shared parameters"

LOSS = re.compile(r"[a-z][a-z0-9_]*")
"""The name of a loss. In the tracker it stands beside those of the scores, which no loss may take."""

MOST_STEPS = 2**63 - 1


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
            return f"the name {brief(reply.site)}, though every member has replied; refused."
        if reply.site != member:
            return f"the name {brief(reply.site)} instead of its own; refused."
        for name, given, wanted in (
            ("round", reply.round, self.round),
            ("n_slices", reply.n_slices, self.n_slices[member]),
        ):
            if type(given) is not int or given != wanted:
                return f"{name} = {brief(given)} instead of {wanted}; refused."
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
    if "loss" not in reply.losses:
        return "no loss among its losses; refused."
    for name in reply.losses:
        if not LOSS.fullmatch(name) or name in (*METRICS, *DISTANCES):
            return f"a loss of the name {brief(name)}: a score has it, or it is not made of a-z, 0-9 and _; refused."
    if strange := [name for name in reply.usage if name not in NAMES]:
        return f"a usage of the name {brief(strange[0])} instead of {', '.join(NAMES)}; refused."
    for name, value in (*reply.losses.items(), *reply.usage.items(), ("seconds", reply.seconds)):
        if not is_finite(value):
            return f"{name} = {brief(value)} instead of a finite number; refused."
    for name, value in (*reply.usage.items(), ("seconds", reply.seconds)):
        if value < 0:
            return f"{name} = {value!r}, which is negative; refused."
    if type(reply.steps) is not int or not 0 <= reply.steps <= MOST_STEPS:
        return f"steps = {brief(reply.steps)} instead of a number of steps; refused."
    return ""


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
    if type(values) is not np.ndarray:  # a class of one's own may hide values, as a masked array does
        return type(values).__name__
    return "" if values.dtype == np.float32 and values.ndim == 1 else f"{values.dtype} of shape {values.shape}"
