"""The rows of a sweep: what became of each trial, what its followers learn of it, and what a later call knows."""

import json
from typing import Any

import numpy as np
import pytest
from small_sweeps import base, planned

from fedrecon.platform.workspace import RunFolder
from fedrecon.sites.wire import State
from fedrecon.tune.board import Board

ROUNDS = 4
CONTRACT = {"params", "status", "run_id", "digest", "metrics", "trained_rounds", "error"}


@pytest.fixture(scope="module")
def trials(consortium):
    """Four: two trainings (seeds), each evaluated under two mask seeds: 0 and 1 share a training, 2 and 3 the other."""
    search = {"seed": {"grid": [0, 1]}, "evaluation.mask_seed": {"grid": [0, 1]}}
    return planned(base(consortium, training={"rounds": ROUNDS}), search)


@pytest.fixture
def board(trials, tmp_path):
    return filled(tmp_path, trials)


def filled(workspace, trials):
    board = Board(workspace, "s")
    for trial in trials:
        board.add(trial)
    return board


def again(board):
    """What the next call finds."""
    return filled(board.workspace, [row.trial for row in board.rows])


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


def saved(board, trial, **more):
    told = result(trial, **more)
    RunFolder(board.workspace, trial.digest).path.mkdir(parents=True, exist_ok=True)
    RunFolder(board.workspace, trial.digest).save_result(told)
    return told


def committed(board, trial, number):
    """The run's folder as a driver leaves it after round ``number``."""
    folder = RunFolder(board.workspace, trial.digest)
    folder.note_run({"run_id": f"run-{trial.number}"})
    folder.checkpoints.save(State(number, np.zeros(1, np.float32), {}, {}), {})


def finish(board, number, **more):
    row = board.rows[number]
    board.began(row.trial.digest)
    told = result(row.trial, **more)
    for done in range(told["resumed_from"] + 1, told["rounds"] + 1):
        board.reported(row.trial.digest, done, {"mean/psnr": 10.0 + done})
    saved(board, row.trial, **more)
    board.finished(row.trial.digest, told["trained_rounds"])


def statuses(board):
    return [row.status for row in board.rows]


def test_before_anything_runs_all_wait(board):
    assert statuses(board) == ["WAITING"] * 4
    assert board.count("WAITING") == 4
    assert board.count("WAITING", "FINISHED") == 4
    assert board.best("mean/psnr", "max") is None
    assert not board.folder.exists()


def test_a_trial_from_its_start_to_its_end(board):
    row = board.rows[0]
    board.began(row.trial.digest)
    assert statuses(board) == ["RUNNING", "WAITING", "WAITING", "WAITING"]
    board.reported(row.trial.digest, 1, {"mean/loss": 0.5})
    board.reported(row.trial.digest, 2, {"mean/loss": 0.25, "mean/psnr": 18.0})
    assert (row.round, row.metrics) == (2, {"mean/loss": 0.25, "mean/psnr": 18.0})
    board.finished(row.trial.digest, saved(board, row.trial)["trained_rounds"])
    assert (row.status, row.run_id, row.round, row.error) == ("FINISHED", "run-0", ROUNDS, None)
    assert row.metrics == {
        "mean/psnr": 20.0,
        "test/mean/psnr": 19.0, "test/mean/ssim": 0.5, "test/mean/nmse": 0.25,
        "test/site/north/psnr": 20.0, "test/site/north/ssim": 0.5, "test/site/north/nmse": 0.25,
    }  # fmt: skip
    assert (row.trained_rounds, row.trained_before) == (ROUNDS, 0)
    assert row.seconds > 0
    assert statuses(board)[1:] == ["WAITING"] * 3


def test_a_row_as_json(board):
    finish(board, 2)
    told = json.loads(json.dumps(board.rows[2].as_dict()))
    assert set(told) >= CONTRACT
    assert told["params"] == {"seed": 1, "evaluation.mask_seed": 0}
    assert told["digest"] == board.rows[2].trial.digest
    assert (told["status"], told["trained_rounds"], told["error"]) == ("FINISHED", ROUNDS, None)


def test_who_takes_a_training_over_trained_nothing(board):
    finish(board, 0)
    finish(board, 1, resumed_from=ROUNDS)
    assert [row.trained_rounds for row in board.rows] == [ROUNDS, 0, 0, 0]


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_the_followers_of_a_training_that_was_not_done_share_its_fate(board, status):
    row = board.rows[0]
    board.began(row.trial.digest)
    board.reported(row.trial.digest, 1, {"mean/psnr": 30.0})
    board.ended(row.trial.digest, status, "out of memory")
    assert statuses(board) == [status, status, "WAITING", "WAITING"]
    assert row.error == "out of memory"
    assert board.rows[1].error == "its training is that of trial 0: out of memory"
    assert [one.trained_rounds for one in board.rows[:2]] == [1, 0]
    assert board.best("mean/psnr", "max") is None


def test_a_trial_that_fails_after_the_training_is_done_takes_nobody_along(board, consortium):
    """Its own evaluation failed; the others can still take the training over."""
    search = {"evaluation.mask_seed": {"grid": [0, 1, 2]}}
    board = filled(board.workspace, planned(base(consortium), search))
    finish(board, 0)
    board.began(board.rows[1].trial.digest)
    board.ended(board.rows[1].trial.digest, "FAILED", "no room for this mask")
    assert statuses(board) == ["FINISHED", "FAILED", "WAITING"]


def test_what_has_ended_keeps_its_verdict(board):
    finish(board, 1)
    board.began(board.rows[0].trial.digest)
    board.ended(board.rows[0].trial.digest, "FAILED", "x")
    assert statuses(board)[:2] == ["FAILED", "FINISHED"]
    assert board.rows[1].error is None


def test_the_best_has_finished_and_is_the_first_of_equals(board):
    for number, validation in ((0, 20.0), (1, 25.0), (2, 25.0)):
        finish(board, number, validation=validation)
    board.began(board.rows[3].trial.digest)
    board.reported(board.rows[3].trial.digest, 1, {"mean/psnr": 99.0})
    assert board.best("mean/psnr", "max") is board.rows[1]
    assert board.best("mean/psnr", "min") is board.rows[0]
    assert board.best("mean/loss", "min") is None
    board.ended(board.rows[3].trial.digest, "STOPPED", "behind")
    assert board.best("mean/psnr", "max") is board.rows[1]
    board.rows[1].status = "FAILED"
    assert board.best("mean/psnr", "max") is board.rows[2]


def test_a_score_that_is_no_number_is_never_the_best(board):
    finish(board, 0, validation=float("nan"))
    finish(board, 1, validation=20.0)
    assert board.best("mean/psnr", "max") is board.rows[1]
    assert board.best("mean/psnr", "min") is board.rows[1]


def test_a_later_call_knows_what_was_done(board):
    finish(board, 0)
    finish(board, 1, resumed_from=ROUNDS)
    board.began(board.rows[2].trial.digest)
    board.reported(board.rows[2].trial.digest, 1, {"mean/psnr": 11.0})
    board.ended(board.rows[2].trial.digest, "FAILED", "NaN")
    later = again(board)
    assert statuses(later) == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert [row.trained_rounds for row in later.rows] == [0, 0, 0, 0]
    assert [row.trained_before for row in later.rows] == [ROUNDS, 0, 1, 0]
    assert [row.error for row in later.rows] == [row.error for row in board.rows]
    assert [row.metrics for row in later.rows] == [row.metrics for row in board.rows]
    assert [row.seconds for row in later.rows] == [pytest.approx(row.seconds, abs=1e-3) for row in board.rows]
    assert later.best("mean/psnr", "max").trial.number == 0


def test_an_experiment_that_ran_outside_of_the_sweep_is_finished(board):
    saved(board, board.rows[3].trial, validation=21.0)
    later = again(board)
    assert statuses(later) == ["WAITING", "WAITING", "WAITING", "FINISHED"]
    assert later.rows[3].metrics["mean/psnr"] == 21.0
    assert (later.rows[3].trained_rounds, later.rows[3].trained_before) == (0, 0)


def test_a_result_counts_more_than_an_older_verdict(board):
    board.began(board.rows[0].trial.digest)
    board.ended(board.rows[0].trial.digest, "FAILED", "x")
    saved(board, board.rows[0].trial)
    row = again(board).rows[0]
    assert (row.status, row.error, row.run_id) == ("FINISHED", None, "run-0")


def test_a_driver_that_was_killed_left_its_last_round(board):
    committed(board, board.rows[0].trial, 3)
    row = again(board).rows[0]
    assert (row.status, row.round, row.run_id) == ("WAITING", 3, "run-0")


def test_what_was_interrupted_goes_on_and_its_rounds_are_counted_once(board):
    row = board.rows[0]
    board.began(row.trial.digest)
    for number in (1, 2, 3):
        committed(board, row.trial, number)
        board.reported(row.trial.digest, number, {})
    board.interrupted()
    assert (row.status, row.trained_rounds, row.trained_before) == ("WAITING", 3, 0)
    assert statuses(board)[1:] == ["WAITING"] * 3

    later = again(board)
    row = later.rows[0]
    assert (row.status, row.round, row.trained_rounds, row.trained_before) == ("WAITING", 3, 0, 3)
    before = row.seconds
    later.began(row.trial.digest)
    for number in range(1, ROUNDS + 1):
        later.reported(row.trial.digest, number, {})
    later.finished(row.trial.digest, saved(board, row.trial, resumed_from=3)["trained_rounds"])
    assert (row.trained_rounds, row.trained_before) == (1, 3)
    assert row.seconds > before
    assert again(later).rows[0].trained_before == ROUNDS


def test_a_trial_that_fails_twice_and_then_ends_has_trained_every_round_once(board):
    """Tune begins it again from its checkpoint, within one call."""
    row = board.rows[0]
    for last in (1, 2):
        board.began(row.trial.digest)
        for number in range(1, last + 1):
            board.reported(row.trial.digest, number, {})
    board.began(row.trial.digest)
    board.finished(row.trial.digest, saved(board, row.trial, resumed_from=2)["trained_rounds"])
    assert row.trained_rounds == ROUNDS


@pytest.mark.parametrize("end", ["ended", "interrupted"])
def test_a_resumed_trial_that_ends_while_it_tells_of_its_old_rounds_trained_nothing(board, end):
    committed(board, board.rows[0].trial, 3)
    later = again(board)
    row = later.rows[0]
    later.began(row.trial.digest)
    later.reported(row.trial.digest, 1, {})
    if end == "ended":
        later.ended(row.trial.digest, "STOPPED", "behind")
    else:
        later.interrupted()
    assert row.trained_rounds == 0


@pytest.mark.parametrize("end", ["ended", "interrupted"])
def test_one_that_took_its_training_over_trained_nothing_however_it_ends(board, end):
    finish(board, 0)
    row = board.rows[1]
    board.began(row.trial.digest)
    board.reported(row.trial.digest, ROUNDS, {"mean/psnr": 1.0})
    if end == "ended":
        board.ended(row.trial.digest, "FAILED", "x")
    else:
        board.interrupted()
    assert row.trained_rounds == 0


def test_what_is_forgotten_is_run_again(board):
    for number in (0, 2):
        board.began(board.rows[number].trial.digest)
        board.ended(board.rows[number].trial.digest, "FAILED", "x")
    board.forget(board.rows[:2])
    assert statuses(board) == ["WAITING", "WAITING", "FAILED", "FAILED"]
    assert (board.rows[0].error, board.rows[0].round, board.rows[0].metrics) == (None, 0, {})
    assert statuses(again(board)) == ["WAITING", "WAITING", "FAILED", "FAILED"]


def test_a_rerun_counts_its_own_rounds(board):
    finish(board, 0)
    later = again(board)
    later.forget(later.rows)
    finish(later, 0)
    assert later.rows[0].trained_rounds == ROUNDS
    assert again(later).rows[0].trained_before == ROUNDS


@pytest.fixture
def twins(consortium, tmp_path):
    """Two points that come to one experiment."""
    return filled(tmp_path, planned(base(consortium), {"operator.acceleration": {"grid": [2, 2.0]}}))


def test_two_points_of_one_experiment_have_one_fate_and_one_training(twins):
    digest = twins.rows[0].trial.digest
    assert list(twins.with_digest(digest)) == twins.rows
    finish(twins, 0)
    assert statuses(twins) == ["FINISHED", "FINISHED"]
    assert [row.trained_rounds for row in twins.rows] == [ROUNDS, 0]
    assert twins.rows[0].metrics == twins.rows[1].metrics
    assert twins.best("mean/psnr", "max") is twins.rows[0]
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
