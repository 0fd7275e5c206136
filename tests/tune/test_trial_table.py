"""The rows of a sweep: what became of each trial, what its followers learn of it, and what a later call knows."""

import json
from typing import Any

import numpy as np
import pytest
from small_sweeps import base, described, planned

from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.wire import State
from fedrecon.tune.search.config import Sweep
from fedrecon.tune.sweep.run import _Sweep
from fedrecon.tune.trials.settings import best_setting
from fedrecon.tune.trials.trial_table import TrialTable

ROUNDS = 4
CONTRACT = {"params", "status", "run_id", "digest", "metrics", "trained_rounds", "error"}


@pytest.fixture(scope="module")
def trials(consortium):
    """Four: two trainings (seeds), each evaluated under two mask seeds: 0 and 1 share a training, 2 and 3 the other."""
    search = {"seed": {"grid": [0, 1]}, "evaluation.mask_seed": {"grid": [0, 1]}}
    return planned(base(consortium, training={"rounds": ROUNDS}), search)


@pytest.fixture
def trial_table(trials, tmp_path):
    return filled(tmp_path, trials)


def filled(workspace, trials):
    trial_table = TrialTable(workspace, "s")
    for trial in trials:
        trial_table.add(trial)
    return trial_table


def again(trial_table):
    """What the next call finds."""
    return filled(trial_table.workspace, [row.trial for row in trial_table.rows])


def result(trial, validation=20.0, test=19.0, resumed_from=0, rounds=ROUNDS) -> dict[str, Any]:
    scores = {"psnr": test, "ssim": 0.5, "nmse": 0.25}
    return {
        "run_id": f"run-{trial.number}",
        "digest": trial.digest,
        "rounds": rounds,
        "resumed_from": resumed_from,
        "trained_rounds": rounds - resumed_from,
        "validation": {"mean/psnr": validation},
        "sites": {"north": {**scores, "psnr": test + 1}},
        "mean": scores,
    }


def saved(trial_table, trial, **more):
    trial_ended = result(trial, **more)
    RunFolder(trial_table.workspace, trial.digest).path.mkdir(parents=True, exist_ok=True)
    RunFolder(trial_table.workspace, trial.digest).save_result(trial_ended)
    return trial_ended


def committed(trial_table, trial, number):
    """The run's folder as a driver leaves it after round ``number``."""
    folder = RunFolder(trial_table.workspace, trial.digest)
    folder.note_run({"run_id": f"run-{trial.number}"})
    folder.checkpoints.save(State(number, np.zeros(1, np.float32), {}, {}), {})


def finish(trial_table, number, **more):
    row = trial_table.rows[number]
    trial_table.began(row.trial.digest)
    trial_ended = result(row.trial, **more)
    for done in range(trial_ended["resumed_from"] + 1, trial_ended["rounds"] + 1):
        trial_table.reported(row.trial.digest, done, {"mean/psnr": 10.0 + done})
    saved(trial_table, row.trial, **more)
    trial_table.finished(row.trial.digest, trial_ended["trained_rounds"])


def best(trial_table, metric, mode):
    """The first trial of the best setting."""
    found = best_setting(trial_table.rows, metric, mode)
    return found and found.rows[0]


def statuses(trial_table):
    return [row.status for row in trial_table.rows]


def test_before_anything_runs_all_wait(trial_table):
    assert statuses(trial_table) == ["WAITING"] * 4
    assert trial_table.count("WAITING") == 4
    assert trial_table.count("WAITING", "FINISHED") == 4
    assert best(trial_table, "mean/psnr", "max") is None
    assert not trial_table.folder.exists()


def test_a_trial_from_its_start_to_its_end(trial_table):
    row = trial_table.rows[0]
    trial_table.began(row.trial.digest)
    assert statuses(trial_table) == ["RUNNING", "WAITING", "WAITING", "WAITING"]
    trial_table.reported(row.trial.digest, 1, {"mean/loss": 0.5})
    trial_table.reported(row.trial.digest, 2, {"mean/loss": 0.25, "mean/psnr": 18.0})
    assert (row.round, row.metrics) == (2, {"mean/loss": 0.25, "mean/psnr": 18.0})
    trial_table.finished(row.trial.digest, saved(trial_table, row.trial)["trained_rounds"])
    assert (row.status, row.run_id, row.round, row.error) == ("FINISHED", "run-0", ROUNDS, None)
    assert row.metrics == {
        "mean/psnr": 20.0,
        "test/mean/psnr": 19.0, "test/mean/ssim": 0.5, "test/mean/nmse": 0.25,
        "test/site/north/psnr": 20.0, "test/site/north/ssim": 0.5, "test/site/north/nmse": 0.25,
    }  # fmt: skip
    assert (row.trained_rounds, row.trained_before) == (ROUNDS, 0)
    assert row.seconds > 0
    assert statuses(trial_table)[1:] == ["WAITING"] * 3


def test_a_row_as_json(trial_table):
    finish(trial_table, 2)
    trial_ended = json.loads(json.dumps(trial_table.rows[2].as_dict()))
    assert set(trial_ended) >= CONTRACT
    assert trial_ended["params"] == {"seed": 1, "evaluation.mask_seed": 0}
    assert trial_ended["digest"] == trial_table.rows[2].trial.digest
    assert (trial_ended["status"], trial_ended["trained_rounds"], trial_ended["error"]) == ("FINISHED", ROUNDS, None)


def test_who_takes_a_training_over_trained_nothing(trial_table):
    finish(trial_table, 0)
    finish(trial_table, 1, resumed_from=ROUNDS)
    assert [row.trained_rounds for row in trial_table.rows] == [ROUNDS, 0, 0, 0]


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_the_followers_of_a_training_that_was_not_done_share_its_fate(trial_table, status):
    row = trial_table.rows[0]
    trial_table.began(row.trial.digest)
    trial_table.reported(row.trial.digest, 1, {"mean/psnr": 30.0})
    trial_table.ended(row.trial.digest, status, "out of memory")
    assert statuses(trial_table) == [status, status, "WAITING", "WAITING"]
    assert row.error == "out of memory"
    assert trial_table.rows[1].error == "its training is that of trial 0: out of memory"
    assert [one.trained_rounds for one in trial_table.rows[:2]] == [1, 0]
    assert best(trial_table, "mean/psnr", "max") is None


def test_a_trial_that_fails_after_the_training_is_done_takes_nobody_along(trial_table, consortium):
    """Its own evaluation failed; the others can still take the training over."""
    search = {"evaluation.mask_seed": {"grid": [0, 1, 2]}}
    trial_table = filled(trial_table.workspace, planned(base(consortium), search))
    finish(trial_table, 0)
    trial_table.began(trial_table.rows[1].trial.digest)
    trial_table.ended(trial_table.rows[1].trial.digest, "FAILED", "no room for this mask")
    assert statuses(trial_table) == ["FINISHED", "FAILED", "WAITING"]


def test_what_has_ended_keeps_its_verdict(trial_table):
    finish(trial_table, 1)
    trial_table.began(trial_table.rows[0].trial.digest)
    trial_table.ended(trial_table.rows[0].trial.digest, "FAILED", "x")
    assert statuses(trial_table)[:2] == ["FAILED", "FINISHED"]
    assert trial_table.rows[1].error is None


def test_the_best_has_finished_and_is_the_first_of_equals(consortium, tmp_path):
    trial_table = filled(tmp_path, planned(base(consortium), {"evaluation.mask_seed": {"grid": [0, 1, 2, 3]}}))
    for number, validation in ((0, 20.0), (1, 25.0), (2, 25.0)):
        finish(trial_table, number, validation=validation)
    trial_table.began(trial_table.rows[3].trial.digest)
    trial_table.reported(trial_table.rows[3].trial.digest, 1, {"mean/psnr": 99.0})
    assert best(trial_table, "mean/psnr", "max") is trial_table.rows[1]
    assert best(trial_table, "mean/psnr", "min") is trial_table.rows[0]
    assert best(trial_table, "mean/loss", "min") is None
    trial_table.ended(trial_table.rows[3].trial.digest, "STOPPED", "behind")
    assert best(trial_table, "mean/psnr", "max") is trial_table.rows[1]
    trial_table.rows[1].status = "FAILED"
    assert best(trial_table, "mean/psnr", "max") is trial_table.rows[2]


def test_a_score_that_is_no_number_is_never_the_best(trial_table):
    finish(trial_table, 0, validation=float("nan"))
    finish(trial_table, 1, validation=20.0)
    assert best(trial_table, "mean/psnr", "max") is trial_table.rows[1]
    assert best(trial_table, "mean/psnr", "min") is trial_table.rows[1]


def test_a_later_call_knows_what_was_done(trial_table):
    finish(trial_table, 0)
    finish(trial_table, 1, resumed_from=ROUNDS)
    trial_table.began(trial_table.rows[2].trial.digest)
    trial_table.reported(trial_table.rows[2].trial.digest, 1, {"mean/psnr": 11.0})
    trial_table.ended(trial_table.rows[2].trial.digest, "FAILED", "NaN")
    later = again(trial_table)
    assert statuses(later) == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert [row.trained_rounds for row in later.rows] == [0, 0, 0, 0]
    assert [row.trained_before for row in later.rows] == [ROUNDS, 0, 1, 0]
    assert [row.error for row in later.rows] == [row.error for row in trial_table.rows]
    assert [row.metrics for row in later.rows] == [row.metrics for row in trial_table.rows]
    assert [row.seconds for row in later.rows] == [pytest.approx(row.seconds, abs=1e-3) for row in trial_table.rows]
    assert best(later, "mean/psnr", "max").trial.number == 0


def test_an_experiment_that_ran_outside_of_the_sweep_is_finished(trial_table):
    saved(trial_table, trial_table.rows[3].trial, validation=21.0)
    later = again(trial_table)
    assert statuses(later) == ["WAITING", "WAITING", "WAITING", "FINISHED"]
    assert later.rows[3].metrics["mean/psnr"] == 21.0
    assert (later.rows[3].trained_rounds, later.rows[3].trained_before) == (0, 0)


def test_a_result_counts_more_than_an_older_verdict(trial_table):
    trial_table.began(trial_table.rows[0].trial.digest)
    trial_table.ended(trial_table.rows[0].trial.digest, "FAILED", "x")
    saved(trial_table, trial_table.rows[0].trial)
    row = again(trial_table).rows[0]
    assert (row.status, row.error, row.run_id) == ("FINISHED", None, "run-0")


def test_a_driver_that_was_killed_left_its_last_round(trial_table):
    committed(trial_table, trial_table.rows[0].trial, 3)
    row = again(trial_table).rows[0]
    assert (row.status, row.round, row.run_id) == ("WAITING", 3, "run-0")


def test_what_was_interrupted_goes_on_and_its_rounds_are_counted_once(trial_table):
    row = trial_table.rows[0]
    trial_table.began(row.trial.digest)
    for number in (1, 2, 3):
        committed(trial_table, row.trial, number)
        trial_table.reported(row.trial.digest, number, {})
    trial_table.interrupted()
    assert (row.status, row.trained_rounds, row.trained_before) == ("WAITING", 3, 0)
    assert statuses(trial_table)[1:] == ["WAITING"] * 3

    later = again(trial_table)
    row = later.rows[0]
    assert (row.status, row.round, row.trained_rounds, row.trained_before) == ("WAITING", 3, 0, 3)
    before = row.seconds
    later.began(row.trial.digest)
    for number in range(1, ROUNDS + 1):
        later.reported(row.trial.digest, number, {})
    later.finished(row.trial.digest, saved(trial_table, row.trial, resumed_from=3)["trained_rounds"])
    assert (row.trained_rounds, row.trained_before) == (1, 3)
    assert row.seconds > before
    assert again(later).rows[0].trained_before == ROUNDS


def test_a_trial_that_fails_twice_and_then_ends_has_trained_every_round_once(trial_table):
    """Tune begins it again from its checkpoint, within one call."""
    row = trial_table.rows[0]
    for last in (1, 2):
        trial_table.began(row.trial.digest)
        for number in range(1, last + 1):
            trial_table.reported(row.trial.digest, number, {})
    trial_table.began(row.trial.digest)
    trial_table.finished(row.trial.digest, saved(trial_table, row.trial, resumed_from=2)["trained_rounds"])
    assert row.trained_rounds == ROUNDS


@pytest.mark.parametrize("end", ["ended", "interrupted"])
def test_a_resumed_trial_that_ends_while_it_tells_of_its_old_rounds_trained_nothing(trial_table, end):
    committed(trial_table, trial_table.rows[0].trial, 3)
    later = again(trial_table)
    row = later.rows[0]
    later.began(row.trial.digest)
    later.reported(row.trial.digest, 1, {})
    if end == "ended":
        later.ended(row.trial.digest, "STOPPED", "behind")
    else:
        later.interrupted()
    assert row.trained_rounds == 0


@pytest.mark.parametrize("end", ["ended", "interrupted"])
def test_one_that_took_its_training_over_trained_nothing_however_it_ends(trial_table, end):
    finish(trial_table, 0)
    row = trial_table.rows[1]
    trial_table.began(row.trial.digest)
    trial_table.reported(row.trial.digest, ROUNDS, {"mean/psnr": 1.0})
    if end == "ended":
        trial_table.ended(row.trial.digest, "FAILED", "x")
    else:
        trial_table.interrupted()
    assert row.trained_rounds == 0


def test_what_is_forgotten_is_run_again(trial_table):
    for number in (0, 2):
        trial_table.began(trial_table.rows[number].trial.digest)
        trial_table.ended(trial_table.rows[number].trial.digest, "FAILED", "x")
    trial_table.forget(trial_table.rows[:2])
    assert statuses(trial_table) == ["WAITING", "WAITING", "FAILED", "FAILED"]
    assert (trial_table.rows[0].error, trial_table.rows[0].round, trial_table.rows[0].metrics) == (None, 0, {})
    assert statuses(again(trial_table)) == ["WAITING", "WAITING", "FAILED", "FAILED"]


def test_a_rerun_counts_its_own_rounds(trial_table):
    finish(trial_table, 0)
    later = again(trial_table)
    later.forget(later.rows)
    finish(later, 0)
    assert later.rows[0].trained_rounds == ROUNDS
    assert again(later).rows[0].trained_before == ROUNDS


@pytest.fixture
def twins(consortium, tmp_path):
    """Two points that come to one experiment."""
    return filled(
        tmp_path,
        planned(base(consortium), {"operator": {"grid": [{"acceleration": 2}, {"acceleration": 2, "noise": 1}]}}),
    )


def test_two_points_of_one_experiment_have_one_fate_and_one_training(twins):
    digest = twins.rows[0].trial.digest
    assert list(twins.with_digest(digest)) == twins.rows
    finish(twins, 0)
    assert statuses(twins) == ["FINISHED", "FINISHED"]
    assert [row.trained_rounds for row in twins.rows] == [ROUNDS, 0]
    assert twins.rows[0].metrics == twins.rows[1].metrics
    assert best(twins, "mean/psnr", "max") is twins.rows[0]
    later = again(twins)
    assert statuses(later) == ["FINISHED", "FINISHED"]
    assert later.rows[0].trained_before == ROUNDS


@pytest.mark.parametrize("end", ["ended", "interrupted"])
def test_two_points_of_one_experiment_that_did_not_finish(twins, end):
    digest = twins.rows[0].trial.digest
    twins.began(digest)
    twins.reported(digest, 1, {})
    if end == "ended":
        twins.ended(digest, "FAILED", "x")
    else:
        twins.interrupted()
    assert len(set(statuses(twins))) == 1
    assert [row.error for row in twins.rows] == (["x", "x"] if end == "ended" else [None, None])
    assert sum(row.trained_rounds for row in twins.rows) == 1


def test_the_best_setting_is_that_of_the_best_mean_over_its_planned_seeds(trial_table):
    rows = trial_table.rows
    two, other = ([row for row in rows if row.trial.params["evaluation.mask_seed"] == mask] for mask in (0, 1))
    assert best_setting(trial_table.rows, "mean/psnr", "max") is None
    for row, score in ((two[0], 20.0), (other[0], 30.0), (two[1], 24.0)):
        finish(trial_table, row.trial.number, validation=score)
    top = best_setting(trial_table.rows, "mean/psnr", "max")  # the value of one of two seeds does not count
    assert (top.params, list(top.rows), top.complete) == ({"evaluation.mask_seed": 0}, two, True)
    assert top.over_seeds("mean/psnr") == (22.0, pytest.approx(8**0.5))
    finish(trial_table, other[1].trial.number, validation=10.0)
    assert best_setting(trial_table.rows, "mean/psnr", "max").over_seeds("mean/psnr")[0] == 22.0
    assert best_setting(trial_table.rows, "mean/psnr", "min").over_seeds("mean/psnr")[0] == 20.0


def test_without_a_complete_setting_one_with_the_most_seeds_is_the_best(trial_table):
    finish(trial_table, 1, validation=21.0)
    finish(trial_table, 0, validation=21.0)
    top = best_setting(trial_table.rows, "mean/psnr", "max")  # a tie: the lowest number
    assert ([row.trial.number for row in top.rows], top.complete) == ([0], False)
    assert top.over_seeds("mean/psnr") == (21.0, None)


@pytest.mark.parametrize(("allowed", "status"), [(1, "budget"), (2, "interrupted"), (None, "interrupted")])
def test_an_optuna_sweep_that_its_budget_ends_is_not_finished(consortium, tmp_path, allowed, status):
    given = described({"training.batch_size": {"grid": [1, 2]}}, experiment=base(consortium), algorithm="optuna")
    sweep = Sweep.read({**given, "samples": 2, "budget": {"trials": allowed}})
    campaign = _Sweep(*sweep, tmp_path, None, None, False)
    campaign.trial_table.add(campaign.planner.trial(0, {"training.batch_size": 1}))
    finish(campaign.trial_table, 0, rounds=2)
    assert campaign.status() == status
    campaign.trial_table.add(campaign.planner.trial(1, {"training.batch_size": 2}))
    finish(campaign.trial_table, 1, rounds=2)
    assert campaign.status() == ("budget" if allowed == 1 else "finished")
