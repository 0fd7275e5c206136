"""Which trial is next: the plan's order, or Optuna's next suggestion; never a training twice at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.search import Searcher

from fedrecon.sites import atomic
from fedrecon.sites.errors import InputError
from fedrecon.sites.seeding import seed
from fedrecon.tune.engine.trainable import ROUND, TRAINED
from fedrecon.tune.search.space import suggest
from fedrecon.tune.trials.planner import Planner
from fedrecon.tune.trials.trial_table import ENDED, TrialRow, TrialTable


class Source(Protocol):
    """Where trials come from."""

    def more(self) -> TrialRow | None:
        """A row beyond those of the board, or None where there are no more."""
        ...

    def trial_ended(self, row: TrialRow) -> None:
        """A row has ended."""
        ...


class PlannedTrials:
    """All rows are on the board already."""

    def more(self) -> TrialRow | None:
        """See :class:`Source`."""
        return None

    def trial_ended(self, row: TrialRow) -> None:
        """See :class:`Source`."""


class Optuna:
    """Optuna's suggestions, asked one by one; written down, so that a resumed sweep asks on from there.

    Args:
        total: trials in all. board: gets a row for each suggestion, first those of earlier calls.
    """

    def __init__(self, planner: Planner, trial_table: TrialTable, total: int) -> None:
        try:
            import optuna
        except ImportError:
            raise InputError("algorithm: optuna needs the package: pip install 'fedrecon[optuna]'") from None

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sweep = planner.sweep
        directions: list[Any] = ["maximize" if mode == "max" else "minimize" for mode in sweep.modes]
        self._planner, self._trial_table, self._total = planner, trial_table, total
        # Another seed for each call, or a resumed sweep would draw the first suggestions again.
        earlier = read_suggested(trial_table.folder)
        sampler = optuna.samplers.TPESampler(seed=seed(sweep.seed, "optuna", len(earlier)) % 2**32)
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        self._asked: dict[int, Any] = {}
        self._path = trial_table.folder / "suggested.json"
        for params in earlier:
            self._study.enqueue_trial(self._encoded(params))
            row = self._ask()
            if row.status in ENDED:
                self.trial_ended(row)

    def more(self) -> TrialRow | None:
        """See :class:`Source`."""
        if len(self._trial_table.rows) >= self._total:
            return None
        row = self._ask()
        atomic.write_json(self._path, [one.trial.params for one in self._trial_table.rows])
        return row

    def trial_ended(self, row: TrialRow) -> None:
        """See :class:`Source`. Optuna hears of a stopped trial what it reached; of a failed one that it failed."""
        from optuna.trial import TrialState

        asked = self._asked.pop(row.trial.number, None)
        if asked is None:
            return
        wanted = self._planner.sweep.metrics
        values = [row.metrics[metric] for metric in wanted if metric in row.metrics]
        if row.status in ("FINISHED", "STOPPED") and len(values) == len(wanted):
            self._study.tell(asked, values)
        else:
            self._study.tell(asked, state=TrialState.FAIL)

    def _ask(self) -> TrialRow:
        asked = self._study.ask()
        params = suggest(self._planner.space, asked, self._planner.value)
        row = self._trial_table.add(self._planner.trial(len(self._trial_table.rows), params))
        self._asked[row.trial.number] = asked
        return row

    def _encoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a list stand in Optuna as their place in it."""
        lists = {one.key: one.values for one in self._planner.space if one.kind in ("grid", "choice")}
        return {key: lists[key].index(value) if key in lists else value for key, value in params.items()}


def read_suggested(folder: Path) -> list[dict[str, Any]]:
    """What Optuna suggested in earlier calls."""
    path = folder / "suggested.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


class NotPickled:
    """Ray Tune writes itself down, whole; what belongs to this process stays out: the truth is in the workspace."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class TrialSearcher(NotPickled, Searcher):
    """Gives Ray Tune the next trial.

    Args:
        config: what a trial is started with. limit: rows that may be run at all, by their number.
        trained: whether a training, by its digest, is done and will be taken over: any number of trials then may.
    """

    def __init__(
        self,
        trial_table: TrialTable,
        source: Source,
        config: Callable[[TrialRow], dict[str, Any]],
        limit: int,
        trained: Callable[[str], bool] = lambda training: False,  # noqa: ARG005
    ) -> None:
        super().__init__()
        self._trial_table, self._source, self._config, self._limit = trial_table, source, config, limit
        self._trained = trained
        self.rows: dict[str, TrialRow] = {}
        self.closed = False

    def suggest(self, trial_id: str) -> Any:
        """See Ray Tune: a configuration, None for "ask again", or FINISHED."""
        row = self._next({one for one in {row.trial.training for row in self.rows.values()} if not self._trained(one)})
        if row is None:
            return None if self.rows and not self.closed else Searcher.FINISHED
        self.rows[trial_id] = row
        return self._config(row)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """See Ray Tune. The verdict is given by :class:`Watch`, which is told after this."""

    def settle(self, trial_id: str) -> TrialRow | None:
        """The row of a trial that has ended."""
        return self.rows.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept by Ray Tune: the board's files and the runs' folders are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """See :meth:`save`."""

    def _next(self, running: set[str]) -> TrialRow | None:
        if self.closed:
            return None
        given = {row.trial.number for row in self.rows.values()}  # a row waits until Ray Tune has started it
        waiting = [row for row in self._trial_table.rows[: self._limit] if row.status == "WAITING"]
        for row in waiting:
            if row.trial.number not in given and row.trial.training not in running:
                return row
        if waiting:
            return None
        fresh = self._source.more() if len(self._trial_table.rows) < self._limit else None
        while fresh is not None and fresh.status in ENDED:
            self._source.trial_ended(fresh)
            fresh = self._source.more() if len(self._trial_table.rows) < self._limit else None
        return None if fresh is None or fresh.trial.training in running else fresh


class TableUpdater(NotPickled, Callback):
    """Tells the board what happens to Ray Tune's trials.

    Args:
        tell: called after every change, with the row. over: whether the sweep's time is over.
        why: what a trial, by its digest, failed of.
    """

    def __init__(
        self,
        trial_table: TrialTable,
        dispatcher: TrialSearcher,
        source: Source,
        tell: Callable[[TrialRow], None],
        over: Callable[[], bool],
        why: Callable[[str], str],
    ) -> None:
        self._trial_table, self._dispatcher, self._source = trial_table, dispatcher, source
        self._tell, self._over, self._why = tell, over, why

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """See Ray Tune."""
        if (row := self._dispatcher.rows.get(trial.trial_id)) is not None:
            self._trial_table.began(row.trial.digest)
            self._tell(row)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """See Ray Tune."""
        if (row := self._dispatcher.rows.get(trial.trial_id)) is not None and TRAINED not in result:
            scores = {key: value for key, value in result.items() if key.startswith(("mean/", "site/"))}
            self._trial_table.reported(row.trial.digest, result[ROUND], scores)
            self._tell(row)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """See Ray Tune. Without a result, it was the scheduler that ended the trial, or the end of the time."""
        if (row := self._dispatcher.settle(trial.trial_id)) is None:
            return
        if (trained := trial.last_result.get(TRAINED)) is not None:
            self._trial_table.finished(row.trial.digest, trained)
        elif self._over():
            return
        else:
            self._trial_table.ended(row.trial.digest, "STOPPED", f"stopped by the scheduler after round {row.round}")
        self._source.trial_ended(row)
        self._tell(row)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """See Ray Tune; called when a trial has used up its failures."""
        if (row := self._dispatcher.settle(trial.trial_id)) is not None:
            self._trial_table.ended(row.trial.digest, "FAILED", self._why(row.trial.digest))
            self._source.trial_ended(row)
            self._tell(row)
