"""ALL that crosses a hospital's wall: five frozen types, and no others.

Parameters travel as one flat float32 vector, losses and scores as numbers. There is no type for k-space or for an
image, so neither can travel; the one named exception are pictures, 8-bit PNG, where ``evaluation.panels`` allows them.
An ``extra`` is a flat vector whose name the strategy has declared, and whose length it answers for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


def vector(values: Any) -> Vector:
    """``values`` as a flat float32 vector; anything with another rank is refused."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype != np.float32:
        raise TypeError(f"only flat float32 vectors cross the wall, got {array.dtype} of shape {array.shape}")
    return array


@dataclass(frozen=True)
class State:
    """What the server knows after ``round`` committed rounds: everything a resume needs of a strategy.

    Attributes:
        round: the number of committed rounds; 0 before the first.
        shared: the shared parameters, (n_shared,).
        extra: further vectors by name: server moments, control variates, the encoders of the round before.
        standing: for each site the last committed round in which it replied; its private memory is of that round.
    """

    round: int
    shared: Vector
    extra: Mapping[str, Vector] = field(default_factory=dict)
    standing: Mapping[str, int] = field(default_factory=dict)

    def next(self, shared: Vector, extra: Mapping[str, Vector], replied: Mapping[str, int]) -> State:
        """The state after one more round in which the sites ``replied`` (their names are the keys)."""
        number = self.round + 1
        standing = {**self.standing, **dict.fromkeys(replied, number)}
        return replace(self, round=number, shared=shared, extra=extra, standing=standing)

    def owned(self) -> State:
        """The same state with memory of its own: a view may look at a reply, which is good for one round only."""
        vectors = (self.shared, *self.extra.values())
        if all(value.flags.owndata for value in vectors):
            return self
        shared, *extra = (value if value.flags.owndata else value.copy() for value in vectors)
        return replace(self, shared=shared, extra=dict(zip(self.extra, extra, strict=True)))


@dataclass(frozen=True)
class TrainRequest:
    """What the server sends to every site, once a round.

    Attributes:
        round: the round to train (1, 2, ...), or the round whose state is to be scored.
        shared: the shared parameters, (n_shared,).
        extra: what else the strategy sends down, by name.
        standing: see :class:`State`; a site loads its private memory of exactly that round.
    """

    round: int
    shared: Vector
    extra: Mapping[str, Vector] = field(default_factory=dict)
    standing: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of parameters that go down to ONE site."""
        return self.shared.nbytes + sum(value.nbytes for value in self.extra.values())


@dataclass(frozen=True)
class TrainReply:
    """What a site sends back after a local fit.

    Attributes:
        site: who replies.
        round: the round that was trained.
        n_slices: training slices, the weight of this reply.
        shared: the shared parameters after the fit, (n_shared,).
        extra: what else the strategy sends up, by declared name.
        losses: means over the local steps, by name; ``loss`` is the first.
        steps: optimiser steps taken.
        seconds: wall time of the fit at the site.
    """

    site: str
    round: int
    n_slices: int
    shared: Vector
    extra: Mapping[str, Vector] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of parameters that went up."""
        return self.shared.nbytes + sum(value.nbytes for value in self.extra.values())


@dataclass(frozen=True)
class Scores:
    """Scores of one site's slices: a column of numbers or names each, one row per slice and stage.

    ``stage`` is ``output`` (the method's own), ``data_consistency`` (after hard data consistency) or ``zero_filled``.
    The columns are those of ``fedrecon.sites.scoring.columns.SCORES``; volume scores follow from them exactly.
    ``seconds`` is the time that reconstructing took.
    """

    site: str
    split: str
    columns: Mapping[str, tuple[Any, ...]]
    seconds: float = 0.0


@dataclass(frozen=True)
class Samples:
    """What a site says of the images that a prior draws for it.

    Attributes:
        site: the member that compared them with its own slices.
        round: of the state that drew them.
        numbers: distances by name (see ``fedrecon.sites.scoring.prior_distance``).
        pictures: a grid of them (PNG) by site; empty where ``evaluation.panels`` forbids pictures.
    """

    site: str
    round: int
    numbers: Mapping[str, float]
    pictures: Mapping[str, bytes] = field(default_factory=dict)
