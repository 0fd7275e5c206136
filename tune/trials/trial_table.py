"""What a sweep knows of its trials: the rows of its table, and a file for each verdict that no run's folder holds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedrecon.platform.federation.aggregate import flat_metrics
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import atomic
from fedrecon.tune.trials.planner import Trial

Status = Literal["WAITING", "RUNNING", "FINISHED", "STOPPED", "FAILED"]
ENDED: tuple[Status, ...] = ("FINISHED", "STOPPED", "FAILED")


@dataclass
class TrialRow:
    """A trial and how it goes.

    Attributes:
        status: of MLflow's words, and STOPPED for what a scheduler stopped, WAITING for what was not begun.
        metrics: the last validation scores and, once it is finished, the test scores.
        round: the last committed one. trained_rounds: rounds that this call trained for it; 0 where it took over a
            training, or was finished before.
        trained_before: rounds that earlier calls of the sweep trained for it.
        seconds: of wall time, in this and in earlier calls.
        error: why it failed or was stopped.
    """

    trial: Trial
    status: Status = "WAITING"
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    round: int = 0
    trained_rounds: int = 0
    trained_before: int = 0
    seconds: float = 0.0
    error: str | None = None
    started: float | None = None
    begun: int | None = None
    taken_over: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The trial as ``--json`` shows it."""
        return {
            "number": self.trial.number,
            "params": self.trial.params,
            "status": self.status,
            "run_id": self.run_id,
            "digest": self.trial.digest,
            "metrics": self.metrics,
            "trained_rounds": self.trained_rounds,
            "round": self.round,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }


class TrialTable:
    """The rows of a sweep, in the plan's order.

    Args:
        workspace: of the runs. name: of the sweep or study; its verdicts lie in ``sweeps/NAME/trials``.
        folder: of all of its kind.
    """

    def __init__(self, workspace: Path, name: str, folder: str = "sweeps") -> None:
        self.workspace = workspace.resolve()
        self.folder = self.workspace / folder / name
        self.rows: list[TrialRow] = []

    def add(self, trial: Trial) -> TrialRow:
        """A row for a trial, as far as the disk tells of it."""
        row = TrialRow(trial)
        self.rows.append(row)
        self.refresh(row)
        return row

    def refresh(self, row: TrialRow) -> None:
        """Takes what the run's folder and the verdicts say."""
        folder = RunFolder(self.workspace, row.trial.digest)
        if (verdict := self._verdict(row.trial.digest)) is not None:
            for key in ("status", "error", "seconds", "round", "metrics", "run_id"):
                setattr(row, key, verdict[key])
            row.trained_before = verdict["trained_rounds"]
        if (result := folder.result()) is not None:
            self._finish(row, result)
        elif (noted := folder.noted()) is not None and row.run_id is None:
            row.run_id = noted["run_id"]
        if row.status != "FINISHED" and (kept := folder.checkpoints.latest()) is not None:
            row.round = kept[0].round

    def forget(self, rows: Iterable[TrialRow]) -> None:
        """Takes verdicts back, so that these trials are run (again)."""
        for row in rows:
            self._path(row.trial.digest).unlink(missing_ok=True)
            row.status, row.error, row.metrics, row.round, row.run_id = "WAITING", None, {}, 0, None
            row.trained_before, row.seconds = 0, 0.0

    def with_digest(self, digest: str) -> Iterator[TrialRow]:
        """The rows of one experiment: several points of a search may come to the same."""
        return (row for row in self.rows if row.trial.digest == digest)

    def began(self, digest: str) -> None:
        """A trial was given to a worker."""
        for row in self.with_digest(digest):
            row.status, row.started = "RUNNING", time.monotonic()
            row.begun = row.begun if row.begun is not None else row.round

    def reported(self, digest: str, round_number: int, metrics: Mapping[str, float]) -> None:
        """A trial committed a round, or told of one that was committed before."""
        for row in self.with_digest(digest):
            # A first report beyond round 1 is of a training that was taken over, or of rounds from an earlier call.
            row.taken_over |= not row.round and round_number > 1
            if round_number >= row.round:
                row.round = round_number
                row.metrics |= metrics

    def finished(self, digest: str, trained_rounds: int) -> None:
        """A trial came to its end, and its result lies in its run's folder.

        Args:
            digest: of the trial. trained_rounds: by the process that ended it; none where it took over a training.
        """
        result = RunFolder(self.workspace, digest).result()
        assert result is not None
        for row in self._end(digest):
            self._finish(row, result)
            row.taken_over |= not trained_rounds and not row.begun
        self._count(digest)

    def ended(self, digest: str, status: Status, error: str) -> None:
        """A trial was stopped or failed for good; so did those that would have taken over its training."""
        (first, *_) = self._end(digest)
        training = first.trial.training
        done = any(row.status == "FINISHED" and row.trial.training == training for row in self.rows)
        for row in self.rows:
            same = row.trial.digest == digest
            if not same and (done or row.trial.training != training or row.status in ENDED):
                continue
            row.status = status
            row.error = error if same else f"its training is that of trial {first.trial.number}: {error}"
            if not same:
                self._write(row)
        self._count(digest)

    def interrupted(self) -> None:
        """What still ran goes on with the next call."""
        for digest in dict.fromkeys(row.trial.digest for row in self.rows if row.status == "RUNNING"):
            for row in self._end(digest):
                row.status = "WAITING"
            self._count(digest)

    def best(self, metric: str, mode: str) -> TrialRow | None:
        """The finished trial with the best validation score."""
        scored = [
            row for row in self.rows if row.status == "FINISHED" and math.isfinite(row.metrics.get(metric, math.nan))
        ]
        if not scored:
            return None
        sign = 1.0 if mode == "max" else -1.0
        return max(scored, key=lambda row: (sign * row.metrics[metric], -row.trial.number))

    def count(self, *statuses: str) -> int:
        """Rows of these statuses."""
        return sum(row.status in statuses for row in self.rows)

    def _finish(self, row: TrialRow, result: Mapping[str, Any]) -> None:
        tests = flat_metrics({"sites": result["sites"], "mean": result["mean"]}, prefix="test/")
        row.status, row.error, row.run_id = "FINISHED", None, result["run_id"]
        row.metrics = {**result.get("validation", {}), **tests}
        row.round = result["rounds"]

    def _end(self, digest: str) -> list[TrialRow]:
        """The rows of an experiment that runs no more."""
        rows = list(self.with_digest(digest))
        for row in rows:
            if row.started is not None:
                row.seconds += time.monotonic() - row.started
                row.started = None
        return rows

    def _count(self, digest: str) -> None:
        """Counts what was trained for the first row of an experiment; the others had it for nothing."""
        first, *others = self.with_digest(digest)
        first.trained_rounds = 0 if first.taken_over else max(first.round - (first.begun or 0), 0)
        self._write(first)
        for row in others:
            row.trained_rounds = 0

    def _write(self, row: TrialRow) -> None:
        """A WAITING row keeps its seconds; a verdict keeps everything."""
        self._path(row.trial.digest).parent.mkdir(parents=True, exist_ok=True)
        trained = row.trained_before + row.trained_rounds
        atomic.write_json(self._path(row.trial.digest), {**row.as_dict(), "trained_rounds": trained})

    def _verdict(self, digest: str) -> dict[str, Any] | None:
        path = self._path(digest)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _path(self, digest: str) -> Path:
        return self.folder / "trials" / f"{digest}.json"
