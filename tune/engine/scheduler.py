"""Early stopping of like with like: one of Ray Tune's schedulers for every problem of the sweep.

A trial at acceleration 2 scores better than any at 8: compared with each other, all hard problems would be stopped.
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
        max_t=max(rounds, chosen.grace_rounds) + 1,  # the last round is never cut: it brings the test scores
        grace_period=chosen.grace_rounds,
        reduction_factor=chosen.reduction_factor,
    ),
    "median": lambda chosen, metric, mode, _: MedianStoppingRule(
        time_attr=ROUND,
        metric=metric,
        mode=mode,
        grace_period=chosen.grace_rounds,
        min_samples_required=chosen.min_trials,
        min_time_slice=10**9,  # it would pause trials that wait for company, which needs checkpoints of Tune
    ),
}


class PerProblemScheduler(FIFOScheduler):
    """Passes what a trial reports to the scheduler of its problem.

    Args:
        chosen, metric, mode: of the sweep. rounds: the longest experiment's.
    """

    def __init__(self, chosen: Scheduler, metric: str, mode: str, rounds: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make: Callable[[], TrialScheduler] = lambda: MAKERS[chosen.name](chosen, metric, mode, rounds)
        self._by_problem: dict[str, TrialScheduler] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See Ray Tune."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See Ray Tune."""
        return self._of(trial).on_trial_result(tune_controller, trial, result)

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
        problem = trial.config["problem"]
        if problem not in self._by_problem:
            self._by_problem[problem] = self._make()
        return self._by_problem[problem]
