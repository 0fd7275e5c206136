"""The gate before the merge: each reply is compared with its request and with what the strategy declares.

Every reply of every executor passes here, on the driver, before the strategy sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.sites.errors import RunError, at_site, brief, listed
from fedrecon.sites.extension.origin import named, remedy
from fedrecon.sites.finite import REMEDY, count_not_finite, is_finite, not_finite
from fedrecon.sites.member.usage import NAMES
from fedrecon.sites.score_columns import DISTANCES, METRICS
from fedrecon.sites.wire import PART, State, TrainReply, parts
from fedrecon.strategies.mean import Begun, Replies

if TYPE_CHECKING:
    from fedrecon.platform.execution.wire_log import Reader
    from fedrecon.sites.wire import TrainRequest, Vector
    from fedrecon.strategies import Strategy

SHARED = "shared parameters"

LOSS = re.compile(r"[a-z][a-z0-9_]*")
"""The name of a loss. In the tracker it stands beside those of the scores, which no loss may take."""

MOST_STEPS = 2**63 - 1


@dataclass
class Passed:
    """What is known of the replies that have passed the gate.

    Attributes:
        members: who replied, in the roster's order. bytes_up: bytes of parameters. extra_up: those of extra vectors.
        losses, usage: by member.
    """

    members: list[str] = field(default_factory=list)
    bytes_up: int = 0
    extra_up: int = 0
    losses: dict[str, Mapping[str, float]] = field(default_factory=dict)
    usage: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def note(self, reply: TrainReply) -> None:
        """Counts one more reply."""
        self.members.append(reply.site)
        self.bytes_up += reply.nbytes
        self.extra_up += reply.nbytes - reply.shared.nbytes
        self.losses[reply.site] = reply.losses
        self.usage[reply.site] = reply.usage


class ReplyGate:
    """Checks the replies to one request.

    Args:
        request: the request that the members were sent.
        extras: the lengths of the further vectors that each reply must carry, by name (``Strategy.reply_sizes``).
        members: the members that were asked, in the roster's order.
        dead: the members that stay dead, by reason. The executor may add to it between two replies.
        n_slices: the number of training slices of every member.

    Attributes:
        passed: what is known of the replies that have passed.
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
        self.passed = Passed()
        self._waiting, self._dead = list(members), dead
        self._readers: list[tuple[str, Begun]] = []
        self._reading: _Reading | None = None

    def checked(self, replies: Iterable[TrainReply]) -> Replies:
        """The replies, each checked when it comes.

        Raises:
            RunError: a reply is not what its member was asked for. The message names the site, the round and what is
                wrong.
        """
        return _Checked(self, iter(replies))

    def reader(self, reply: Any) -> Reader | None:
        """What takes the parts of the reply's vectors while the executor's record of messages hashes them.

        A reply that is not read so is read when it is checked. None: it is refused, whatever its values are.
        """
        if self._wrong_form(self._next(), reply):
            return None
        self._reading = _Reading(reply, self._readers)
        return self._reading.take

    def read_by(self, extra: str | None, begun: Begun) -> bool:
        """See :class:`Replies`."""
        if self._reading is not None or self.passed.members:
            return False
        self._readers.append((_wire_name(extra), begun))
        return True

    def check(self, reply: TrainReply) -> None:
        """Notes that the reply has passed, or refuses it."""
        if problem := self._problem(member := self._next(), reply):
            raise RunError(at_site(member, self.round, f"replied with {problem}"))
        del self._waiting[: self._waiting.index(member) + 1]
        self._reading = None
        self.passed.note(reply)

    def check_merge(self, replies: Replies, state: State, strategy: Strategy) -> None:
        """Looks whether a merge took every reply, and says in its state who replied.

        Args:
            replies: what the merge was given. state: what it returned.

        Raises:
            RunError: it left replies out, or names other members. An error of the executor or of this gate that the
                merge took no notice of is raised again.
        """
        taken = len(self.passed.members)
        for _ in replies:  # who is dead is known when there is no reply any more
            pass
        problem, given = "", [name for name, number in state.standing.items() if number == state.round]
        if more := len(self.passed.members) - taken:
            problem = f"merge took {taken} of {taken + more} replies; it must go through all of them"
        elif set(given) != set(self.passed.members):
            whom = [listed(names) or "nobody" for names in (given, self.passed.members)]
            problem = f"merge says that {whom[0]} replied, and it was {whom[1]}"
        if problem:
            kind = type(strategy)
            raise RunError(f"strategy {named(kind)}, round {self.round}: {problem}; refused{remedy(kind)}")

    def _next(self) -> str:
        """The member whose reply comes next; empty if every member has replied."""
        return next((one for one in self._waiting if one not in self._dead), "")

    def _problem(self, member: str, reply: TrainReply) -> str:
        """What is wrong with the reply of this member; empty if nothing is."""
        if problem := self._wrong_form(member, reply):
            return problem
        if self._reading is None:
            self._reading = _Reading(reply, self._readers)
            for name, values in _vectors(reply).items():
                for part in parts(values):
                    self._reading.take(name, part)
        if self._reading.reply is not reply or not self._reading.complete:
            return "another reply than the one that was read; refused."
        found = self._reading.not_finite
        return f"{found}; refused. {REMEDY}" if found else _wrong_number(reply)

    def _wrong_form(self, member: str, reply: Any) -> str:
        """What is wrong with it beside its numbers; empty if nothing is."""
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
        return self._wrong_vector(reply)

    def _wrong_vector(self, reply: TrainReply) -> str:
        given, declared = set(reply.extra), [name for name in self.sizes if name != SHARED]
        says = f"its strategy declares {', '.join(declared) or 'none'}. Refused."
        if more := sorted(given - set(declared)):
            return f"{', '.join(more)} beside the shared parameters; {says}"
        if less := sorted(set(declared) - given):
            return f"no {', '.join(less)} beside the shared parameters; {says}"
        for name, values in ((_said(name), values) for name, values in _vectors(reply).items()):
            if what := _no_vector(values):
                return f"{name} of type {what} instead of a flat float32 vector; refused."
            if len(values) != self.sizes[name]:
                return f"{len(values)} {name} instead of {self.sizes[name]}; refused."
        return ""


class _Checked(Replies):
    """The replies on their way through a gate. After an error there is no reply any more, but the same error again."""

    def __init__(self, gate: ReplyGate, replies: Iterator[TrainReply]) -> None:
        self._gate, self._replies = gate, replies
        self._failed: Exception | None = None

    def __next__(self) -> TrainReply:
        if self._failed is not None:
            raise self._failed
        try:
            reply = next(self._replies)
            self._gate.check(reply)
        except StopIteration:
            raise
        except Exception as error:
            self._failed = error
            raise
        return reply

    def read_by(self, extra: str | None, begun: Begun) -> bool:
        """See :class:`Replies`."""
        return self._gate.read_by(extra, begun)


class _Reading:
    """Takes each vector of a reply once, in parts: looks for NaN in a part, then gives it to those who merge.

    After NaN or infinity nothing more is given: the reply will be refused, and its merge with it.

    Args:
        reply: a reply with the right vectors. readers: names of vectors, and who takes them.
    """

    def __init__(self, reply: TrainReply, readers: Iterable[tuple[str, Begun]]) -> None:
        self.reply, self._vectors = reply, _vectors(reply)
        self._left = {name: len(values) for name, values in self._vectors.items()}
        self._bad: dict[str, int] = {}
        self._finite = np.empty(PART, bool)
        self._given: dict[str, list[Callable[[Vector], None]]] = {}
        for name, begun in readers:
            self._given.setdefault(name, []).append(begun(reply.site, self._left[name]))

    @property
    def complete(self) -> bool:
        """Whether every vector was read from its beginning to its end."""
        return not any(self._left.values())

    @property
    def not_finite(self) -> str:
        """The first vector with NaN or infinity, and in how many values; empty if all are finite."""
        for name, values in self._vectors.items():
            if count := self._bad.get(name):
                return not_finite(count, len(values), _said(name))
        return ""

    def take(self, name: str, part: Vector) -> None:
        """The next part of a vector; what lies where no vector belongs is refused later."""
        if name not in self._left:
            return
        self._left[name] -= len(part)
        if not np.isfinite(part, out=self._finite[: len(part)]).all():
            self._bad[name] = self._bad.get(name, 0) + count_not_finite(part)
        if not self._bad:
            for give in self._given.get(name, ()):
                give(part)


def _wire_name(extra: str | None) -> str:
    """The name of a vector of a reply in the record of messages."""
    return "shared" if extra is None else f"extra/{extra}"


def _vectors(reply: TrainReply) -> dict[str, Any]:
    """The vectors of a reply by their names in the record."""
    return {"shared": reply.shared, **{_wire_name(name): values for name, values in reply.extra.items()}}


def _said(name: str) -> str:
    """The name of a vector in messages, from its name in the record."""
    return SHARED if name == "shared" else name.removeprefix("extra/")


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
