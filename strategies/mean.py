"""The weighted mean of the vectors of a round."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from fedrecon.sites.errors import RunError, brief
from fedrecon.sites.extension.origin import named, remedy
from fedrecon.sites.wire import PART, TrainReply, Vector, parts


def checked(strategy: type, weights: Any, members: Iterable[str]) -> dict[str, float]:
    """The weights themselves.

    Args:
        strategy: the class whose hook ``weights`` gave them. members: all members of the roster.

    Raises:
        RunError: they are no weights of a mean; the message names the strategy and says what they are.
    """
    if problem := wrong_weights(weights, members):
        raise RunError(f"strategy {named(strategy)}: {problem}{remedy(strategy)}")
    found: dict[str, float] = weights
    return found


def wrong_weights(weights: Any, members: Iterable[str]) -> str:
    """Why these are no weights of a mean over the members; empty if they are: finite, not negative, with the sum 1."""
    if not isinstance(weights, dict) or weights.keys() != {*members}:
        given = f"of {', '.join(map(str, weights))}" if isinstance(weights, dict) else f"as {type(weights).__name__}"
        return f"weights {given} instead of a dict of {', '.join(members)}"
    for name, one in weights.items():
        if not (isinstance(one, Real) and math.isfinite(one) and float(one) >= 0):
            return f"weights: {brief(one)} of '{name}', expected a finite number of at least 0"
    total = sum(weights.values())
    return f"weights sum to {total:.6g}, expected 1" if abs(total - 1) > 1e-6 else ""


# Takes a member and the length of its vector. Returns what takes the parts of the vector, in order.
Begun = Callable[[str, int], Callable[[Vector], None]]


class Replies(Iterator[TrainReply]):
    """The replies of a round, as the platform gives them to a merge: each vector is read once, in parts.

    Who reads a vector of every reply can take its parts while they are in the processor's cache, because they are
    searched for NaN then. Before a reply is yielded it is read to its end, and checked.
    """

    @abstractmethod
    def read_by(self, extra: str | None, begun: Begun) -> bool:
        """Has ``begun`` take a vector of every reply.

        Args:
            extra: name of the extra vector; None takes the shared parameters.

        Returns:
            False if it cannot: a reply was read before.
        """


class Mean:
    """A weighted mean that takes one vector at a time, in float32 and in one pass. It keeps no copy of a reply.

    The weights are fixed before the first fold. So the result depends only on the order of the folds, which is the
    roster's order. If a member did not reply, the mean is taken over the members that did.

    Args:
        weights: the weight of every member.
        size: the length of the vectors.
    """

    def __init__(self, weights: Mapping[str, float], size: int) -> None:
        self.weights, self.total, self._folded = weights, np.zeros(size, np.float32), 0.0
        self._scratch = np.empty(min(size, PART), np.float32)
        self._missing = set(weights)

    def folded(self, replies: Iterable[TrainReply], extra: str | None = None) -> Iterable[TrainReply]:
        """The replies themselves. A vector of each is folded before the reply is yielded.

        Args:
            extra: name of the extra vector that is folded; None folds the shared parameters.
        """
        if isinstance(replies, Replies) and replies.read_by(extra, self._begun):
            return replies
        return self._folding(replies, extra)

    def fold(self, member: str, values: Vector) -> None:
        """Adds ``weight * values``; ``values`` (size,) is only read.

        Raises:
            ValueError: ``values`` has another length.
        """
        add = self._begun(member, len(values))
        for part in parts(values):
            add(part)

    def value(self) -> Vector:
        """The mean over the members that were folded, (size,). Call it once, at the end.

        Raises:
            ValueError: no member was folded. RunError: only such of weight 0 were, and others did not reply.
        """
        if len(self._missing) == len(self.weights):
            raise ValueError("no member replied, so there is no mean")
        if self._missing and not self._folded > 0:
            heard = ", ".join(sorted(set(self.weights) - self._missing))
            raise RunError(f"all members that replied have weight 0 ({heard}), so there is no mean")
        if self._missing:
            self.total /= np.float32(self._folded)
        return self.total

    def _folding(self, replies: Iterable[TrainReply], extra: str | None) -> Iterator[TrainReply]:
        for reply in replies:
            self.fold(reply.site, reply.shared if extra is None else reply.extra[extra])
            yield reply

    def _begun(self, member: str, size: int) -> Callable[[Vector], None]:
        if size != len(self.total):
            raise ValueError(f"'{member}' replied with {size} values instead of {len(self.total)}")
        weight, start = np.float32(self.weights[member]), 0
        self._folded += self.weights[member]
        self._missing.discard(member)

        def add(part: Vector) -> None:
            nonlocal start
            own = self.total[start : (start := start + len(part))]
            np.add(own, np.multiply(part, weight, out=self._scratch[: len(part)]), out=own)

        return add
