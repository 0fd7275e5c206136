"""The trial table of a sweep or study: a row per trial, and a file per experiment that says how its trial ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedrecon.platform.federation.aggregate import flat_metrics
from fedrecon.platform.federation.attendance import may_return
from fedrecon.platform.storage import checked_json
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.tune.trials.planner import Trial

Status = Literal["WAITING", "RUNNING", "FINISHED", "STOPPED", "FAILED"]
ENDED: tuple[Status, ...] = ("FINISHED", "STOPPED", "FAILED")


@dataclass
class TrialRow:
    """A trial and its state.

    Attributes:
        trial: the planned trial.
        status: a status of MLflow, or STOPPED (a scheduler stopped the trial), or WAITING (the trial has not begun, or
            was interrupted).
        run_id: the id of the trial's run in MLflow.
        metrics: the last validation scores and, if the trial is finished, the test scores.
        round: the last committed round.
        trained_rounds: the number of rounds that this call trained for the trial; 0 if the trial took over a training
            or was finished before.
        trained_before: the number of rounds that earlier calls trained for the trial.
        seconds: the wall time in this and in earlier calls.
        error: the reason why the trial failed or was stopped.
        started: the time (:func:`time.monotonic`) at which the trial started to run; None if it does not run.
        begun: the last committed round when this call first started the trial.
        taken_over: whether the trial took over a training.
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
    """The rows of a sweep or study, in the plan's order.

    The verdict of a trial (how it ended) is the file ``FOLDER/NAME/trials/DIGEST.json`` in the workspace.

    Args:
        workspace: the workspace folder with the runs. name: the name of the sweep or study.
        folder: the folder of all sweeps (``sweeps``) or of all studies (``studies``).
    """

    def __init__(self, workspace: Path, name: str, folder: str = "sweeps") -> None:
        self.workspace = workspace.resolve()
        self.folder = self.workspace / folder / name
        self.rows: list[TrialRow] = []

    def add(self, trial: Trial) -> TrialRow:
        """Adds a row for a trial, with the state that the workspace holds of it."""
        row = TrialRow(trial)
        self.rows.append(row)
        self.refresh(row)
        return row

    def refresh(self, row: TrialRow) -> None:
        """Reads the state of a row from its verdict and from its run folder."""
        folder = RunFolder(self.workspace, row.trial.digest)
        if not may_return(row.trial.experiment.resources, folder):
            return  # the run missed replies that this experiment wants: its trial runs anew
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
        """Deletes the verdicts of the rows, so that their trials run again."""
        for row in rows:
            self._path(row.trial.digest).unlink(missing_ok=True)
            row.status, row.error, row.metrics, row.round, row.run_id = "WAITING", None, {}, 0, None
            row.trained_before, row.seconds = 0, 0.0

    def with_digest(self, digest: str) -> Iterator[TrialRow]:
        """The rows of one experiment. Several points of a search may give the same experiment."""
        return (row for row in self.rows if row.trial.digest == digest)

    def began(self, digest: str) -> None:
        """Notes that a trial started to run."""
        for row in self.with_digest(digest):
            row.status, row.started = "RUNNING", time.monotonic()
            row.begun = row.begun if row.begun is not None else row.round

    def reported(self, digest: str, round_number: int, metrics: Mapping[str, float]) -> None:
        """Notes that a trial committed a round, or reported a round that was committed before."""
        for row in self.with_digest(digest):
            # A first report after round 1: a training was taken over, or an earlier call trained the rounds.
            row.taken_over |= not row.round and round_number > 1
            if round_number >= row.round:
                row.round = round_number
                row.metrics |= metrics

    def finished(self, digest: str, trained_rounds: int) -> None:
        """Notes that a trial finished. Its result is in its run folder.

        Args:
            digest: the digest of the trial.
            trained_rounds: the number of rounds that the last process trained; 0 if it took over a training.
        """
        result = RunFolder(self.workspace, digest).result()
        assert result is not None
        for row in self._end(digest):
            self._finish(row, result)
            row.taken_over |= not trained_rounds and not row.begun
        self._count(digest)

    def ended(self, digest: str, status: Status, error: str) -> None:
        """Notes that a trial was stopped, or failed for the last time.

        If no trial has finished the training, the trials that would have taken it over get the same status.
        """
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
        """Sets the trials that still run to WAITING. The next call goes on with them."""
        for digest in dict.fromkeys(row.trial.digest for row in self.rows if row.status == "RUNNING"):
            for row in self._end(digest):
                row.status = "WAITING"
            self._count(digest)

    def count(self, *statuses: str) -> int:
        """The number of rows with one of these statuses."""
        return sum(row.status in statuses for row in self.rows)

    def _finish(self, row: TrialRow, result: Mapping[str, Any]) -> None:
        tests = flat_metrics({"sites": result["sites"], "mean": result["mean"]}, prefix="test/")
        row.status, row.error, row.run_id = "FINISHED", None, result["run_id"]
        row.metrics = {**result.get("validation", {}), **tests}
        row.round = result["rounds"]

    def _end(self, digest: str) -> list[TrialRow]:
        """Adds the time of an experiment that no longer runs to its rows. Returns the rows."""
        rows = list(self.with_digest(digest))
        for row in rows:
            if row.started is not None:
                row.seconds += time.monotonic() - row.started
                row.started = None
        return rows

    def _count(self, digest: str) -> None:
        """Sets the trained rounds of an experiment, for its first row only, and writes its verdict."""
        first, *others = self.with_digest(digest)
        first.trained_rounds = 0 if first.taken_over else max(first.round - (first.begun or 0), 0)
        self._write(first)
        for row in others:
            row.trained_rounds = 0

    def _write(self, row: TrialRow) -> None:
        """Writes a row to its verdict file. An interrupted row is written too, so that its seconds are kept."""
        self._path(row.trial.digest).parent.mkdir(parents=True, exist_ok=True)
        trained = row.trained_before + row.trained_rounds
        checked_json.write(self._path(row.trial.digest), {**row.as_dict(), "trained_rounds": trained})

    def _verdict(self, digest: str) -> dict[str, Any] | None:
        remedy = "Delete it: the trial then goes on from its last round."
        needs = ("status", "error", "seconds", "round", "metrics", "run_id", "trained_rounds")
        return checked_json.read(self._path(digest), remedy, needs=needs)

    def _path(self, digest: str) -> Path:
        return self.folder / "trials" / f"{digest}.json"
