"""The best round: which one is kept, what is scored with it, and that an interruption changes none of it."""

import contextlib
from itertools import pairwise
from types import SimpleNamespace

import pytest
from drivers import experiment
from memory_store import MemoryStore
from test_training_run import begin, bits, finish

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.platform.federation import recorder
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError, RunError

pytestmark = pytest.mark.usefixtures("no_pixels")


PSNR = (20.0, 25.0, 24.0, 25.0, 23.0, 30.0)
"""The validations of rounds 1 to 6. Without the last one, round 2 is the best: the first of equals."""


@pytest.fixture
def course(consortium, tmp_path, monkeypatch):
    """Runs an experiment whose validations are :data:`PSNR`; ``after`` rounds it is closed, and run again."""

    def run(folder, strategy="fedavg", after=None, evaluation=None, psnr=PSNR, sites=("south", "middle"), **training):
        pair = {name: consortium[name] for name in sites}
        given = experiment(pair, strategy, **{"rounds": 5, **training})
        given["evaluation"] = {
            **given["evaluation"],
            "every": 1,
            "panels": False,
            "max_slices": 1,
            **(evaluation or {}),
        }
        at = iter(psnr)
        monkeypatch.setattr(recorder, "flat_metrics", lambda _, **more: {"mean/psnr": next(at)})
        store = MemoryStore()
        if after:
            first = begin(given, tmp_path / folder, store)
            for _ in range(after):
                next(first)
            first.close()
        _, result = finish(begin(given, tmp_path / folder, store))
        return result, store.runs[-1]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "local", "scaffold"])
def test_the_first_best_round_is_scored_exported_and_applied(course, tmp_path, strategy):
    """It is as if the run had ended there, and interrupted after any round it is the same."""
    best, run_ = course("best", strategy, keep="best")
    assert (best.rounds, best.trained_rounds, best.kept_round) == (5, 5, 2)
    assert run_.info.tags["fedrecon.kept_round"] == "2"
    assert best.validation["mean/psnr"] == 25
    short, _ = course("short", strategy, rounds=2)
    assert (best.sites, best.mean) == (short.sites, short.mean)
    applied = TrainedRun.load(tmp_path / "best", best.digest)
    assert applied.state.round == 2
    assert applied.state.shared.tobytes() == bits(tmp_path / "short", short)["shared"]
    cut, _ = course("cut", strategy, after=3, keep="best")
    assert (cut.kept_round, cut.sites, cut.resumed_from) == (2, best.sites, 3)
    assert bits(tmp_path / "cut", cut) == bits(tmp_path / "best", best)


@pytest.mark.slow
def test_patience_ends_the_training(course, tmp_path):
    """After round 2, two validations are not better: an equal one is not better."""
    ended, _ = course("ended", rounds=6, patience=2)
    assert (ended.rounds, ended.kept_round) == (4, None)
    for after in (2, 4):
        cut, _ = course(f"cut-{after}", rounds=6, patience=2, after=after)
        assert (cut.rounds, cut.sites) == (4, ended.sites)
        assert bits(tmp_path / f"cut-{after}", cut) == bits(tmp_path / "ended", ended)
    on, _ = course("on", rounds=6, patience=4)
    assert on.rounds == 6


def scored(**sites):
    """The metrics of a round with these PSNR at its sites."""
    return {"mean/psnr": sum(sites.values()) / len(sites), **{f"site/{name}/psnr": one for name, one in sites.items()}}


COURSE = [
    scored(a=17.0, b=22.0, c=19.0),
    scored(a=17.5, b=22.4, c=18.9),  # the best while all were there
    scored(a=17.4, b=22.3, c=18.9),
    scored(b=22.3, c=18.8),  # a is gone: the mean rises from 19.5 to 20.55, and no site is better
    scored(b=22.4, c=18.9),
    scored(b=22.5, c=18.9),  # better at b, level at c
]


def test_a_site_that_died_makes_no_round_better():
    better = [recorder.is_better(new, old) for old, new in pairwise(COURSE)]
    assert better == [True, False, False, True, True]
    assert not recorder.is_better(COURSE[3], COURSE[1])
    assert not recorder.is_better(COURSE[4], COURSE[1])
    assert recorder.is_better(COURSE[5], COURSE[1])
    assert not recorder.is_better(scored(d=40.0), COURSE[0])  # no site in common
    rounds = [recorder.CommittedRound(number + 1, one) for number, one in enumerate(COURSE)]
    assert [recorder.out_of_patience(rounds[:n], 3) for n in range(1, 7)] == [False] * 4 + [True, False]


def test_the_kept_round_is_chosen_over_the_sites_that_both_rounds_have(tmp_path, monkeypatch):
    tracker, saved = SimpleNamespace(metrics=lambda *_: None, flush=lambda: None), []
    checkpoints = SimpleNamespace(save=lambda state, content: saved.append(content["kept"]["round"]))
    training = SimpleNamespace(keep="best", patience=None)
    record = recorder.Recorder(tracker, checkpoints, SimpleNamespace(round=lambda *_: None), {}, training)
    at = iter(COURSE)
    monkeypatch.setattr(recorder, "flat_metrics", lambda _, **more: next(at))
    for number in range(1, 7):
        finished = recorder.Round(number, ("a",), 0, 0.0, 0, 0, {})
        record.commit(finished, SimpleNamespace(standing={}), recorder.ValidationResult())
    assert saved == [1, 2, 2, 2, 2, 6]


@pytest.mark.slow
def test_the_budget_is_what_was_trained(course):
    """North has three slices: two batches of two a pass; middle one slice: one batch. Patience ends round 4 of 40."""
    both = ("north", "middle")
    whole, _ = course("whole", sites=both, rounds=5)
    early, _ = course("early", sites=both, rounds=40, patience=2, psnr=(20.0, 25.0, 24.0, 23.0))
    assert (whole.environment["budget"]["north"], early.rounds) == ("10 updates, 5 passes", 4)
    assert early.environment["budget"] == {"north": "8 updates, 4 passes", "middle": "4 updates, 4 passes"}


@pytest.mark.slow
def test_the_weights_that_a_training_begins_with_may_stay_the_best(course, tmp_path):
    """They are round 0: exported if no round is better, and counted by patience; an interruption changes nothing."""
    first, _ = course("warm", rounds=1)
    weights = bits(tmp_path / "warm", first)["shared"]
    given = {"keep": "best", "start": first.digest, "psnr": (26.0, *PSNR)}
    best, run_ = course("warm", **given)
    assert (best.rounds, best.kept_round, best.validation["mean/psnr"]) == (5, 0, 26)
    assert run_.info.tags["fedrecon.kept_round"] == "0"
    assert best.sites == first.sites
    assert TrainedRun.load(tmp_path / "warm", best.digest).state.shared.tobytes() == weights
    ended, _ = course("warm", **given, patience=2)
    assert (ended.rounds, ended.kept_round) == (2, 0)
    better, _ = course("warm", **{**given, "psnr": (24.5, *PSNR)}, learning_rate=0.002)
    assert better.kept_round == 2
    again, _ = course("again", rounds=1)
    cut, _ = course("again", after=3, **{**given, "start": again.digest})
    assert (cut.digest, cut.kept_round, cut.sites, cut.resumed_from) == (best.digest, 0, best.sites, 3)
    assert bits(tmp_path / "again", cut) == bits(tmp_path / "warm", best)
    taken, _ = course("again", **{**given, "start": again.digest}, evaluation={"panels": True})
    assert (taken.kept_round, taken.trained_rounds, taken.sites) == (0, 0, best.sites)


@pytest.mark.slow
def test_who_runs_an_experiment_is_told_of_its_rounds_alone(course, consortium, tmp_path, monkeypatch):
    """Not of the weights that it begins with: a scheduler counts rounds. A run that goes on tells the same."""
    first, _ = course("told", rounds=1)
    pair = {name: consortium[name] for name in ("south", "middle")}
    given = experiment(pair, "fedavg", rounds=2, keep="best", start=first.digest)
    store = MemoryStore()

    def told(*stop):
        steps, found = begin(given, tmp_path / "told", store), []
        with contextlib.suppress(StopIteration):
            while len(found) not in stop:
                found.append(next(steps).round)
        steps.close()
        return found

    assert told(1) == [1]
    assert told() == [1, 2]
    assert told() == [1, 2]  # it is finished


@pytest.mark.slow
def test_after_a_death_before_round_1_the_weights_it_begins_with_are_not_scored_again(course, tmp_path, monkeypatch):
    first, _ = course("dies", rounds=1)
    given = {"keep": "best", "start": first.digest}
    monkeypatch.setattr(InProcessExecutor, "fit", lambda *_: pytest.fail("it dies"))
    with pytest.raises(pytest.fail.Exception, match="it dies"):
        course("dies", **given, psnr=(26.0,))
    monkeypatch.undo()
    result, _ = course("dies", **given)
    assert (result.resumed_from, result.kept_round, result.validation["mean/psnr"]) == (0, 0, 26)


@pytest.mark.slow
def test_the_kept_round_is_taken_over(course, tmp_path):
    """A run that differs in what is no training ends at the round that the first one kept."""
    first, _ = course("shared", "local", keep="best", patience=2)
    taken, run_ = course("shared", "local", keep="best", patience=2, evaluation={"panels": True})
    assert run_.info.tags["fedrecon.trained_by"] == first.digest != taken.digest
    assert (taken.kept_round, taken.trained_rounds, taken.sites) == (2, 0, first.sites)


@pytest.mark.slow
def test_the_kept_round_can_be_lost_and_is_then_named(course, tmp_path):
    best, _ = course("lost", keep="best")
    folder = RunFolder(tmp_path / "lost", best.digest)
    assert [path.name[6:12] for path in folder.checkpoints.paths()] == ["000002", "000005"]
    folder.checkpoints.paths()[0].write_bytes(b"torn")
    with pytest.raises(RunError, match="000002"):
        TrainedRun.load(tmp_path / "lost", best.digest)


def test_only_what_is_set_enters_a_digest(consortium):
    plain = experiment(consortium, "fedavg")
    digests = {
        key: Experiment.read({**plain, "training": {**plain["training"], **given}}).digest({"north": "x"})
        for key, given in {
            "plain": {},
            "last": {"keep": "last"},
            "best": {"keep": "best"},
            "3": {"patience": 3},
        }.items()
    }
    assert digests["plain"] == digests["last"]
    assert len(set(digests.values())) == 3


def test_a_prior_has_no_best_round(consortium):
    with pytest.raises(InputError, match="keep: best"):
        Experiment.read({"sites": {"north": "x"}, "strategy": {"name": "fedgimp"}, "training": {"keep": "best"}})
