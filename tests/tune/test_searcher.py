"""Which trial is next: no training twice at once, any number beside each other once it is done, no trial twice."""

from functools import partial
from types import SimpleNamespace

from ray.tune.search import Searcher

from fedrecon.tune.engine.searcher import TableUpdater, TrialSearcher
from fedrecon.tune.engine.trainable import TrialProgress
from fedrecon.tune.engine.trial_notes import TrialNotes


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


def test_what_a_trial_says_of_its_members_is_said_with_its_number(monkeypatch):
    notes, lines = TrialNotes(), []
    progress = TrialProgress(partial(notes.say, "a"), 4)
    progress.round(1, {}, {}, 0.1)
    progress.late("waiting for t1w, 60 s")
    progress.trouble("site 't1w', round 2: restart 1 of at most 10")
    one = SimpleNamespace(with_digest=lambda digest: [SimpleNamespace(trial=SimpleNamespace(number=n)) for n in (3, 7)])
    updater = TableUpdater(one, None, None, None, None, None, notes.said, lines.append)
    updater.on_step_end(0, [])
    assert lines == []
    monkeypatch.setattr(updater, "EVERY", 0.0)
    for _ in range(2):
        updater.on_step_end(0, [])
    assert lines == ["trial 3, 7: waiting for t1w, 60 s", "trial 3, 7: site 't1w', round 2: restart 1 of at most 10"]
