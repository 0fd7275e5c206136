"""Chooses the next trial: the next one of the plan, or Optuna's next suggestion.

No training runs twice at once. A second trial with the same training waits, and then takes over the finished training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.search import Searcher

from fedrecon.platform.storage import checked_json
from fedrecon.sites.errors import InputError
from fedrecon.sites.seeding import seed
from fedrecon.tune.engine.trainable import ROUND, TRAINED
from fedrecon.tune.search.space import suggest
from fedrecon.tune.trials.planner import Planner
from fedrecon.tune.trials.settings import among
from fedrecon.tune.trials.trial_table import ENDED, TrialRow, TrialTable


class Source(Protocol):
    """A source of further trials."""

    def more(self) -> TrialRow | None:
        """Adds a new trial to the trial table. Returns its row, or None if there are no more trials."""
        ...

    def trial_ended(self, row: TrialRow) -> None:
        """Takes note that the trial of a row has ended."""
        ...


class PlannedTrials:
    """The source of a planned sweep. All its trials are in the trial table from the start, so it has no more."""

    def more(self) -> TrialRow | None:
        """See :class:`Source`."""
        return None

    def trial_ended(self, row: TrialRow) -> None:
        """See :class:`Source`."""


class Optuna:
    """The source of an Optuna sweep. It asks Optuna for one trial at a time.

    The suggestions are saved in ``suggested.json``. A resumed sweep repeats them and then asks for further ones.

    Args:
        planner: the planner of the trials.
        trial_table: the table that gets a row for each suggestion; the suggestions of earlier calls come first.
        total: the number of all trials, with those of earlier calls.

    Raises:
        InputError: the package optuna is not installed.
    """

    def __init__(self, planner: Planner, trial_table: TrialTable, total: int) -> None:
        try:
            import optuna
        except ImportError:
            raise InputError("algorithm: optuna needs the package: pip install 'fedrecon[optuna]'") from None

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sweep = planner.sweep
        assert sweep is not None  # only a sweep has this source
        directions: list[Any] = ["maximize" if mode == "max" else "minimize" for mode in sweep.modes]
        self._metrics = sweep.metrics
        self._planner, self._trial_table, self._total = planner, trial_table, total
        # Each call has another seed. Otherwise a resumed sweep would draw the first suggestions again.
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
        checked_json.write(self._path, {"suggested": [one.trial.params for one in self._trial_table.rows]})
        return row

    def trial_ended(self, row: TrialRow) -> None:
        """See :class:`Source`. Optuna gets the scores of a finished or stopped trial, or the state FAIL.

        FAIL is for a failed trial, and for a trial without a value of every metric: one that lost a site has no means.
        """
        from optuna.trial import TrialState

        asked = self._asked.pop(row.trial.number, None)
        if asked is None:
            return
        known = among(row, self._trial_table.rows).metrics
        values = [known[metric] for metric in self._metrics if metric in known]
        if row.status in ("FINISHED", "STOPPED") and len(values) == len(self._metrics):
            self._study.tell(asked, values)
        else:
            self._study.tell(asked, state=TrialState.FAIL)

    def _ask(self) -> TrialRow:
        """Asks Optuna for a trial and adds its row to the trial table."""
        asked = self._study.ask()
        params = suggest(self._planner.space, asked, self._planner.value)
        row = self._trial_table.add(self._planner.trial(len(self._trial_table.rows), params))
        self._asked[row.trial.number] = asked
        return row

    def _encoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The params as Optuna knows them: a value of a list is encoded by its index in the list."""
        lists = {one.key: one.values for one in self._planner.space if one.kind in ("grid", "choice")}
        return {key: lists[key].index(value) if key in lists else value for key, value in params.items()}


def read_suggested(folder: Path) -> list[dict[str, Any]]:
    """The params that Optuna suggested in earlier calls, in their order.

    Args:
        folder: the folder of the sweep.
    """
    remedy = "Begin the sweep under another name."
    found = checked_json.read(folder / "suggested.json", remedy, needs=("suggested",), bare="suggested")
    return [] if found is None else list(found["suggested"])


class NotPickled:
    """An object without a state when pickled, and without copies.

    Ray Tune pickles its searcher and its callbacks to save itself. This state belongs to this process and must not be
    saved: a sweep resumes from the files of the workspace.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class TrialSearcher(NotPickled, Searcher):
    """Gives Ray Tune the next trial.

    Args:
        trial_table: the table of the trials. source: the source of trials beyond the table.
        config: a function that gives the configuration of a trial for Ray Tune.
        limit: the number of rows that may run; later rows of the table never run.
        trained: a function that says whether the training of a digest is done. Any number of trials may take over such
            a training at once.

    Attributes:
        rows: the rows of the trials that Ray Tune has got and that have not ended, by Ray Tune's trial id.
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

    def suggest(self, trial_id: str) -> Any:
        """See Ray Tune.

        Returns:
            the configuration of the next trial; None if Ray Tune has to ask again; ``FINISHED`` if no trial is left.
        """
        row = self._next({one for one in {row.trial.training for row in self.rows.values()} if not self._trained(one)})
        if row is None:
            return None if self.rows else Searcher.FINISHED
        self.rows[trial_id] = row
        return self._config(row)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """See Ray Tune. Does nothing: Ray Tune then calls :class:`TableUpdater`, which notes how the trial ended."""

    def settle(self, trial_id: str) -> TrialRow | None:
        """Takes a trial that has ended off the list of running trials.

        Returns:
            the row of the trial; None if the trial is not on the list.
        """
        return self.rows.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """See Ray Tune. Saves nothing: a sweep resumes from the files of the trial table and from the run folders."""

    def restore(self, checkpoint_path: str) -> None:
        """See :meth:`save`."""

    def _next(self, running: set[str]) -> TrialRow | None:
        """The next row whose training is not among the running ones; None if there is no such row now."""
        given = {row.trial.number for row in self.rows.values()}  # they stay WAITING until Ray Tune has started them
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
    """Updates the trial table when Ray Tune starts a trial, gets its result, or ends it.

    Args:
        trial_table: the table of the trials. searcher: the searcher that gave out the trials.
        source: the source of the trials; it learns which trials have ended.
        on_change: a function that is called with the row after every change.
        over: a function that says whether the time budget is used up.
        why: a function that gives the reason why the trial of a digest failed.
        said: a function that gives what the trials have said since its last call: digest and message.
        say: a function that prints a line.
    """

    EVERY = 5.0
    """Time in seconds between two questions what the trials have said."""

    def __init__(
        self,
        trial_table: TrialTable,
        searcher: TrialSearcher,
        source: Source,
        on_change: Callable[[TrialRow], None],
        over: Callable[[], bool],
        why: Callable[[str], str],
        said: Callable[[], Sequence[tuple[str, str]]],
        say: Callable[[str], None],
    ) -> None:
        self._trial_table, self._searcher, self._source = trial_table, searcher, source
        self._on_change, self._over, self._why = on_change, over, why
        self._said, self._say, self._asked = said, say, time.monotonic()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """See Ray Tune, which calls this all the time. Prints what the trials say of their members."""
        if (now := time.monotonic()) - self._asked < self.EVERY:
            return
        self._asked = now
        for digest, message in self._said():
            numbers = ", ".join(str(row.trial.number) for row in self._trial_table.with_digest(digest))
            self._say(f"trial {numbers}: {message}")

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """See Ray Tune."""
        if (row := self._searcher.rows.get(trial.trial_id)) is not None:
            self._trial_table.began(row.trial.digest)
            self._on_change(row)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """See Ray Tune."""
        if (row := self._searcher.rows.get(trial.trial_id)) is not None and TRAINED not in result:
            scores = {key: value for key, value in result.items() if key.startswith(("mean/", "site/"))}
            self._trial_table.reported(row.trial.digest, result[ROUND], scores)
            self._on_change(row)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """See Ray Tune. If the trial has no result, the scheduler or the end of the time budget ended it.

        A trial that the end of the time ended stays unfinished in the table.
        """
        if (row := self._searcher.settle(trial.trial_id)) is None:
            return
        if (trained := trial.last_result.get(TRAINED)) is not None:
            self._trial_table.finished(row.trial.digest, trained)
        elif self._over():
            return
        else:
            self._trial_table.ended(row.trial.digest, "STOPPED", f"stopped by the scheduler after round {row.round}")
        self._source.trial_ended(row)
        self._on_change(row)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """See Ray Tune, which calls this if a trial failed more often than ``max_failures`` allows."""
        if (row := self._searcher.settle(trial.trial_id)) is not None:
            self._trial_table.ended(row.trial.digest, "FAILED", self._why(row.trial.digest))
            self._source.trial_ended(row)
            self._on_change(row)
