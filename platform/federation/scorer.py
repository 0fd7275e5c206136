"""Scores of a split at every member; in parts where reconstructing is long, so that a crash loses one part at most."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.federation.recorder import ValidationResult
from fedrecon.sites import atomic

if TYPE_CHECKING:
    from fedrecon.sites.wire import Scores, State, TrainRequest
    from fedrecon.strategies import Strategy


@dataclass(frozen=True)
class Scored:
    """Scores of one split.

    Attributes:
        columns: one row per slice and stage.
        seconds: that went into reconstructing, all members together. n_slices: that were reconstructed.
    """

    columns: Mapping[str, Sequence[Any]]
    seconds: float
    n_slices: int

    @property
    def seconds_per_slice(self) -> float:
        """Of one member's time."""
        return self.seconds / max(self.n_slices, 1)


@dataclass
class Scorer:
    """Asks the members for scores.

    A method that adapts to each slice is asked for one batch a member at a time; what came back is kept in ``folder``
    until :func:`forget`, and a run that goes on takes it from there. Of a member that dies meanwhile nothing counts.

    Attributes:
        crew: a :class:`Executor`, or what has its ``evaluate`` and ``members``.
        folder: for the parts; None keeps none.
        tell: is told how far it has come.
    """

    executor: Any
    method: Strategy
    folder: Path | None = None
    tell: Callable[[str], None] | None = None

    def __call__(self, request: TrainRequest, split: str) -> Scored:
        """Scores of one split under the order's state."""
        from fedrecon.platform.storage.parquet import join_scores

        parts = [*self._parts(request, split)]
        whole = set(self.executor.members).intersection(*(one["members"] for one in parts))
        columns = join_scores(
            columns
            for one in parts
            for name, columns in zip(one["members"], one["columns"], strict=True)
            if name in whole
        )
        return Scored(columns, sum(one["seconds"] for one in parts), sum(_slices(one) for one in parts))

    def validation(self, state: State, last: bool, panels: bool) -> ValidationResult:
        """What is to be seen of a state: validation scores and pictures; of a prior samples, and scores at the end."""
        request = self.method.scoring_request(state)
        if self.method.network_kind != "prior":
            pictures = self.executor.panels(request, "validation", f"round {state.round}") if panels else {}
            return ValidationResult(
                self(request, "validation").columns, {f"panel/{site}": one for site, one in pictures.items()}
            )
        drawn = self.executor.samples(request)
        return ValidationResult(
            self(request, "validation").columns if last else {},
            {f"samples/{site}": png for one in drawn for site, png in one.pictures.items()},
            {f"site/{one.site}/{name}": value for one in drawn for name, value in one.numbers.items()},
        )

    def _parts(self, request: TrainRequest, split: str) -> Any:
        if self.method.network_kind != "prior":
            yield _part(self.executor.evaluate(request, split))
            return
        state = hashlib.blake2b(request.shared.tobytes(), digest_size=6).hexdigest()
        number, done, seconds = 0, 0, 0.0
        while True:
            path = None if self.folder is None else self.folder / f"{split}-{state}-{number}.json"
            one = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else None
            if one is None or not set(one["members"]) >= set(self.executor.members):
                one = _part(self.executor.evaluate(request, split, number))
                if not _slices(one):
                    return
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    atomic.write_json(path, one)
            yield one
            number, done, seconds = number + 1, done + _slices(one), seconds + one["seconds"]
            if self.tell is not None:
                self.tell(f"{split} subjects: {done} slices adapted, {seconds / done:.1f} s each")


def _part(scores: Sequence[Scores]) -> dict[str, Any]:
    columns = [{name: list(values) for name, values in one.columns.items()} for one in scores]
    return {"members": [s.site for s in scores], "seconds": sum(s.seconds for s in scores), "columns": columns}


def forget(folder: Path) -> None:
    """Parts that are no longer needed: what they came to is safe elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


def _slices(part: Mapping[str, Any]) -> int:
    return sum(one["stage"].count("output") for one in part["columns"])
