"""Many trials from their plan to their record, in one call that can be made again: what a sweep and a study share."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from fedrecon.platform.storage.locks import exclusive_lock, is_locked
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.tune.trials.planner import Planner
from fedrecon.tune.trials.trial_table import TrialRow, TrialTable

Rerun = bool | Literal["failed"]
"""Which trials run again, though the workspace holds their end: all, those that failed, or none."""


class Campaign(ABC):
    """One call: what was planned runs on the cluster, packed by Ray Tune, as far as the workspace does not hold it.

    Args:
        planner: of its trials. folder: of all campaigns of this kind in the workspace.
        workspace, address, tracking_uri, rerun: see :func:`fedrecon.tune.sweep.run.sweep`.

    Attributes:
        url: of its runs in MLflow, once it is concluded.
        over: the time ended it.
    """

    ranks = True
    """Whether its trials compete for the best validation score."""

    def __init__(
        self,
        planner: Planner,
        folder: str,
        workspace: Path,
        address: str | None,
        tracking_uri: str | None,
        rerun: Rerun,
    ) -> None:
        self.planner, self.workspace = planner, workspace.resolve()
        self.address, self.tracking_uri, self.rerun = address, tracking_uri, rerun
        self.trial_table = TrialTable(self.workspace, planner.sweep.name, folder)
        self.url: str | None = None
        self.over = False

    @abstractmethod
    def fill(self) -> None:
        """Gives the board the rows that are known before anything runs."""

    @abstractmethod
    def announce(self) -> None:
        """Says what is planned."""

    @abstractmethod
    def content(self) -> tuple[str, dict[str, Any]]:
        """The name and content of the file by which it is found again."""

    @abstractmethod
    def tags(self, number: int) -> dict[str, str]:
        """Of a trial's run in MLflow, by the trial's number."""

    @abstractmethod
    def conclude(self, call: Any) -> None:
        """Writes what it came to, through the methods of the :class:`TrackingActor`."""

    def go(self, dry_run: bool) -> bool:
        """Runs what is left; whether it was more than a plan."""
        self.fill()
        self.announce()
        if dry_run:
            return False
        self.trial_table.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self._save()
            self.trial_table.forget([row for row in self.trial_table.rows if self._again(row)])
            if self.trial_table.count("WAITING") or self._asks_more():
                self._run()
            else:
                self._conclude_alone()
        return True

    def look(self) -> bool:
        """Fills the board from outside, of trials at work too; whether a driver is at work on it."""
        running = is_locked(self.trial_table.folder / ".lock")
        self.fill()
        for row in self.trial_table.rows:
            row.trained_rounds = row.trained_before
            if row.status == "WAITING" and running and is_locked(RunFolder(self.workspace, row.trial.digest).lock):
                row.status = "RUNNING"
        return running

    def status(self) -> str:
        """finished, interrupted or budget."""
        limited = self.trial_table.rows[: self._limit]
        if any(row.status in ("WAITING", "RUNNING") for row in limited) or self._asks_more():
            return "budget" if self.over else "interrupted"
        return "finished" if len(limited) == len(self.trial_table.rows) else "budget"

    def duration(self) -> str:
        """Roughly how long what is left will take on this machine's cores, in words; nothing where no shard is here."""
        left = [
            row.trial for row in self.trial_table.rows[: self._limit] if row.status == "WAITING" or self._again(row)
        ]
        if not left:
            return ""
        from fedrecon.tune.trials.estimate import seconds

        asked = self.planner.sweep.concurrency
        at_once = asked if isinstance(asked, int) else os.cpu_count() or 1
        found = seconds(self.planner, left, min(at_once, len(left)))
        if found is None:
            return ""
        where = " on one machine like this" if self.address else ""
        return f"; roughly {_rounded(found / 60)}{where}"

    def _again(self, row: TrialRow) -> bool:
        """Whether a trial that came to an end runs once more; one that failed goes on from its last round."""
        return self.rerun is True or (self.rerun == "failed" and row.status == "FAILED")

    @property
    def _limit(self) -> int:
        return self.planner.sweep.budget.trials or 10**9

    def _asks_more(self) -> bool:
        sweep = self.planner.sweep
        return sweep.algorithm == "optuna" and len(self.trial_table.rows) < min(sweep.samples, self._limit)

    def _save(self) -> None:
        import yaml

        from fedrecon.sites import atomic

        name, content = self.content()
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        atomic.write_text(self.trial_table.folder / name, str(text))

    def _lock(self) -> AbstractContextManager[None]:
        kind = self.trial_table.folder.parent.name.removesuffix("s").replace("studie", "study")
        busy = f"the {kind} '{self.planner.sweep.name}' is running in {self.workspace}"
        return exclusive_lock(self.trial_table.folder / ".lock", busy)

    def _run(self) -> None:
        from fedrecon.tune.engine.tuner import Engine
        from fedrecon.tune.trials.progress import SweepProgress

        sweep = self.planner.sweep
        allowed = min(len(self.trial_table.rows) or sweep.samples, self._limit)
        live = SweepProgress(sweep, self.trial_table, allowed, ranks=self.ranks)
        engine = Engine(self.planner, self.trial_table, self.address, self.tracking_uri, self.rerun is True, self.tags)
        self.over = engine.run(live, self._limit, self.conclude)

    def _conclude_alone(self) -> None:
        """Nothing was left to run: no cluster is needed to write the tables again."""
        from fedrecon.tune.engine.tracking_actor import TrackingActor

        writer = TrackingActor(self.tracking_uri, str(self.workspace))
        self.conclude(lambda method, *arguments: getattr(writer, method)(*arguments))


def say(message: str) -> None:
    """To a person, and never on stdout."""
    print(message, file=sys.stderr, flush=True)


def _rounded(minutes: float) -> str:
    if minutes < 1.5:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
