"""A run's record: metrics to the tracker, then the commit of the round, then the word to the person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.platform.federation.aggregate import flat_metrics, summarise

if TYPE_CHECKING:
    from fedrecon.platform.federation.progress import Progress
    from fedrecon.platform.storage.checkpoint import Checkpoints
    from fedrecon.platform.storage.tracking.tracker import Tracker
    from fedrecon.sites.wire import State


@dataclass(frozen=True)
class CommittedRound:
    """A committed round, as a search over many experiments sees it.

    Attributes:
        round: 1, 2, ...
        metrics: losses and, where they were due, validation scores, under their names in MLflow.
    """

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationResult:
    """What was to be seen of a state beside its losses; empty where nothing was due.

    Attributes:
        scores: columns of validation scores. pictures: PNG by their names in the tracker. numbers: by the same.
    """

    scores: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


class Recorder:
    """Commits rounds. The checkpoint is written last, and is the only truth: what a crash leaves half done before it
    is done again with the same bits, and the tracker skips what it has.

    Args:
        committed: what the checkpoint that the run goes on from says (:attr:`content`); empty for a new run.

    Attributes:
        rounds: rows of ``rounds.parquet`` of all committed rounds.
        curve: their losses and validation scores.
    """

    def __init__(
        self,
        tracker: Tracker,
        checkpoints: Checkpoints,
        progress: Progress,
        committed: Mapping[str, Any],
        wire_log: WireLog | None = None,
    ) -> None:
        self.tracker, self.checkpoints, self.progress = tracker, checkpoints, progress
        self.wire_log = wire_log or WireLog()
        self.rounds: list[dict[str, Any]] = list(committed.get("rounds", ()))
        self.curve = [CommittedRound(one["round"], one["metrics"]) for one in committed.get("curve", ())]

    @property
    def content(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"rounds": self.rounds, "curve": [asdict(one) for one in self.curve]}

    @property
    def validation(self) -> dict[str, float]:
        """The last validation scores, by their names in MLflow."""
        scored = [one.metrics for one in self.curve if "mean/psnr" in one.metrics]
        return dict(scored[-1]) if scored else {}

    def take_over(self, state: State, losses: Mapping[str, float], seen: ValidationResult) -> CommittedRound:
        """Commits a state that another run trained, with what this experiment's evaluation makes of it."""
        values = {**losses, **flat_metrics(summarise(seen.scores)), **seen.numbers}
        self.curve = [self._note(state.round, values, seen.pictures)]
        self.wire_log.write()
        self.checkpoints.save(state, self.content)
        return self.curve[-1]

    def commit(self, finished: Round, state: State, seen: ValidationResult) -> CommittedRound:
        """Records one round and commits its state."""
        losses = {member: values["loss"] for member, values in finished.losses.items() if "loss" in values}
        summary = summarise(seen.scores) if seen.scores else {}
        # MLflow's page that compares runs opens on the metric that was logged first
        values = flat_metrics(summary)
        if losses:
            values["mean/loss"] = sum(losses.values()) / len(losses)
        values |= {f"site/{member}/{name}": v for member, one in finished.losses.items() for name, v in one.items()}
        values |= seen.numbers
        values |= {
            "seconds": finished.seconds,
            "traffic/bytes_up": finished.bytes_up,
            "traffic/bytes_down": finished.bytes_down,
            "traffic/extra_bytes_up": finished.extra_up,
            "traffic/extra_bytes_down": finished.extra_down,
            "restarts": finished.restarts,
        }
        committed = self._note(finished.number, values, seen.pictures)
        self.rounds.append(finished.row())
        self.curve.append(committed)
        self.wire_log.write()
        self.checkpoints.save(state, self.content)
        psnr = {site: one["psnr"] for site, one in summary.get("sites", {}).items()}
        self.progress.round(finished.number, losses, psnr, finished.seconds)
        return committed

    def _note(self, step: int, values: Mapping[str, float], pictures: Mapping[str, bytes]) -> CommittedRound:
        """Tells the tracker, and keeps what tells how good a round was."""
        self.tracker.metrics(step, values)
        for name, png in pictures.items():
            self.tracker.image(name, step, png)
        self.tracker.flush()
        return CommittedRound(step, {key: value for key, value in values.items() if key.startswith(("mean/", "site/"))})


@dataclass(frozen=True)
class Round:
    """What happened in one committed round.

    Attributes:
        number: 1, 2, ...
        replied: members whose reply was merged, in the order of folding.
        restarts: site processes that died and came back in this round.
        seconds: wall time, scoring not counted. bytes_up, bytes_down: all vectors, all members together.
        extra_up, extra_down: the bytes of these that are not the shared parameters, but what the method sends beside
            them.
        losses: by member and name.
    """

    number: int
    replied: tuple[str, ...]
    restarts: int
    seconds: float
    bytes_up: int
    bytes_down: int
    losses: Mapping[str, Mapping[str, float]]
    extra_up: int = 0
    extra_down: int = 0

    def row(self) -> dict[str, Any]:
        """The round as a row of ``rounds.parquet``."""
        return {
            "round": self.number,
            "replied": list(self.replied),
            "restarts": self.restarts,
            "seconds": self.seconds,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "losses": {member: dict(losses) for member, losses in self.losses.items()},
        }
