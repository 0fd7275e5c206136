"""Early stopping compares trials of one problem, by hand-made reports; no cluster."""

from types import SimpleNamespace
from typing import Any

import pytest

from fedrecon.tune.engine.scheduler import MAKERS, PerProblemScheduler
from fedrecon.tune.search.config import Scheduler

EASY, HARD = '{"operator.acceleration": 2}', '{"operator.acceleration": 8}'


class Controller:
    """What a scheduler asks of Ray Tune's controller."""

    def __init__(self) -> None:
        self.trials: list[Any] = []

    def get_trials(self) -> list[Any]:
        return self.trials

    def get_live_trials(self) -> list[Any]:
        return self.trials


class Trial(SimpleNamespace):
    __hash__ = object.__hash__

    def is_finished(self) -> bool:
        return False


def run(scheduler: PerProblemScheduler, reports: dict[str, tuple[str, list[float]]]) -> dict[str, int]:
    """The round after which each trial was stopped (0: not); one trial after the other."""
    controller, stopped = Controller(), {}
    for name, (problem, scores) in reports.items():
        trial = Trial(trial_id=name, config={"problem": problem, "rounds": len(scores)}, status="RUNNING")
        controller.trials.append(trial)
        scheduler.on_trial_add(controller, trial)
        stopped[name], result = 0, {}
        for number, score in enumerate(scores, 1):
            result = {"round": number, "mean/psnr": score, "training_iteration": number}
            if number == len(scores):
                break
            decision = scheduler.on_trial_result(controller, trial, result)
            assert decision in ("CONTINUE", "STOP")  # a pause would need checkpoints of Ray Tune
            if decision == "STOP":
                stopped[name] = number
                break
        scheduler.on_trial_complete(controller, trial, result)
    return stopped


def test_halving_stops_the_worse_half_of_each_problem_alone() -> None:
    chosen = Scheduler(name="asha", grace_rounds=2, reduction_factor=2)
    found = run(
        PerProblemScheduler(chosen, "mean/psnr", "max", 6),
        {
            "easy good": (EASY, [30.0] * 6),
            "hard good": (HARD, [20.0] * 6),  # far below any of the easy ones
            "easy bad": (EASY, [25.0] * 6),
            "hard bad": (HARD, [15.0] * 6),
            "hard best": (HARD, [21.0] * 6),
        },
    )
    assert found == {"easy good": 0, "hard good": 0, "easy bad": 2, "hard bad": 2, "hard best": 0}


def test_a_smaller_value_may_be_the_better_one() -> None:
    chosen = Scheduler(name="asha", grace_rounds=1, reduction_factor=2)
    found = run(
        PerProblemScheduler(chosen, "mean/psnr", "min", 4), {"low": (EASY, [0.1] * 4), "high": (EASY, [0.2] * 4)}
    )
    assert found == {"low": 0, "high": 1}


def test_the_median_rule_waits_for_company_and_for_the_grace_rounds() -> None:
    chosen = Scheduler(name="median", grace_rounds=3, min_trials=2)
    found = run(
        PerProblemScheduler(chosen, "mean/psnr", "max", 6),
        {
            "first": (EASY, [20.0] * 6),
            "second": (EASY, [22.0] * 6),
            "below": (EASY, [19.0] * 6),  # the median of 20 and 22 is 21
            "above": (EASY, [23.0] * 6),
            "alone": (HARD, [5.0] * 6),
        },
    )
    assert found == {"first": 0, "second": 0, "below": 3, "above": 0, "alone": 0}


def test_a_trial_that_has_reached_its_last_round_is_never_stopped() -> None:
    """Trials of two lengths: the last round of the short ones is a rung of the long ones."""
    scheduler = PerProblemScheduler(Scheduler(name="asha", grace_rounds=2, reduction_factor=2), "mean/psnr", "max", 8)
    controller, decisions = Controller(), []
    for name, score, rounds in (("good", 30.0, 8), ("short", 20.0, 2), ("long", 20.0, 8)):
        trial = Trial(trial_id=name, config={"problem": EASY, "rounds": rounds}, status="RUNNING")
        scheduler.on_trial_add(controller, trial)
        report = {"round": 2, "mean/psnr": score, "training_iteration": 2}
        decisions.append(scheduler.on_trial_result(controller, trial, report))
    assert decisions == ["CONTINUE", "CONTINUE", "STOP"]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_round_that_was_not_scored_stops_nothing(name: str) -> None:
    scheduler = PerProblemScheduler(Scheduler(name=name), "mean/psnr", "max", 6)  # type: ignore[arg-type]
    trial = Trial(trial_id="a", config={"problem": EASY, "rounds": 6}, status="RUNNING")
    scheduler.on_trial_add(Controller(), trial)
    assert scheduler.on_trial_result(Controller(), trial, {"round": 1}) == "CONTINUE"


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize(("mode", "sign"), [("max", 1.0), ("min", -1.0)])
def test_a_trial_that_lost_its_easy_site_is_compared_with_its_like_alone(name: str, mode: str, sign: float) -> None:
    """Each trial is worse than the one before, so any of one kind stops. The site b that dies is the easy one."""
    chosen = Scheduler(name=name, grace_rounds=2, reduction_factor=2, min_trials=1)  # type: ignore[arg-type]
    scheduler = PerProblemScheduler(chosen, "mean/psnr", mode, 6)
    controller, stopped = Controller(), {}
    for label, a, lost_after in (("whole", 30.0, 9), ("lost", 29.0, 1), ("whole too", 28.0, 9), ("lost too", 27.0, 1)):
        trial = Trial(trial_id=label, config={"problem": EASY, "rounds": 6}, status="RUNNING")
        controller.trials.append(trial)
        scheduler.on_trial_add(controller, trial)
        result: dict[str, Any] = {}
        for number in range(1, 6):
            sites = {"a": sign * a, **({"b": sign * (a + 10)} if number <= lost_after else {})}
            scores = {f"site/{site}/psnr": value for site, value in sites.items()}
            scores["site/b/loss"] = 0.1  # a member's, and no site's score
            mean = sum(sites.values()) / len(sites)
            result = {"round": number, "mean/psnr": mean, "training_iteration": number, **scores}
            if scheduler.on_trial_result(controller, trial, result) == "STOP":
                stopped[label] = number
                break
        scheduler.on_trial_complete(controller, trial, result)
    # "lost" is 6 below "whole" for its lost site, and would have been stopped. The first of each kind has no company.
    assert stopped == {"whole too": 2, "lost too": 2}
