"""Runs the remaining trials of a sweep or study on a cluster with Ray Tune.

Ray Tune gets fedrecon's own searcher, scheduler and tracking.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune as ray_tune

from fedrecon.platform.execution.lost_ray import kill, shutdown
from fedrecon.platform.execution.ray_cluster import connect, nodes
from fedrecon.platform.federation.attendance import find_training
from fedrecon.platform.runs.transfer_run import find_trained_run
from fedrecon.platform.storage.tracking.quiet import quiet
from fedrecon.platform.terminal.signals import last_wills
from fedrecon.sites import debris
from fedrecon.tune.engine.drivers import seeing
from fedrecon.tune.engine.packing import Packing, asked, roster
from fedrecon.tune.engine.records import CampaignRecords
from fedrecon.tune.engine.scheduler import PerProblemScheduler
from fedrecon.tune.engine.searcher import Optuna, PlannedTrials, Source, TableUpdater, TrialSearcher
from fedrecon.tune.engine.trainable import SweepTrial
from fedrecon.tune.engine.trial_notes import start_trial_notes
from fedrecon.tune.trials.planner import Planner, Trial, absolute
from fedrecon.tune.trials.progress import SweepProgress
from fedrecon.tune.trials.trial_table import TrialRow, TrialTable

SETTINGS = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every round has scores
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow holds the record
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # Tune's own files are never read again
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Environment variables of Ray Tune. A variable that the user has set keeps its value."""


LOADED = (
    "fedrecon.platform.runs.training_run",
    "fedrecon.platform.storage.tracking.mlflow_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "pyarrow.fs",
    "pyarrow.parquet",
)
"""What the process of a trial loads beside Ray and what that of a member does. Ray Tune loads the last three."""


class TrialTuner:
    """One call of a sweep or study on a cluster.

    Args:
        planner: the planner of the trials. trial_table: the table of the trials.
        address, keep_checkpoints: see :func:`fedrecon.tune.sweep.run.sweep`.
        records: the records of the trials.
        rerun: whether every trial runs again, even if it has a result.
        tags: a function that gives the MLflow tags of a trial's run from the trial's number.
    """

    def __init__(
        self,
        planner: Planner,
        trial_table: TrialTable,
        address: str | None,
        records: CampaignRecords,
        rerun: bool,
        tags: Callable[[int], Mapping[str, str]],
        keep_checkpoints: bool,
    ) -> None:
        self._planner, self._trial_table, self._tags = planner, trial_table, tags
        self._address, self._records, self._rerun = address, records, rerun
        self._keep_checkpoints = keep_checkpoints
        hours = planner.budget.hours
        self._deadline = time.monotonic() + 3600 * hours if hours else float("inf")

    def run(self, live: SweepProgress, limit: int, conclude: Callable[[], None]) -> bool:
        """Runs trials until all have ended, the budget is used up, or the user presses Ctrl-C.

        Args:
            live: the progress display. limit: the number of rows that may run.
            conclude: the function that writes the outputs; it is called after an interruption too.

        Returns:
            True if the time budget is used up.

        Raises:
            RunError: no node can hold a trial; nothing was run.
        """
        os.environ.update({key: value for key, value in SETTINGS.items() if key not in os.environ})
        owns = not ray.is_initialized()
        try:
            if owns:
                connect(self._address, LOADED)
            packing = self._packing()
            notes = start_trial_notes()
            last_wills.append(self._settle_alone)
            try:
                self._tune(packing, notes, live, limit)
            finally:
                self._trial_table.interrupted()
                live.close()
                kill(notes)
                self._records.settle()
                conclude()
        finally:
            if self._settle_alone in last_wills:
                last_wills.remove(self._settle_alone)
            live.close()
            if owns:
                shutdown()
        return self._over()

    def _settle_alone(self) -> None:
        """Ends the runs of the trials that are under way as KILLED, without Ray."""
        self._records.settle()
        self._records.send()

    def _packing(self) -> Packing:
        """The packing of the trials. Refuses a planned trial that no node can hold: Ray Tune would wait for it."""
        executor = str(self._planner.base["resources"]["crew"])
        found = nodes()
        here, seen = ray.get_runtime_context().get_node_id(), None
        if executor == "in-process" and len(found) > 1:
            seen = seeing(self._trial_table.workspace, found, here)
        packing = Packing.of(executor, self._planner.settings.concurrency, found, here, seen)
        wanted = {(asked(row.trial.experiment), tuple(self._members(row.trial))) for row in self._trial_table.rows}
        for each, members in wanted:
            _group(packing, each, members)
        return packing

    def _trained(self, training: str) -> bool:
        """Whether the training of this digest is done and may be taken over. A rerun takes over no earlier training."""
        if self._rerun:
            return False
        trial = next(row.trial for row in self._trial_table.rows if row.trial.training == training)
        return find_training(self._trial_table.workspace, training, trial.experiment.resources) is not None

    def _tune(self, packing: Packing, notes: Any, live: SweepProgress, limit: int) -> None:
        sweep, trial_table = self._planner.sweep, self._trial_table
        source: Source = PlannedTrials()
        if sweep is not None and sweep.algorithm == "optuna":
            trial_table.rows.clear()
            source = Optuna(self._planner, trial_table, min(sweep.samples, limit))
        searcher = TrialSearcher(trial_table, source, self._config, limit, self._trained)
        updater = TableUpdater(
            trial_table,
            searcher,
            source,
            lambda row: self._changed(row, live),
            self._over,
            lambda digest: ray.get(notes.why.remote(digest)),
            lambda: ray.get(notes.said.remote()),
            live.say,
        )
        shared = {
            "workspace": str(trial_table.workspace),
            "executor": packing.executor,
            "notes": notes,
            "address": self._address,
            "keep_checkpoints": self._keep_checkpoints,
        }
        groups: dict[Any, ray_tune.PlacementGroupFactory] = {}

        def group(config: dict[str, Any]) -> ray_tune.PlacementGroupFactory:
            key = (*config["asked"], *config["members"])
            if key not in groups:
                groups[key] = _group(packing, config["asked"], config["members"])
            return groups[key]

        trainable = ray_tune.with_resources(ray_tune.with_parameters(SweepTrial, shared=shared), group)
        debris.sweep()
        # The row of a trial holds its error, so Ray Tune does not have to print the traceback.
        silent = quiet("ray.tune", "ray.air", level=logging.CRITICAL)
        with debris.scratch() as scratch, contextlib.redirect_stdout(io.StringIO()), silent:
            self._tuner(trainable, searcher, updater, packing, str(scratch)).fit()

    def _tuner(
        self, trainable: Any, searcher: TrialSearcher, updater: TableUpdater, packing: Packing, scratch: str
    ) -> ray_tune.Tuner:
        """Ray Tune's object; its own files go to ``scratch``."""
        return ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher,
                scheduler=self._scheduler(),
                num_samples=-1,
                max_concurrent_trials=packing.at_once,
                time_budget_s=None if self._deadline == float("inf") else self._deadline - time.monotonic(),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=ray_tune.RunConfig(
                name=self._planner.settings.name,
                storage_path=scratch,
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                failure_config=ray_tune.FailureConfig(max_failures=self._planner.settings.max_failures),
                callbacks=[updater],
                verbose=0,
            ),
        )

    def _changed(self, row: TrialRow, live: SweepProgress) -> None:
        """Shows a change of a trial, and has its journal sent."""
        self._records.changed(row.trial.digest)
        live.changed(row)

    def _scheduler(self) -> PerProblemScheduler | None:
        """The scheduler for early stopping; None if the sweep has none."""
        sweep = self._planner.sweep
        if sweep is None or sweep.scheduler is None:
            return None
        longest = max((row.trial.experiment.rounds for row in self._trial_table.rows), default=1)
        return PerProblemScheduler(sweep.scheduler, sweep.metrics[0], sweep.modes[0], longest)

    def _members(self, trial: Trial, now: bool = False) -> list[str]:
        """The members for which the placement group of a trial holds a bundle.

        Training: the members of the federation. Transfer test: the tested sites, and the members of the federation if
        the training is not done yet. If all shards of a transfer test are on this node, the list is empty: the test
        does everything in its own process.

        Args:
            now: True if the trial starts now, so that a finished training can be found. False assumes that a transfer
                test has to train.
        """
        experiment, sites = trial.experiment, self._planner.sites(trial.experiment)
        members = roster(experiment, list(sites.trained))
        if experiment.test is None:
            return members
        if not sites.remote_sites:
            return []
        trained = now and find_trained_run(self._trial_table.workspace, trial.training, experiment) is not None
        return list(dict.fromkeys([*(() if trained else members), *sites.tested]))

    def _config(self, row: TrialRow) -> dict[str, Any]:
        """The configuration of a trial for Ray Tune, in JSON types except for ``asked``."""
        trial = row.trial
        return {
            "number": trial.number,
            "digest": trial.digest,
            "problem": trial.problem,
            "rounds": trial.experiment.rounds,
            "members": self._members(trial, now=True),
            "asked": asked(trial.experiment),
            "experiment": json.dumps(absolute(trial.experiment.as_dict())),
            "name": trial.name,
            "searched": list(trial.params),
            "tags": dict(self._tags(trial.number)),
            "rerun": self._rerun,
        }

    def _over(self) -> bool:
        """Whether the time budget is used up."""
        return time.monotonic() >= self._deadline


def _group(packing: Packing, each: tuple[Any, Any], members: Sequence[str]) -> ray_tune.PlacementGroupFactory:
    """The placement group of a trial, see :meth:`Packing.factory` and, without members, :meth:`Packing.alone`."""
    return packing.factory(each, members) if members else packing.alone(each)
