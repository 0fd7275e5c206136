"""Scores a split at every member. A slow method is scored in parts, so that a crash loses one part at most."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.federation.mosaic import PANELS, SAMPLES, Mosaic
from fedrecon.platform.federation.recorder import ValidationResult
from fedrecon.platform.federation.score_gate import OwedScores, ScoreGate
from fedrecon.platform.storage import checked_json
from fedrecon.sites.errors import RunError
from fedrecon.sites.phases import phase

if TYPE_CHECKING:
    from fedrecon.sites.wire import Samples, Scores, State, TrainRequest
    from fedrecon.strategies import Strategy


@dataclass(frozen=True)
class Scored:
    """The scores of one split.

    Attributes:
        columns: columns of scores, one row per slice and stage.
        seconds: time of reconstruction, summed over the members.
        n_slices: number of reconstructed slices.
    """

    columns: Mapping[str, Sequence[Any]]
    seconds: float
    n_slices: int

    @property
    def seconds_per_slice(self) -> float:
        """Mean seconds that a member takes to reconstruct one slice."""
        return self.seconds / max(self.n_slices, 1)


@dataclass
class Scorer:
    """Asks the members for scores.

    A method that adapts to each slice is slow. Each request then asks every member for one batch only. The scores of
    each batch are kept in ``folder`` until :func:`forget` removes them; a resumed run reads them there. If a member
    dies during the scoring, none of its scores are used; of every other member all are there.

    Attributes:
        executor: an :class:`Executor`; an object that has only its ``evaluate`` and ``members`` can score a split.
        method: the strategy.
        gate: what the members can be asked to score.
        folder: folder for the scores of the batches; None keeps none.
        tell: function that receives progress messages; None sends none.
        mosaic: the sites whose pictures are drawn; none by default.
        trouble: function that receives what went wrong with a picture; None sends it nowhere.
    """

    executor: Any
    method: Strategy
    gate: ScoreGate
    folder: Path | None = None
    tell: Callable[[str], None] | None = None
    mosaic: Mosaic = Mosaic()  # noqa: RUF009 - it is frozen
    trouble: Callable[[str], None] | None = None
    _asked: tuple[State, TrainRequest] | None = None

    def __call__(self, request: TrainRequest, split: str) -> Scored:
        """Scores one split under the state in the request.

        Raises:
            RunError: a member answers with other rows than it was asked for; see :class:`OwedScores`.
        """
        from fedrecon.platform.storage.parquet import join_scores

        owed = self.gate.asked(split, request.round - 1)
        with phase(f"scoring the {split} subjects"):
            parts = [*self._parts(request, owed)]
        alive = set(self.executor.members)
        owed.check_whole(sorted(alive))
        columns = join_scores(
            columns
            for one in parts
            for name, columns in zip(one["members"], one["columns"], strict=True)
            if name in alive
        )
        return Scored(columns, sum(one["seconds"] for one in parts), sum(_slices(one) for one in parts))

    def validation(self, state: State, last: bool) -> ValidationResult:
        """Validates a state: scores; of a prior also distances of drawn samples, with the pictures of these.

        Args:
            last: whether this is the last round. A prior is scored only then.
        """
        request = self.method.scoring_request(state)
        self._asked = (state, request) if self.mosaic.sites else None
        if not self.method.is_prior:
            return ValidationResult(self(request, "validation").columns)
        drawn = self._samples(request)
        return ValidationResult(
            self(request, "validation").columns if last else {},
            {site: png for one in drawn for site, png in one.pictures.items()},
            {f"site/{one.site}/{name}": value for one in drawn for name, value in one.numbers.items()},
        )

    def picture(self, state: State, drawn: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
        """The picture of a state: one mosaic of the sites, by its key in the tracker. Call it after the commit.

        What cannot be drawn is told, and left out: no picture is worth a run.

        Args:
            drawn: the samples of a prior, by member, if they are there already (:meth:`validation`).
        """
        asked, self._asked = self._asked, None
        if not self.mosaic.sites:
            return {}
        # One request for the scores and for the picture of a state: other nodes then get its vectors once.
        request = asked[1] if asked is not None and asked[0] is state else self.method.scoring_request(state)
        note = f"validation, round {state.round}"
        if self.method.is_prior:
            if drawn is None:
                drawn = {site: png for one in self._samples(request) for site, png in one.pictures.items()}
            return self.mosaic.joined(SAMPLES, drawn, note, self.trouble)
        with phase("drawing panels"):
            answers = self.executor.panels(request, self.mosaic.task("validation", f"round {state.round}"))
        return self.mosaic.joined(PANELS, self.mosaic.pictures(answers, self.trouble), note, self.trouble)

    def _samples(self, request: TrainRequest) -> Sequence[Samples]:
        """The drawn images of a prior, compared with the slices of each member: up to 136 images a member."""
        with phase(f"drawing samples at {len(self.executor.members)} sites, to compare them with their own slices"):
            return self.executor.samples(request)  # type: ignore[no-any-return]

    def _parts(self, request: TrainRequest, owed: OwedScores) -> Any:
        split = owed.split
        if not self.method.is_prior:
            yield _part(owed.checked(self.executor.evaluate(request, split)))
            return
        state = hashlib.blake2b(request.shared.tobytes(), digest_size=6).hexdigest()
        number, done, seconds = 0, 0, 0.0
        while True:
            path = None if self.folder is None else self.folder / f"{split}-{state}-{number}.json"
            one = None if path is None else _kept(path, self.executor.members, owed)
            if one is None:
                one = _part(owed.checked(self.executor.evaluate(request, split, number)))
                if not _slices(one):
                    return
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    checked_json.write(path, one, path.parent.parent.name)
            yield one
            number, done, seconds = number + 1, done + _slices(one), seconds + one["seconds"]
            if self.tell is not None:
                self.tell(f"{split} subjects: {done} slices reconstructed, {seconds / done:.1f} s each")


def _kept(path: Path, members: Sequence[str], owed: OwedScores) -> dict[str, Any] | None:
    """The scores of a batch of all these members; None if there are none that can be used: they are made again."""
    try:
        needs = ("members", "seconds", "columns")
        one = checked_json.read(path, "The batch is scored again.", path.parent.parent.name, needs)
        if one is None or not set(one["members"]) >= set(members):
            return None
        owed.take(dict(zip(one["members"], one["columns"], strict=True)))
        return one
    except RunError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def _part(scores: Sequence[Scores]) -> dict[str, Any]:
    columns = [{name: list(values) for name, values in one.columns.items()} for one in scores]
    return {"members": [s.site for s in scores], "seconds": sum(s.seconds for s in scores), "columns": columns}


def forget(folder: Path) -> None:
    """Removes the scores of the batches. The run's result holds all scores by then."""
    shutil.rmtree(folder, ignore_errors=True)


def _slices(part: Mapping[str, Any]) -> int:
    return sum(one["stage"].count("output") for one in part["columns"])
