"""The records of a sweep or study: the journals of its trials, and the journal of the sweep or study itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedrecon.platform.federation.mlflow_metrics import mlflow_key, mlflow_metrics
from fedrecon.platform.runs.context import TRACKING_EXPERIMENT
from fedrecon.platform.runs.mlflow_record import params
from fedrecon.platform.storage.journal import Journal, RunRecord
from fedrecon.platform.storage.locks import is_locked
from fedrecon.platform.storage.tracking.sender import Sender
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.tune.engine.mlflow_view import address
from fedrecon.tune.trials.trial_table import ENDED, TrialTable


class CampaignRecords:
    """The records of one call. Trials write their own journals; the driver sends all.

    Args:
        trial_table: the table of the trials.
        sender: sends the journals. tracking_uri: see :func:`fedrecon.tune.sweep.run.sweep`.
    """

    def __init__(self, trial_table: TrialTable, sender: Sender, tracking_uri: str | None) -> None:
        self._trial_table, self._sender, self._tracking_uri = trial_table, sender, tracking_uri
        self.own = Journal(trial_table.folder / "record", sender.notify)

    def changed(self, digest: str) -> None:
        """Has the journal of a trial sent."""
        self._sender.notify(self._journal(digest).folder)

    def settle(self) -> None:
        """Ends the runs of trials whose process did not: it died."""
        for digest in dict.fromkeys(row.trial.digest for row in self._trial_table.rows):
            journal = self._journal(digest)
            if not is_locked(RunFolder(self._trial_table.workspace, digest).lock) and not journal.ended:
                journal.finish("KILLED")

    def send(self) -> None:
        """Waits until MLflow has what is recorded, for as long as the sender waits."""
        self._sender.drain()

    def verdicts(self, kind: str, tags: Any, metrics: Iterable[str] = ()) -> None:
        """Tags the run of each ended trial with its verdict, waits for MLflow, and notes the ids of the runs.

        Args:
            kind: ``sweep`` or ``study``. tags: a function that gives the tags of a trial's run from its number.
            metrics: metrics that the sweep shows; MLflow gets the last value of one that a run does not show itself.
        """
        hidden = [key for key in metrics if not mlflow_metrics({key: 0.0})]
        for row in self._trial_table.rows:
            if row.status in ENDED:
                journal = self._journal(row.trial.digest)
                verdict = {**tags(row.trial.number), f"fedrecon.{kind}.status": row.status}
                if row.error or journal.tags.get("fedrecon.error"):  # of an earlier try
                    verdict["fedrecon.error"] = row.error or ""
                if not verdict.items() <= journal.tags.items():
                    journal.set_tags(verdict)
                    last = {mlflow_key(key): row.metrics[key] for key in hidden if key in row.metrics}
                    journal.metrics(row.round, last)
                searched = params(row.trial.experiment, row.trial.params)
                if missing := {key: value for key, value in searched.items() if key not in journal.params}:
                    journal.log_params(missing)
                journal.flush()
        self._sender.drain()
        for row in self._trial_table.rows:
            row.run_id = self._journal(row.trial.digest).run_id or row.run_id

    def view(self, key: str, view: Mapping[str, Any]) -> str | None:
        """Saves the view of the trials' runs.

        Returns:
            the id of the MLflow experiment of the trials; None if MLflow has not got the view.
        """
        self.own.view(TRACKING_EXPERIMENT, key, view)
        self.own.flush()
        self._sender.drain()
        return self.own.sent.experiment_id or None

    def conclude(self, record: RunRecord, values: Mapping[str, float], files: Iterable[tuple[Path, str]]) -> None:
        """Records the numbers and files of the sweep or study in its own run, and ends it.

        MLflow keeps a parameter and a file for good. A call that does not have all of the last one's begins a new run
        in its place. Numbers get a later step, so that MLflow shows this call's.
        """
        table, files = self._trial_table, list(files)
        counts = {f"trials/{status.lower()}": float(table.count(status)) for status in (*ENDED, "WAITING")}
        values = {**values, **counts}
        params, known = self.own.params, self.own.values
        gone = {
            one for one in self.own.artifacts if one not in {str(Path(folder, path.name)) for path, folder in files}
        }
        other = params and params != dict(record.params)
        self._open(record, bool(other or gone or known.keys() - values.keys()))
        last = {key: value for key, (_, value) in self.own.values.items()}
        step = max((step + (last != values) for step, _ in self.own.values.values()), default=0)
        self.own.metrics(max(step, table.count(*ENDED)), values)
        for path, folder in files:
            self.own.artifact(path, folder)
        self.own.finish("KILLED" if table.count("WAITING", "RUNNING") else "FINISHED")
        self._sender.drain()

    def _open(self, record: RunRecord, anew: bool) -> None:
        """Opens the own run. ``anew``: a new one; a crash before its first line is made good by the next call."""
        aside = self.own.folder.with_name("record.old")
        if anew:
            shutil.rmtree(aside, ignore_errors=True)
            self.own.folder.rename(aside)
        self.own.open(record, fresh=aside.exists())
        shutil.rmtree(aside, ignore_errors=True)

    def address(self, experiment_id: str | None, key: str) -> str | None:
        """The address of the MLflow page with a saved view; None if MLflow has not got it."""
        return None if experiment_id is None else address(experiment_id, key, self._tracking_uri)

    def _journal(self, digest: str) -> Journal:
        return RunFolder(self._trial_table.workspace, digest).journal(self._sender.notify)
