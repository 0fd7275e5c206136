"""Early stopping within a problem: each problem of the sweep has a Ray Tune scheduler of its own.

A trial at acceleration 2 scores better than any trial at acceleration 8. If one scheduler compared both, it would stop
all trials of the hard problem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from fedrecon.tune.engine.trainable import ROUND
from fedrecon.tune.search.config import Scheduler

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
    """Passes the reports of a trial to the scheduler of the trial's problem.

    Args:
        chosen: the sweep's scheduler settings. metric, mode: the sweep's first metric and its mode.
        rounds: the number of rounds of the longest experiment.
    """

    def __init__(self, chosen: Scheduler, metric: str, mode: str, rounds: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make: Callable[[], TrialScheduler] = lambda: MAKERS[chosen.name](chosen, metric, mode, rounds)
        self._by_problem: dict[str, TrialScheduler] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See Ray Tune."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See Ray Tune. A trial that has committed its last round goes on: its test scores come after it."""
        decision = self._of(trial).on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if result[ROUND] >= trial.config["rounds"] else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See Ray Tune."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See Ray Tune."""
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """See Ray Tune."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: Any) -> TrialScheduler:
        """The scheduler of the trial's problem. The first trial of a problem makes it."""
        problem = trial.config["problem"]
        if problem not in self._by_problem:
            self._by_problem[problem] = self._make()
        return self._by_problem[problem]
