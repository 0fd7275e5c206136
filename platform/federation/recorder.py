"""Records a round: first its metrics in the tracker, then the checkpoint that commits it, then the progress line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fedrecon.platform.federation.aggregate import flat_metrics, summarise
from fedrecon.platform.federation.mlflow_metrics import mlflow_metrics
from fedrecon.sites.score_columns import METRICS

if TYPE_CHECKING:
    from fedrecon.platform.federation.progress import Progress
    from fedrecon.platform.storage.checkpoint import Checkpoints
    from fedrecon.platform.storage.tracking.tracker import Tracker
    from fedrecon.sites.training.settings import Training
    from fedrecon.sites.wire import State

PSNR = "mean/psnr"
"""The mean over the sites of the validation PSNR of the method's output, by which the best round is chosen."""


@dataclass(frozen=True)
class CommittedRound:
    """The metrics of a committed round. A search over many experiments reads them.

    Attributes:
        round: the number of the round: 1, 2, ... ; 0 for the weights that a training begins with.
        metrics: losses and, if they were due, validation scores, by their names in JSON.
    """

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationResult:
    """The validation of a state: scores, pictures and numbers. All are empty if no validation was due.

    Attributes:
        scores: columns of validation scores.
        pictures: of a prior, a PNG by member.
        numbers: further metrics by their names in the tracker (a prior's distances).
    """

    scores: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


class Recorder:
    """Commits rounds.

    The checkpoint alone decides whether a round is committed, and it is written after the metrics. If a crash comes
    before the checkpoint, the round is trained again with the same bits. The tracker skips the metrics that it has.

    Args:
        committed: the record in the checkpoint from which the run goes on (:attr:`content`); empty for a new run.
        training: the settings that say which round is kept, and when the training ends early; None keeps the last.

    Attributes:
        rounds: rows of ``rounds.parquet``, one for each committed round.
        curve: losses and validation scores of the committed rounds.
        kept: ``round``, ``psnr`` and ``standing`` of the best round if that one is kept; else empty.
        validated: columns of the last validation that this process made, one row per slice and stage; else empty.
    """

    def __init__(
        self,
        tracker: Tracker,
        checkpoints: Checkpoints,
        progress: Progress,
        committed: Mapping[str, Any],
        training: Training | None = None,
    ) -> None:
        self.tracker, self.checkpoints, self.progress = tracker, checkpoints, progress
        self.rounds: list[dict[str, Any]] = list(committed.get("rounds", ()))
        self.curve = [CommittedRound(one["round"], one["metrics"]) for one in committed.get("curve", ())]
        self.validated: Mapping[str, Any] = {}
        self._curve = [asdict(one) for one in self.curve]
        self._keeps_best = training is not None and training.keep == "best"
        self._patience = None if training is None else training.patience
        self.kept: Mapping[str, Any] = committed.get("kept") or {}
        self._taken_over = bool(committed.get("taken_over"))
        self._scored_start = bool(committed.get("scored_start"))

    @property
    def content(self) -> dict[str, Any]:
        """The record that a checkpoint keeps."""
        selection = {"kept": dict(self.kept)} if self.kept else {}
        taken_over = {"taken_over": True} if self._taken_over else {}
        start = {"scored_start": True} if self._scored_start else {}
        return {"rounds": self.rounds, "curve": self._curve, **selection, **taken_over, **start}

    @property
    def table(self) -> list[dict[str, Any]]:
        """The rows of ``rounds.parquet``."""
        return with_scores(self.rounds, self._curve)

    @property
    def validation(self) -> dict[str, float]:
        """The validation scores of the best round if that one is kept, else the last ones, by their names in JSON."""
        scored = [one for one in self.curve if PSNR in one.metrics]
        if self.kept:
            scored = [one for one in scored if one.round <= self.kept["round"]]
        return dict(scored[-1].metrics) if scored else {}

    def trained(self, committed: int) -> int:
        """The number of the last trained round. A training that was taken over may have gone on after the kept one.

        Args:
            committed: the number of the last committed round.
        """
        return int(self.rounds[-1]["round"]) if self._taken_over and self.rounds else committed

    @property
    def replies(self) -> Counter[str]:
        """The number of trained rounds to which each member replied."""
        return Counter(member for row in self.rounds for member in row["replied"])

    @property
    def ended(self) -> bool:
        """Whether the training ends here: its patience is at its end, or another run has finished it."""
        return self._taken_over or out_of_patience(self.curve, self._patience)

    @property
    def reported(self) -> list[CommittedRound]:
        """The rounds that are told to who runs the experiment."""
        return reported(self._curve, self._scored_start)

    def _choose(self, committed: CommittedRound, state: State) -> None:
        """Keeps this round if it is the best so far."""
        psnr = committed.metrics.get(PSNR)
        if self._keeps_best and psnr is not None and (not self.kept or is_better(committed.metrics, self._best())):
            self.kept = {"round": committed.round, "psnr": psnr, "standing": dict(state.standing)}

    def _best(self) -> Mapping[str, float]:
        return next(one.metrics for one in self.curve if one.round == self.kept["round"])

    def take_over(self, state: State, losses: Mapping[str, float], validated: ValidationResult) -> CommittedRound:
        """Commits a state that another run trained, with its validation under this experiment's own evaluation.

        Args:
            losses: losses of the last round, by their names in JSON.
        """
        self.validated = validated.scores
        values = {**losses, **flat_metrics(summarise(validated.scores)), **validated.numbers}
        self.curve = [self._track(state.round, values)]
        self._curve = [asdict(self.curve[0])]
        self._taken_over = self._keeps_best or self._patience is not None
        self._choose(self.curve[0], state)
        self.checkpoints.save(state, self.content)
        return self.curve[-1]

    def begin(self, state: State, validated: ValidationResult | None = None) -> None:
        """Commits the state before the first round.

        Args:
            validated: its validation, if the weights it begins with may stay the best.
        """
        if validated is not None:
            self.curve = [self._track(state.round, flat_metrics(summarise(validated.scores)))]
            self._curve = [asdict(self.curve[0])]
            self._choose(self.curve[0], state)
            self._scored_start = True
        self.checkpoints.save(state, self.content)

    def replay(self) -> None:
        """Records the losses and scores of the committed rounds. The store skips those that it has."""
        for one in self.curve:
            self.tracker.metrics(one.round, mlflow_metrics(one.metrics))
        self.tracker.flush()

    def commit(self, finished: Round, state: State, validated: ValidationResult) -> CommittedRound:
        """Records one round and commits its state."""
        losses = {member: values["loss"] for member, values in finished.losses.items() if "loss" in values}
        self.validated = validated.scores
        summary = summarise(validated.scores) if validated.scores else {}
        # The MLflow page that compares runs opens on the metric that was logged first.
        values = {**flat_metrics(summary), **loss_metrics(finished.losses), **validated.numbers}
        values |= {
            "seconds": finished.seconds,
            "traffic/bytes_up": finished.bytes_up,
            "traffic/bytes_down": finished.bytes_down,
            "traffic/extra_bytes_up": finished.extra_up,
            "traffic/extra_bytes_down": finished.extra_down,
            "restarts": finished.restarts,
            **{f"system/{member}/{name}": one for member, used in finished.usage.items() for name, one in used.items()},
        }
        committed = self._track(finished.number, values)
        self.rounds.append(finished.row())
        self.curve.append(committed)
        self._curve.append(asdict(committed))
        self._choose(committed, state)
        self.checkpoints.save(state, self.content)
        psnr = {site: one["psnr"] for site, one in summary.get("sites", {}).items()}
        self.progress.round(finished.number, losses, psnr, finished.seconds)
        return committed

    def picture(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Records the pictures of a round that is committed, by their keys in the tracker."""
        for key, png in pictures.items():
            self.tracker.image(key, step, png)
        if pictures:
            self.tracker.flush()

    def _track(self, step: int, values: Mapping[str, float]) -> CommittedRound:
        """Logs the values in the tracker. Returns the losses and scores, without times and traffic."""
        self.tracker.metrics(step, mlflow_metrics(values))
        self.tracker.flush()
        return CommittedRound(step, {key: value for key, value in values.items() if key.startswith(("mean/", "site/"))})


def reported(curve: Sequence[Mapping[str, Any]], scored_start: bool) -> list[CommittedRound]:
    """The rounds of a record that are told to who runs the experiment: all but the weights that a training begins with.

    Args:
        curve, scored_start: the entries of the record.
    """
    return [CommittedRound(**one) for one in curve if one["round"] or not scored_start]


def out_of_patience(curve: Sequence[CommittedRound], patience: int | None) -> bool:
    """Whether the last ``patience`` validations were all without a better mean PSNR; False without patience."""
    scored = [one.metrics for one in curve if PSNR in one.metrics]
    best = 0
    for number, metrics in enumerate(scored):
        best = number if is_better(metrics, scored[best]) else best
    return patience is not None and bool(scored) and len(scored) - 1 - best >= patience


def is_better(metrics: Mapping[str, float], than: Mapping[str, float]) -> bool:
    """Whether a round's mean PSNR is better than another's, over the sites that were scored in both.

    A site that died is in no mean after it. Without it a mean may rise though no network improved.
    """
    sites, before = (
        {key for key in one if key.startswith("site/") and key.endswith("/psnr") and key.count("/") == 2}
        for one in (metrics, than)
    )
    if sites == before:
        return metrics[PSNR] > than[PSNR]
    both = sorted(sites & before)
    return bool(both) and sum(metrics[key] - than[key] for key in both) > 0


def with_scores(rounds: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a record, each with its validation scores by site and name; empty if the round was not scored.

    Args:
        rounds, curve: the lists of the record in a checkpoint.
    """
    found: dict[int, dict[str, dict[str, float]]] = {}
    for one in curve:
        sites = found.setdefault(one["round"], {})
        for key, value in one["metrics"].items():
            owner, _, rest = key.partition("/")
            site, _, name = rest.partition("/")
            if owner == "site" and name.rpartition("/")[2] in METRICS:
                sites.setdefault(site, {})[name] = value
    return [{**row, "scores": found.get(row["round"], {})} for row in rounds]


def loss_metrics(losses: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The losses of a round, given by member and name, by their names in JSON; with the mean of the members' loss."""
    own = [values["loss"] for values in losses.values() if "loss" in values]
    mean = {"mean/loss": sum(own) / len(own)} if own else {}
    return mean | {f"site/{member}/{name}": value for member, one in losses.items() for name, value in one.items()}


@dataclass(frozen=True)
class Round:
    """The counts and losses of one committed round.

    Attributes:
        number: the number of the round: 1, 2, ...
        replied: members whose reply was merged, in the order of merging.
        restarts: number of site processes that died and came back in this round, its scoring included.
        seconds: wall time without scoring.
        bytes_up, bytes_down: bytes of all vectors, summed over the members.
        losses: losses by member and name.
        extra_up, extra_down: the part of these bytes that is not shared parameters: the method's further vectors.
        missed: members that did not reply, and why.
        waited: seconds, by member, of calls that took so long that the run named the member.
        usage: what the fit took of the machine, by member and name. It is in no table.
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
    missed: Mapping[str, str] = field(default_factory=dict)
    waited: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

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
            "missed": list(self.missed),
            "waited": list(self.waited),
        }
