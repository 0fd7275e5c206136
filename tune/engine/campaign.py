"""The steps that a sweep and a study share: plan the trials, run the missing ones, write the outputs.

The same call can be made again. It resumes what an earlier call left.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedrecon.platform.config.address import check_cluster
from fedrecon.platform.config.resources import Resources
from fedrecon.platform.config.yaml_text import write_yaml
from fedrecon.platform.consortium.checks import scored_sites
from fedrecon.platform.execution.placement import check_here
from fedrecon.platform.runs.warm_start import check_start
from fedrecon.platform.storage.locks import exclusive_lock, is_locked
from fedrecon.platform.storage.tracking.address import check_reachable
from fedrecon.platform.storage.workspace import RunFolder, default_workspace
from fedrecon.sites import debris
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.sizes import duration
from fedrecon.tune.trials.planner import Planner, RefusedTrialError
from fedrecon.tune.trials.trial_table import ENDED, TrialRow, TrialTable

if TYPE_CHECKING:
    from fedrecon.tune.engine.records import CampaignRecords

Rerun = bool | Literal["failed"]
"""The trials that run again even if they have ended: all (True), the failed ones (``"failed"``), or none (False)."""


def saved_file(workspace: Path | str | None, folder: str, kind: str, name: str) -> Path:
    """The YAML file from which a campaign can be loaded again.

    Args:
        workspace: the workspace folder; None takes FEDRECON_WORKSPACE or ./workspace.
        folder: ``sweeps`` or ``studies``. kind: ``sweep`` or ``study``. name: the campaign's name.

    Raises:
        InputError: the workspace has none of this name; the message lists those that it has.
    """
    root = (Path(workspace) if workspace else default_workspace()).resolve() / folder
    file = root / name / f"{kind}.yaml"
    if not file.is_file():
        raise unknown(kind, name, sorted(path.parent.name for path in root.glob(f"*/{kind}.yaml")))
    return file


class Campaign(ABC):
    """One call of a sweep or a study. Ray Tune runs the planned trials that have not ended in the workspace.

    Args:
        planner: the planner of the trials.
        folder: the folder in the workspace for all campaigns of this kind: ``sweeps`` or ``studies``.
        workspace, address, tracking_uri, rerun, keep_checkpoints: see :func:`fedrecon.tune.sweep.run.sweep`.

    Attributes:
        trial_table: the table of the trials.
        url: the address of the campaign's runs in MLflow; None until :meth:`conclude` has set it.
        over: whether the time budget ended this call.
    """

    def __init__(
        self,
        planner: Planner,
        folder: str,
        workspace: Path,
        address: str | None,
        tracking_uri: str | None,
        rerun: Rerun,
        keep_checkpoints: bool = False,
    ) -> None:
        self.planner, self.workspace = planner, workspace.resolve()
        self.address, self.tracking_uri, self.rerun = address, tracking_uri, rerun
        self.keep_checkpoints = keep_checkpoints
        self.trial_table = TrialTable(self.workspace, planner.settings.name, folder)
        self.url: str | None = None
        self.over = False

    @abstractmethod
    def fill(self) -> None:
        """Adds the rows that are known before anything runs to the trial table."""

    @abstractmethod
    def announce(self) -> None:
        """Prints the plan to stderr."""

    @abstractmethod
    def content(self) -> tuple[str, dict[str, Any]]:
        """The name and content of the YAML file from which the campaign can be loaded again."""

    @abstractmethod
    def tags(self, number: int) -> dict[str, str]:
        """The MLflow tags of a trial's run, from the trial's number."""

    @abstractmethod
    def conclude(self, records: CampaignRecords) -> None:
        """Writes the outputs.

        Args:
            records: the journals of the trials and of the campaign.
        """

    def go(self, dry_run: bool) -> bool:
        """Plans the trials, runs those that have not ended, and writes the outputs.

        Args:
            dry_run: True plans the trials and starts nothing.

        Returns:
            False for a dry run, else True.

        Raises:
            RunError: no node can hold a trial, or another process runs this campaign.
        """
        self.fill()
        self.announce()
        if dry_run:
            check_cluster(self.address)
            self._check_before_ray()
            return False
        self.trial_table.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            debris.sweep(self.trial_table.folder, deep=True)
            self._save()
            self.trial_table.forget([row for row in self.trial_table.rows if self._again(row)])
            self._warn_of_changed_code()
            if self.trial_table.count("WAITING") or self._asks_more():
                self._check_before_ray()
                with self._records() as records:
                    self._run(records)
            else:  # no trial is left to run, so no cluster is needed
                with self._records() as records:
                    self.conclude(records)
        return True

    def _warn_of_changed_code(self) -> None:
        """Warns in one line if finished trials were made by other code than today's."""
        import warnings

        from fedrecon.platform.consortium.code import changed_files

        files, n = set[str](), 0
        for row in self.trial_table.rows:
            if row.status == "FINISHED":
                changed = changed_files(RunFolder(self.workspace, row.trial.digest).noted())
                files |= {*changed}
                n += bool(changed)
        if n:
            made = f"{', '.join(sorted(files))} changed since {n} of the trials were made"
            warnings.warn(f"{made}: today's code may give other scores. --rerun makes all trials anew.", stacklevel=2)

    def look(self) -> bool:
        """Fills the trial table without starting anything.

        A driver may be running the campaign in another process. Then a trial whose run folder is locked is RUNNING.

        Returns:
            True if a driver is running the campaign.
        """
        running = is_locked(self.trial_table.folder / ".lock")
        self.fill()
        for row in self.trial_table.rows:
            row.trained_rounds = row.trained_before
            if row.status == "WAITING" and running and is_locked(RunFolder(self.workspace, row.trial.digest).lock):
                row.status = "RUNNING"
        return running

    def status(self) -> str:
        """The status after a call.

        Returns:
            ``finished``: every trial has ended. ``budget``: the time or the number of trials is used up.
            ``interrupted``: trials are left, and the same call goes on with them.
        """
        limited = self.trial_table.rows[: self._limit]
        if any(row.status in ("WAITING", "RUNNING") for row in limited) or self._asks_more():
            return "budget" if self.over else "interrupted"
        return "budget" if self._asked > len(limited) else "finished"

    def duration(self) -> str:
        """A rough estimate of the remaining duration on this machine's cores, as text.

        The text is empty if no trial is left, or if the shards for the estimate lie on other nodes.
        """
        left = [
            row.trial for row in self.trial_table.rows[: self._limit] if row.status == "WAITING" or self._again(row)
        ]
        if not left:
            return ""
        from fedrecon.tune.trials.estimate import seconds

        asked = self.planner.settings.concurrency
        at_once = asked if isinstance(asked, int) else os.cpu_count() or 1
        found = seconds(self.planner, left, min(at_once, len(left)))
        if found is None:
            return ""
        where = " on one machine like this" if self.address else ""
        return f"; roughly {duration(found)}{where}"

    def _again(self, row: TrialRow) -> bool:
        """Whether a trial that has ended runs again. A failed trial goes on from its last committed round."""
        return self.rerun is True or (self.rerun == "failed" and row.status == "FAILED")

    @property
    def _limit(self) -> int:
        """The number of rows that the budget allows."""
        return self.planner.budget.trials or 10**9

    @property
    def _asked(self) -> int:
        """The number of trials without a limit: the planned ones, or those that Optuna has to suggest."""
        sweep, planned = self.planner.sweep, len(self.trial_table.rows)
        return max(sweep.samples, planned) if sweep is not None and sweep.algorithm == "optuna" else planned

    def _asks_more(self) -> bool:
        """Whether Optuna has more trials to suggest within the budget."""
        return len(self.trial_table.rows) < min(self._asked, self._limit)

    def _save(self) -> None:
        """Writes the campaign's YAML file into its folder."""
        from fedrecon.sites import atomic

        name, content = self.content()
        atomic.write_text(self.trial_table.folder / name, write_yaml(content))

    def _check_before_ray(self) -> None:
        """Refuses GPUs that no site can have, a store that does not answer, and a warm start that saw a test subject.

        A warm start is looked up in the workspace, which a planner does not know.
        """
        check_here(Resources(**self.planner.base["resources"]), False, self.address)
        check_reachable(self.tracking_uri, self.workspace)
        checked = list[tuple[Any, ...]]()
        for row in self.trial_table.rows:
            trial, asked = row.trial, row.trial.experiment
            places = asked.sites, asked.test and asked.test.sites
            key = asked.training.start, asked.trains, *places, asked.training.loss, asked.strategy, asked.network
            if row.status in ENDED or asked.training.start is None or key in checked:
                continue
            checked.append(key)
            try:
                shards = self.planner.sites(asked)
                check_start(asked, scored_sites(asked, shards.tested), self.workspace, shards.trained)
            except InputError as error:
                raise RefusedTrialError(trial.number, trial.params, error) from None

    def _lock(self) -> AbstractContextManager[None]:
        kind = self.trial_table.folder.parent.name.removesuffix("s").replace("studie", "study")
        busy = f"the {kind} '{self.planner.settings.name}' is running in {self.workspace}"
        return exclusive_lock(self.trial_table.folder / ".lock", busy)

    @contextmanager
    def _records(self) -> Iterator[CampaignRecords]:
        """Sends the records of the campaign and its trials while the body runs, and what is left after it."""
        from fedrecon.platform.storage.tracking.sender import Sender
        from fedrecon.tune.engine.records import CampaignRecords

        sender = Sender(self.workspace, self.tracking_uri)
        try:
            yield CampaignRecords(self.trial_table, sender, self.tracking_uri)
        finally:
            sender.close()

    def _run(self, records: CampaignRecords) -> None:
        from fedrecon.tune.engine.tuner import TrialTuner
        from fedrecon.tune.trials.progress import SweepProgress

        live = SweepProgress(self.planner.settings, self.trial_table, min(self._asked, self._limit))
        tuner = TrialTuner(
            self.planner, self.trial_table, self.address, records, self.rerun is True, self.tags, self.keep_checkpoints
        )
        self.over = tuner.run(live, self._limit, partial(self.conclude, records))
