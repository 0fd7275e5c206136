"""The types of the wire between the server and the sites: five frozen dataclasses.

A :class:`State` stays on the server. A :class:`TrainRequest` goes down to every site. A :class:`TrainReply`,
:class:`Scores` and :class:`Samples` come back. Parameters travel as one flat float32 vector, losses and scores as
numbers. No type holds k-space or an image. The one exception are the pictures in :class:`Samples`: 8-bit PNG, only
where ``evaluation.panels`` allows them. ``extra`` holds further flat vectors by name. The strategy chooses their names
and is responsible for their lengths.

A site also returns values that have no type here: its private parameters, the tuned parameters of a classical method,
a description of its process, and pictures of slices (``fedrecon.sites.member.site``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


def vector(values: Any) -> Vector:
    """``values`` as a flat float32 vector.

    Raises:
        TypeError: the values have another rank or another dtype.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype != np.float32:
        raise TypeError(f"only flat float32 vectors cross the wall, got {array.dtype} of shape {array.shape}")
    return array


@dataclass(frozen=True)
class State:
    """The server's state after ``round`` committed rounds: everything that a strategy needs to resume.

    Attributes:
        round: the number of committed rounds; 0 before the first.
        shared: the shared parameters, (n_shared,).
        extra: further vectors by name: server moments, control variates, the encoders of the round before.
        standing: the last committed round in which each site replied, by site. The site's private memory belongs to
            that round.
    """

    round: int
    shared: Vector
    extra: Mapping[str, Vector] = field(default_factory=dict)
    standing: Mapping[str, int] = field(default_factory=dict)

    def next(self, shared: Vector, extra: Mapping[str, Vector], replied: Mapping[str, int]) -> State:
        """The state after one more round; the keys of ``replied`` are the sites that replied in it."""
        number = self.round + 1
        standing = {**self.standing, **dict.fromkeys(replied, number)}
        return replace(self, round=number, shared=shared, extra=extra, standing=standing)

    def owned(self) -> State:
        """The same state in its own memory: its vectors may be views of a reply, which is valid for one round only."""
        vectors = (self.shared, *self.extra.values())
        if all(value.flags.owndata for value in vectors):
            return self
        shared, *extra = (value if value.flags.owndata else value.copy() for value in vectors)
        return replace(self, shared=shared, extra=dict(zip(self.extra, extra, strict=True)))


@dataclass(frozen=True)
class TrainRequest:
    """The request that the server sends to every site, once a round.

    Attributes:
        round: the round to train (1, 2, ...). A request that scores a state has the number of the round after it.
        shared: the shared parameters, (n_shared,).
        extra: further vectors that the strategy sends down, by name.
        standing: the round of each site's private memory, see :class:`State`; a site loads exactly that round.
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
    """The reply of a site after a local fit.

    Attributes:
        site: the name of the member that replies.
        round: the round that was trained.
        n_slices: the number of training slices, from which the strategy forms the weight of this reply.
        shared: the shared parameters after the fit, (n_shared,).
        extra: further vectors that the strategy sends up, by name.
        losses: means over the local steps, by name; ``loss`` is the first.
        steps: the number of optimiser steps.
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
    """Scores of one member's slices: columns of numbers or names, with one row per slice and stage.

    Volume scores follow exactly from these columns.

    Attributes:
        site: the name of the member that scored.
        split: ``validation`` or ``test``.
        columns: the columns of ``fedrecon.sites.scoring.columns.SCORES``. The column ``stage`` holds ``output`` (the
            method's own image), ``data_consistency`` (that image after hard data consistency) or ``zero_filled``.
        seconds: the time of the reconstruction.
    """

    site: str
    split: str
    columns: Mapping[str, tuple[Any, ...]]
    seconds: float = 0.0


@dataclass(frozen=True)
class Samples:
    """The comparison of the images that a prior draws for a site with the site's own slices.

    Attributes:
        site: the name of the member that compared them.
        round: the round of the request with which the images were drawn.
        numbers: distances by name (see ``fedrecon.sites.scoring.prior_distance``).
        pictures: by member, a PNG grid of drawn images and training slices; empty where ``evaluation.panels`` forbids
            pictures.
    """

    site: str
    round: int
    numbers: Mapping[str, float]
    pictures: Mapping[str, bytes] = field(default_factory=dict)
