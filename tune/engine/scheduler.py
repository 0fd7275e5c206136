"""Early stopping of like with like: each problem of the sweep has a Ray Tune scheduler of its own.

A trial at acceleration 2 scores better than any trial at acceleration 8. If one scheduler compared both, it would stop
all trials of the hard problem. The same holds for means over different sites.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from fedrecon.tune.engine.trainable import ROUND
from fedrecon.tune.search.config import Scheduler
from fedrecon.tune.trials.settings import VALIDATION, sites_of

_Likeness = tuple[str, frozenset[str]]
"""The problem of a trial, and the sites whose validation subjects a report scores."""

MAKERS: dict[str, Callable[..., TrialScheduler]] = {
    "asha": lambda chosen, metric, mode, rounds: AsyncHyperBandScheduler(
        time_attr=ROUND,
        metric=metric,
        mode=mode,
        max_t=max(rounds, chosen.grace_rounds) + 1,  # ASHA ends every trial at max_t
        grace_period=chosen.grace_rounds,
        reduction_factor=chosen.reduction_factor,
    ),
    "median": lambda chosen, metric, mode, _: MedianStoppingRule(
        time_attr=ROUND,
        metric=metric,
        mode=mode,
        grace_period=chosen.grace_rounds,
        min_samples_required=chosen.min_trials,
        min_time_slice=10**9,  # else trials pause to wait for others, which needs Tune's checkpoints
    ),
}
"""The function that makes each scheduler from its settings, the metric, its mode, and the number of rounds."""


class PerProblemScheduler(FIFOScheduler):
    """Passes the reports of a trial to the scheduler of the trial's problem and of the sites that the report scores.

    A run with ``resources.min_sites`` goes on without a site that died. Its mean over the sites that are left is higher
    or lower than that of other trials for no merit of its own, so it is compared with such means alone.

    Args:
        chosen: the sweep's scheduler settings. metric, mode: the sweep's first metric and its mode.
        rounds: the number of rounds of the longest experiment.
    """

    def __init__(self, chosen: Scheduler, metric: str, mode: str, rounds: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make: Callable[[], TrialScheduler] = lambda: MAKERS[chosen.name](chosen, metric, mode, rounds)
        self._schedulers: dict[_Likeness, TrialScheduler] = {}
        self._known: dict[str, list[TrialScheduler]] = {}
        """The schedulers that know a trial, by its id."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See Ray Tune. Does nothing: a scheduler gets a trial with the first report that it has to judge."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See Ray Tune. A trial that has committed its last round goes on: its test scores come after it."""
        decision = self._of(tune_controller, trial, result).on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if result[ROUND] >= trial.config["rounds"] else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See Ray Tune. The last result is told to the scheduler of its own sites, and to no other."""
        self._of(tune_controller, trial, result).on_trial_complete(tune_controller, trial, result)
        self._forget(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See Ray Tune."""
        for one in self._forget(trial):
            one.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """See Ray Tune."""
        for one in self._forget(trial):
            one.on_trial_remove(tune_controller, trial)

    def _of(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> TrialScheduler:
        """The scheduler of a report. The first report of its kind makes it."""
        like = trial.config["problem"], frozenset(sites_of(result, VALIDATION))
        if like not in self._schedulers:
            self._schedulers[like] = self._make()
        found, known = self._schedulers[like], self._known.setdefault(trial.trial_id, [])
        if found not in known:
            known.append(found)
            found.on_trial_add(tune_controller, trial)
        return found

    def _forget(self, trial: Any) -> list[TrialScheduler]:
        """Takes a trial that has ended off the list. Returns the schedulers that knew it."""
        return self._known.pop(trial.trial_id, [])
