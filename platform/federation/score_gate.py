"""The gate before the scores: each answer is compared with what its member was asked to score.

The shards of a member say which rows it owes, and the driver has their labels before anything is scored. Every score
of every executor passes here, on the driver, before anything is averaged.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from typing import TYPE_CHECKING, Any

from fedrecon.platform.federation.aggregate import STAGE_KEYS
from fedrecon.sites.data.volume import used_slices
from fedrecon.sites.errors import RunError, at_site, brief
from fedrecon.sites.finite import is_finite
from fedrecon.sites.score_columns import GLOBAL, KINDS, SCORES, SPREADS
from fedrecon.sites.scoring.settings import AGAINST

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.scoring.settings import Evaluation
    from fedrecon.sites.wire import Scores

Columns = Mapping[str, Sequence[Any]]
Row = tuple[Any, ...]

PLACE = ("site", "split", "subject", "volume", "slice", "stage")
"""The columns that say what a row is of. No two rows of an answer have the same."""

LABELS = (*PLACE, "volume_maximum", "mask", "acceleration", "n_pixels")
"""All columns whose values follow from the labels of a shard and from the question."""

OUTPUT = next(iter(STAGE_KEYS))
"""The stage of the method's own image, which alone has a spread."""

ROUNDING = 1e-6
"""How far a sum of rounded values may be beyond its bound, as a fraction."""

BOUNDS: dict[str, tuple[float, float]] = {
    **{name: (0, sys.float_info.max) for name, kind in KINDS.items() if kind != "string" and name not in LABELS},
    "ssim": (-1 - ROUNDING, 1 + ROUNDING),
}
"""The smallest and the largest value of each column that is measured."""


@dataclass(frozen=True)
class ScoreGate:
    """What the members can be asked to score.

    Attributes:
        shards: the labels of the shards, by site.
        operators: how each site measures.
        roster: the sites of each member.
        evaluation: how a site is scored.
        spread: whether the method tells the spread of its error.
    """

    shards: Mapping[str, Shard]
    operators: Mapping[str, Acquisition]
    roster: Mapping[str, Sequence[str]]
    evaluation: Evaluation
    spread: bool

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        shards: Mapping[str, Shard],
        operators: Mapping[str, Acquisition],
        roster: Mapping[str, Sequence[str]],
    ) -> ScoreGate:
        """The gate of an experiment that is scored at these shards under these operators."""
        spread = experiment.classical is None and bool(experiment.method.has_spread)
        return cls(shards, operators, roster, experiment.evaluation, spread)

    def asked(self, split: str, round_number: int | None = None) -> OwedScores:
        """The rows of one split that the members owe now. ``round_number``: of the scored state, for messages."""
        return OwedScores(self, split, round_number)

    def rows(self, member: str, split: str) -> Iterator[Row]:
        """The values of :data:`LABELS` in each row that a member owes."""
        limit, truth = self.evaluation.slices_of(split), self.evaluation.reference == "truth"
        for site in self.roster[member]:
            family, acceleration = self.operators[site].family, self.operators[site].acceleration
            for volume, index in used_slices(self.shards[site].scorable(split), limit):
                of, (y, x) = (site, split, volume.subject, volume.name, index), volume.crop or volume.shape
                maximum = volume.truth_maximum if truth else volume.maximum
                for stage in STAGE_KEYS:
                    yield (*of, stage, maximum, family, acceleration, y * x)


@dataclass
class OwedScores:
    """The rows of one split that the members still owe. They may come in several answers, each row exactly once."""

    gate: ScoreGate
    split: str
    round: int | None
    _owed: dict[str, set[Row]] = field(default_factory=dict)
    _models: dict[str, set[str]] = field(default_factory=dict)

    def checked(self, answers: Sequence[Scores], models: Collection[str] = ()) -> Sequence[Scores]:
        """The answers themselves.

        Args:
            models: the names that the network may have; empty allows ``global`` and the member's own.

        Raises:
            RunError: see :meth:`take`, or the time is no number of seconds.
        """
        for one in answers:
            self.take({one.site: one.columns}, models)
            if not is_finite(one.seconds) or one.seconds < 0:
                raise self._refused(one.site, f"have seconds = {brief(one.seconds)} instead of a time")
        return answers

    def take(self, columns: Mapping[str, Columns], models: Collection[str] = ()) -> None:
        """Takes the rows of these members off those that they owe; none of them, if one is refused.

        Args:
            columns: the columns of scores, by member. models: see :meth:`checked`.

        Raises:
            RunError: columns are missing or too many, a row was not asked for or comes twice, differs from the labels
                of its shard, or holds a value that no image has. The message names the member and the row.
        """
        left = {member: self._left(member, one, models) for member, one in columns.items()}
        self._owed |= left
        self._models |= {member: self._named(member, one) for member, one in columns.items()}

    def _left(self, member: str, columns: Columns, models: Collection[str]) -> set[Row]:
        """The rows that a member still owes after these."""
        wanted = KINDS if self.gate.spread else SCORES
        if wrong := sorted(columns.keys() ^ wanted.keys()):
            what = "lack" if wrong[0] in wanted else "have more than they should:"
            raise self._refused(member, f"{what} the column {brief(wrong[0])}")
        owed, rows = self._of(member), list(zip(*(columns[name] for name in LABELS), strict=True))
        left = owed.difference(rows)
        if len(owed) - len(left) != len(rows):
            raise self._refused(member, self._strange(member, rows))
        names = self._named(member, columns)
        if len(names) > 1 or not names <= {*(models or (GLOBAL, member))}:
            raise self._refused(member, f"have model = {brief(', '.join(sorted(names)))}, not one that was asked for")
        for row, problem in _impossible(columns):
            raise self._refused(member, f"have {problem} in the row of {_place(rows[row])}")
        return left

    def check_whole(self, members: Collection[str]) -> None:
        """Refuses a member that left out some of its rows.

        Raises:
            RunError: the message names the member and a row.
        """
        for member in members:
            if left := self._of(member):
                raise self._refused(member, f"lack {len(left)} rows, such as that of {_place(min(left))}")

    def _of(self, member: str) -> set[Row]:
        if member not in self._owed:
            self._owed[member] = set(self.gate.rows(member, self.split))
        return self._owed[member]

    def _named(self, member: str, columns: Columns) -> set[str]:
        """The networks that scored so far, with that of these rows: one network scores all."""
        return self._models.get(member, set()) | {*columns["model"]}

    def _strange(self, member: str, rows: Sequence[Row]) -> str:
        """What is wrong with the first of the rows that is not owed, or comes twice."""
        owed, seen = self._of(member), set[Row]()
        for row in rows:
            if row not in owed or row in seen:
                break
            seen.add(row)
        if row in set(self.gate.rows(member, self.split)):
            return f"have the row of {_place(row)} twice"
        if not (missing := sorted(owed.difference(rows))):
            return "have more rows than were asked for"
        near = max(missing, key=lambda one: sum(map(eq, one, row)))
        pairs = zip(LABELS, row, near, strict=True)
        name, given, wanted = next((name, given, wanted) for name, given, wanted in pairs if given != wanted)
        return f"have {name} = {brief(given)} instead of {wanted!r} in the row of {_place(near)}"

    def _refused(self, member: str, problem: str) -> RunError:
        return RunError(at_site(member, self.round, f"its scores of the {self.split} subjects {problem}; refused"))


def _impossible(columns: Columns) -> Iterator[tuple[int, str]]:
    """The values that no image has, each with the number of its row."""
    for name, (low, high) in BOUNDS.items():
        for row, value in enumerate(columns.get(name, ())):
            if not low <= value <= high:
                yield row, f"{name} = {brief(value)}"
    norms = (columns[name] for name in ("squared_norm", "n_pixels", "volume_maximum"))
    for row, (norm, pixels, maximum) in enumerate(zip(*norms, strict=True)):
        if norm > (1 + ROUNDING) * pixels * maximum * maximum:
            yield row, f"squared_norm = {norm!r}, which is more than n_pixels times the square of volume_maximum,"
    told = (columns[name] for name in ("stage", "n_pixels", *SPREADS) if SPREADS.keys() <= columns.keys())
    for row, (stage, pixels, *spread) in enumerate(zip(*told, strict=True)):
        inside, one, two, *_, against = spread
        if not (one <= two <= inside <= pixels and against in AGAINST if stage == OUTPUT else not any(spread)):
            yield row, "a spread that no image has"


def _place(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(PLACE, row, strict=False) if name != "split")
