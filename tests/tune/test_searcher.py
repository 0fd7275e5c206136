"""Which trial is next: no training twice at once, any number beside each other once it is done, no trial twice."""

from types import SimpleNamespace

from ray.tune.search import Searcher

from fedrecon.tune.engine.searcher import TrialSearcher


def trial_table(*trainings):
    rows = [
        SimpleNamespace(status="WAITING", trial=SimpleNamespace(number=k, training=training))
        for k, training in enumerate(trainings)
    ]
    return SimpleNamespace(rows=rows)


def searcher(one, trained=()):
    source = SimpleNamespace(more=lambda: None, trial_ended=lambda row: None)
    return TrialSearcher(one, source, lambda row: row.trial.number, 100, lambda training: training in trained)


def test_a_training_is_not_begun_twice_at_once():
    one = trial_table("a", "a", "b")
    next_one = searcher(one)
    assert [next_one.suggest(name) for name in "xyz"] == [0, 2, None]
    one.rows[0].status = "FINISHED"
    next_one.settle("x")
    assert next_one.suggest("z") == 1


def test_trials_of_a_finished_training_run_side_by_side_and_each_once():
    """Also while Ray Tune has not started what it was given: the row still says that it waits."""
    one = trial_table("a", "a", "a", "b")
    next_one = searcher(one, trained=("a",))
    assert [next_one.suggest(name) for name in "vwxyz"] == [0, 1, 2, 3, None]
    for row in one.rows:
        row.status = "FINISHED"
    for name in "vwxy":
        next_one.settle(name)
    assert next_one.suggest("z") == Searcher.FINISHED


def test_a_training_that_ends_meanwhile_lets_the_others_start():
    one, done = trial_table("a", "a", "a"), []
    next_one = searcher(one, trained=done)
    assert [next_one.suggest("x"), next_one.suggest("y")] == [0, None]
    done.append("a")  # committed, while its first trial is still being scored
    assert [next_one.suggest("y"), next_one.suggest("z")] == [1, 2]
