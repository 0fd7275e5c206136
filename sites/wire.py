"""ALL that crosses a hospital's wall: a closed list of frozen types and of the methods that a site answers.

Parameters travel as one flat float32 vector, losses and scores as numbers, names as text. There is no type for
k-space or for an image. Two types may hold pictures (8-bit PNG), and only where
``evaluation.panels`` allows them: :class:`Panels` and :class:`Samples`. One type holds a site's private part, and
only by its consent (``publish_private``): :class:`PrivatePart`. What is in no list here cannot be sent:
:mod:`fedrecon.sites.wire_check` refuses it, on both sides, for every executor. An ``extra`` is a flat vector whose
name the strategy declares (``Strategy.replies``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Buffers = NDArray[np.bool_]
"""Which values of a vector are buffers of the network, such as running statistics, and no trained parameters."""


def vector(values: Any) -> Vector:
    """``values`` as a flat float32 vector.

    Raises:
        TypeError: the values have another rank or another dtype.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype != np.float32:
        raise TypeError(f"only flat float32 vectors cross the wall, got {array.dtype} of shape {array.shape}")
    return array


PART = 1 << 16
"""Number of values of a long vector that are read at once. They stay in the processor's cache while one reader after
the other takes them, so that the vector comes from the memory once."""


def parts(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A flat array in parts of at most :data:`PART` values, in order. They are views of it."""
    for start in range(0, len(values), PART):
        yield values[start : start + PART]


@dataclass(frozen=True)
class State:
    """The server's state after ``round`` committed rounds: everything that a strategy needs to resume.

    It stays at the server; it is no message. A request is made from it.

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
    """The request that the server sends to every site, once a round; each site gets it as :meth:`of` makes it.

    Attributes:
        round: the round to train (1, 2, ...). A request that scores a state has the number of the round after it.
        shared: the shared parameters, (n_shared,).
        extra: further vectors that the strategy sends down, by name.
        standing: the round of each site's private memory, see :class:`State`; a site loads exactly that round.
        kept: the standing of the best round so far (``training.keep: best``): a site does not delete that memory.
    """

    round: int
    shared: Vector
    extra: Mapping[str, Vector] = field(default_factory=dict)
    standing: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)

    def of(self, *members: str) -> TrainRequest:
        """The same for these members: it says of no other one in which rounds that one replied."""
        standing, kept = ({name: one[name] for name in members if name in one} for one in (self.standing, self.kept))
        return replace(self, standing=standing, kept=kept)

    @property
    def nbytes(self) -> int:
        """Bytes of parameters that go down to ONE site."""
        return self.shared.nbytes + sum(value.nbytes for value in self.extra.values())


OF_EACH = ("standing", "kept")
"""The last fields of a request, which differ from site to site."""


def addressed(message: Any, member: str) -> Any:
    """A message as this member gets it; only requests differ."""
    return message.of(member) if isinstance(message, TrainRequest) else message


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
        usage: what the fit took of the machine, by name; see :mod:`fedrecon.sites.member.usage`.
    """

    site: str
    round: int
    n_slices: int
    shared: Vector
    extra: Mapping[str, Vector] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    usage: Mapping[str, float] = field(default_factory=dict)

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
        columns: the columns of ``fedrecon.sites.score_columns.SCORES``, and those of ``SPREADS`` if the method tells
            the spread of its error. The column ``stage`` holds ``output`` (the
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


Plain = None | bool | int | float | str
"""A value of a setting, a score or a name."""


TEMPERATURE = "temperature"
"""Name of a request's vector of one value: the factor on the spread that a method tells; 1 without it."""


def temperature_of(request: TrainRequest) -> float:
    """The factor on the spread under this request."""
    return float(request.extra[TEMPERATURE][0]) if TEMPERATURE in request.extra else 1.0


@dataclass(frozen=True)
class ScoreTask:
    """Asks for scores of the state in the request beside it.

    Attributes:
        split: ``validation`` or ``test``. part: the batch of this number alone, from 0; None asks for all batches.
    """

    split: str
    part: int | None = None


@dataclass(frozen=True)
class PanelTask:
    """Asks for one picture of each shard.

    Attributes:
        split: ``validation`` or ``test``. note: what the caption adds, such as the round.
        sites: the shards that are drawn; empty asks for all. small: as tiles for a sheet of many sites.
    """

    split: str
    note: str
    sites: tuple[str, ...] = ()
    small: bool = False


@dataclass(frozen=True)
class Panels:
    """Pictures that a site draws, as PNG by shard; only of shards that ``evaluation.panels`` allows.

    Attributes:
        problem: why it could not draw; empty if it could.
    """

    site: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class PrivatePart:
    """The private parameters of a member that consented (``publish_private``).

    Attributes:
        site: the member. round: of the state that they belong to. parameters: float32 arrays by name.
    """

    site: str
    round: int
    parameters: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TunedReconstructor:
    """A classical reconstructor with the parameters that a site chose on its validation subjects.

    Attributes:
        site: the member. name: of the reconstructor. parameters: the chosen ones.
        table: the parameters of every candidate with its mean PSNR (dB).
    """

    site: str
    name: str
    parameters: Mapping[str, Plain]
    table: tuple[Mapping[str, Plain], ...] = ()


@dataclass(frozen=True)
class Description:
    """Where a member runs and what it holds.

    Attributes:
        shards: content hash by site. node, gpus: of the Ray actor; empty in one process.
    """

    site: str
    pid: int
    device: str
    threads: int
    torch: str
    instruction_set: str
    shards: Mapping[str, str]
    node: str = ""
    gpus: tuple[str, ...] = ()
    numpy: str = ""


@dataclass(frozen=True)
class ShardLabels:
    """The labels of a shard on another node: no data.

    Attributes:
        labels: the fields of :class:`fedrecon.sites.data.shard.Shard`; volumes as mappings.
        problem: why there are none.
    """

    site: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network on its way to a site that it is tested at.

    Attributes:
        experiment: its settings, as in the experiment's file, without ``sites`` and ``test``.
        images: what the network was built for.
        state: the shared parameters, and the standing of the tested site and of the members in ``private``.
        members: with private parts. all_private: nothing is shared.
        private: the parts that the tested site needs from others, by member; each consented.
        folder: of the run. The site's own private part is read there, on its own node.
    """

    experiment: Mapping[str, Any]
    images: Mapping[str, Any]
    state: TrainRequest
    members: tuple[str, ...]
    all_private: bool
    private: Mapping[str, PrivatePart] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class RemoteScoreTask:
    """Asks a site on another node for scores of a trained network on its test subjects.

    Attributes:
        site: the tested site. shard: path of its shard. operator: how it measures, as in the experiment's file.
        rule: where its private part comes from if it did not train. published: members that consented.
        epochs: of a fine-tune. parts: folder for scores that are already there.
    """

    site: str
    shard: str
    operator: Mapping[str, Any]
    rule: str | None
    published: tuple[str, ...]
    epochs: int
    parts: str = ""


@dataclass(frozen=True)
class RemoteScores:
    """Scores of one site under each network that reconstructs there."""

    site: str
    scores: tuple[Scores, ...]


@dataclass(frozen=True)
class Exchange:
    """What a method of a site takes and what it returns; None is no answer but that it was done."""

    takes: tuple[type, ...]
    returns: type | None


METHODS: dict[str, Exchange] = {
    "describe": Exchange((), Description),
    "fit": Exchange((TrainRequest,), TrainReply),
    "evaluate": Exchange((TrainRequest, ScoreTask), Scores),
    "samples": Exchange((TrainRequest,), Samples),
    "panels": Exchange((TrainRequest, PanelTask), Panels),
    "private_part": Exchange((TrainRequest,), PrivatePart),
    "tune_reconstructor": Exchange((), TunedReconstructor),
    "use_reconstructor": Exchange((TunedReconstructor,), None),
}
"""The methods that a site answers; no other can be called from outside."""

REMOTE = (ShardLabels, TrainedNetwork, RemoteScoreTask, RemoteScores)
"""What tasks on a site's node take and return beside these, while the site has no actor. Both sides check them."""

MESSAGES: tuple[type, ...] = (
    tuple(
        dict.fromkeys(
            kind for one in METHODS.values() for kind in (*one.takes, *((one.returns,) if one.returns else ()))
        )
    )
    + REMOTE
)
"""Every type that may cross the wall."""
