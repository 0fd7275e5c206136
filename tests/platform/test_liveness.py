"""A member that does not answer: named, ended and asked again, or left out of the round; the clock is a number here."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from fake_ray import FOR_EVER, N_SLICES, NAMES, FakeRay, executor_on
from honest import gate_of
from tiny import Commits

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.resources import DEAD, LATE, UNSCORED, Resources
from fedrecon.platform.execution import ray_executor
from fedrecon.platform.execution.liveness import LIVENESS, Patience, Watch
from fedrecon.platform.execution.wire_log import unread
from fedrecon.platform.federation.attendance import (
    MISSED,
    Attendance,
    find_training,
    in_words,
    may_return,
    of_training,
)
from fedrecon.platform.federation.round_loop import rounds
from fedrecon.platform.federation.scorer import Scorer
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.wire import State, TrainReply, TrainRequest
from fedrecon.strategies.fedavg import FedAvg


@pytest.fixture
def executor(monkeypatch, tmp_path):
    """Makes an executor on :class:`FakeRay`; ``said`` has the lines that stay and ``shown`` the others."""
    return partial(executor_on, monkeypatch, tmp_path / LIVENESS)


def request(number=1):
    return TrainRequest(number, np.zeros(2, np.float32))


def fit(executor):
    return [reply.site for reply in executor.fit(request())]


def events(tmp_path):
    lines = (tmp_path / "liveness.jsonl").read_text().splitlines()
    return [(one["event"], one["members"], one["call"], one["round"]) for one in map(json.loads, lines)]


def test_who_has_not_answered_is_named_after_30_s_and_then_after_twice_the_time(executor, tmp_path):
    one = executor(FakeRay(a=[70.0], b=[40.0], c=[130.0]))
    assert fit(one) == ["a", "b", "c"]
    assert one.shown == ["waiting for a, b, c, 30 s", "waiting for a, c, 60 s", "waiting for c, 120 s"]
    assert one.waited == {"a": 60.0, "b": 30.0, "c": 120.0}
    assert (one.restarts, one.said) == (0, [])
    assert events(tmp_path)[0] == ("waiting", ["a", "b", "c"], "fit", 1)


def test_who_never_answers_is_ended_and_asked_again_and_the_others_are_not_touched(executor, tmp_path):
    one = executor(ray := FakeRay(b=[FOR_EVER, 1.0]), fit_timeout=45)
    assert fit(one) == ["a", "b", "c"]
    assert ray.killed == ["b"]
    assert one.restarts == 1
    assert one.shown == ["waiting for b, 30 s"]
    assert len(one.said) == 1
    assert one.said[0].startswith("site 'b', round 1: ")
    assert "restart 1 of at most 10" in one.said[0]
    assert [kind for kind, *_ in events(tmp_path)] == ["waiting", "restarted"]
    assert ray.now == pytest.approx(45 + 6 + 1 + 1, abs=2)


@pytest.mark.parametrize("call", ["evaluate", "samples", "panels", "describe"])
def test_the_clock_covers_every_call(executor, call, monkeypatch):
    one = executor(ray := FakeRay(c=[FOR_EVER, 1.0]), fit_timeout=45)
    monkeypatch.setattr(ray_executor, "check_call", lambda *_: None)
    monkeypatch.setattr(ray_executor, "check_answer", lambda method, arguments, answer, *_: answer)
    assert len([*one._named(call, (request(),), 1)]) == 3
    assert (ray.killed, one.restarts) == (["c"], 1)


def test_a_full_disk_while_a_call_is_late_is_raised_when_the_call_has_ended():
    shown, named, ended = [], threading.Event(), []
    watch = Watch(Patience(first=0.01), lambda text: (shown.append(text), named.set()), path=Path("/dev/full"))

    def late_call():
        with watch.named("fit", 1, "a"):
            assert named.wait(60)
            ended.append("a")

    with pytest.raises(OSError, match="No space left"):
        late_call()
    assert ended == ["a"]
    assert shown[0].startswith("waiting for a")


def test_past_max_restarts_it_is_dead_and_min_sites_decides(executor):
    def stuck(**resources):
        ray = FakeRay(b=[FOR_EVER])
        ray.restarts = 2
        return ray, executor(ray, fit_timeout=45, max_restarts=2, **resources)

    ray, one = stuck()
    with pytest.raises(
        RunError, match=r"site 'b', round 1: stays dead after 2 restarts.*\w\. The.*min_sites is not set"
    ):
        fit(one)
    assert (ray.killed, one.restarts) == (["b"] * 3, 2)
    ray, one = stuck(min_sites=2)
    assert fit(one) == ["a", "c"]
    assert one.missed == {"b": DEAD}
    assert "site 'b', round 1: stays dead; the run goes on with 2 of 3 sites" in one.said[-1]


def test_auto_is_ten_times_the_longest_and_at_least_600_and_more_at_each_try():
    assert [Patience().limit(tries) for tries in (0, 1, 2)] == [600, 1200, 2400]
    assert Patience(longest=59).limit(0) == 600
    assert Patience(longest=90).limit(0) == 900
    assert [Patience(7.5, longest=90).limit(tries) for tries in (0, 3)] == [7.5, 7.5]


def test_auto_learns_from_the_run(executor):
    one = executor(ray := FakeRay(a=[100.0, 1.0, 1.0], b=[1.0, FOR_EVER, 1.0]))
    fit(one)
    begun = ray.now
    fit(one)
    assert ray.killed == ["b"]
    assert ray.now - begun == pytest.approx(1000 + 6, abs=4)


@pytest.mark.slow
def test_a_site_that_simply_takes_long_is_answered_in_the_end(executor):
    """Nothing is known about the first call; 3,000 s are neither 600 nor 1,200 nor 2,400."""
    one = executor(ray := FakeRay(a=[3000.0]))
    assert fit(one) == ["a", "b", "c"]
    assert ray.killed == ["a"] * 3


def test_skip_leaves_a_late_site_out_and_asks_it_again_in_the_next_round(executor, tmp_path):
    one = executor(ray := FakeRay(b=[FOR_EVER, 1.0, 1.0]), fit_timeout=45, straggler="skip", min_sites=2)
    assert fit(one) == ["a", "c"]
    assert one.missed == {"b": LATE}
    assert (ray.killed, one.restarts, one.dead) == (["b"], 1, {})
    assert [kind for kind, *_ in events(tmp_path)] == ["waiting", "restarted", "skipped"]
    assert fit(one) == ["a", "b", "c"]
    assert (one.missed, one.restarts) == ({}, 1)


def test_skip_never_goes_below_min_sites(executor):
    one = executor(ray := FakeRay(a=[FOR_EVER, 1.0], b=[FOR_EVER, 1.0]), fit_timeout=45, straggler="skip", min_sites=2)
    assert fit(one) == ["b", "c"]
    assert (one.missed, sorted(ray.killed)) == ({"a": LATE}, ["a", "b"])


def test_a_process_that_is_ended_before_it_took_the_call_is_counted_too(executor, monkeypatch):
    """Ray gives the call to the next process then, and nothing fails."""
    one = executor(ray := FakeRay(b=[50.0, 1.0]), fit_timeout=45)
    monkeypatch.setattr(ray_executor.ray, "kill", lambda actor, no_restart: ray.killed.append(actor.name))
    assert fit(one) == ["a", "b", "c"]
    assert (ray.killed, one.restarts) == (["b"], 1)
    assert "restart 1 of at most 10" in one.said[0]


def test_a_member_that_is_left_out_is_not_asked(executor):
    one = executor(ray := FakeRay(b=[FOR_EVER]))
    assert [reply.site for reply in one.fit(request(), without=("b",))] == ["a", "c"]
    assert ray.killed == []


def test_in_this_process_a_member_is_named(tmp_path):
    import threading

    shown, named = [], threading.Event()

    def show(text):
        shown.append(text)
        named.set()

    watch = Watch(Patience(first=0.02), show, path=tmp_path / "liveness.jsonl")
    with watch.named("fit", 3, "a"):
        assert named.wait(5)
    assert shown[0] == "waiting for a, 0 s"
    assert events(tmp_path)[0] == ("waiting", ["a"], "fit", 3)
    assert watch.waited["a"] >= 0.02
    assert watch.patience.longest >= 0.02


# Which runs may be gone on with


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"straggler": "skip"}, r"resources\.straggler.*min_sites"),
        ({"straggler": "skipp", "min_sites": 2}, r"resources\.straggler"),
        ({"fit_timeout": 0}, r"resources\.fit_timeout.*more than 0"),
        ({"fit_timeout": ".inf"}, r"resources\.fit_timeout"),
        ({"fit_timeout": "soon"}, r"resources\.fit_timeout"),
    ],
)
def test_what_makes_no_sense_is_refused(given, says):
    given = {key: yaml.safe_load(str(value)) for key, value in given.items()}
    with pytest.raises(InputError, match=says):
        Experiment.read({"sites": "data", "resources": given})


SKIP = Resources(straggler="skip", min_sites=2)
RECORDS = {
    "all replied": {},
    "late": {"3": {"b": LATE}},
    "dead": {"3": {"b": DEAD}},
    "two late": {"3": {"b": LATE, "c": LATE}},
    "unscored": {"3": {"b": UNSCORED}},
}


@pytest.mark.parametrize(
    ("resources", "returns", "takes_over"),
    [
        (Resources(), {"all replied"}, {"all replied", "unscored"}),
        (Resources(min_sites=3), {"all replied"}, {"all replied", "unscored"}),
        (Resources(min_sites=2), {"all replied", "dead", "unscored"}, {"all replied", "dead", "unscored"}),
        (SKIP, {*RECORDS} - {"two late"}, {*RECORDS} - {"two late"}),
        (Resources(straggler="skip", min_sites=1), {*RECORDS}, {*RECORDS}),
    ],
    ids=["wait", "min_sites 3", "min_sites 2", "skip", "skip, one is enough"],
)
def test_a_run_that_missed_a_reply_is_for_those_who_allowed_it(resources, returns, takes_over, tmp_path):
    from fedrecon.platform.storage.workspace import note_trained

    may, may_take = set(), set()
    for number, (name, missed) in enumerate(RECORDS.items()):
        folder = RunFolder(tmp_path, f"run{number}")
        folder.note_run({})
        attendance = Attendance(folder.path / MISSED, NAMES)
        for when, one in missed.items():
            attendance.note(when, one)
        folder.checkpoints.save(State(3, np.zeros(2, np.float32)), {})
        note_trained(folder, f"training{number}")
        may |= {name} if may_return(resources, folder) else set()
        may_take |= {name} if find_training(tmp_path, f"training{number}", resources) else set()
    assert (may, may_take) == (returns, takes_over)


def test_a_result_of_an_earlier_version_names_its_dead(tmp_path):
    folder = RunFolder(tmp_path, "old")
    folder.path.mkdir(parents=True)
    folder.save_result({"sites": {"a": {}, "c": {}}, "missing_sites": ["b"]})
    assert not may_return(Resources(), folder)
    assert may_return(Resources(min_sites=2), folder)


def test_in_words():
    missed = {"3": {"b": LATE}, "4": {"b": LATE}, "test": {"c": DEAD}}
    assert in_words(missed) == "b: rounds 3, 4 (late); c: test (dead)"
    assert in_words({}) == ""
    assert of_training({**missed, "5": {"a": UNSCORED}}) == {"3": {"b": LATE}, "4": {"b": LATE}}


# A resume replays


class Members:
    """Each adds its own number; those in ``late`` miss the round."""

    def __init__(self, late=()):
        self.late, self.restarts, self.members, self.dead, self.missed, self.waited = late, 0, NAMES, {}, {}, {}

    def fit(self, request, without=(), reader=unread):
        self.missed.clear()
        for number, name in enumerate(NAMES, start=1):
            if name in self.late:
                self.missed[name] = LATE
            elif name not in without:
                yield TrainReply(
                    name, request.round, N_SLICES[name], request.shared + np.float32(number), {}, {"loss": 0.5}
                )


def train(members, attendance, upto, dies_at=None):
    experiment = SimpleNamespace(method=FedAvg(), rounds=upto, scores_due=lambda _: False, personalise=None)
    record = Commits(None, dies_at)
    training = rounds(
        experiment,
        Scorer(members, FedAvg(), gate_of({})),
        record,
        State(0, np.zeros(2, np.float32)),
        N_SLICES,
        attendance,
    )
    state = None
    for _ in training:
        state = record.states[-1]
    return state, record


def test_a_round_without_a_late_site_is_recorded_and_comes_to_the_same_bits_again(tmp_path):
    path = tmp_path / MISSED
    state, record = train(Members(["b"]), Attendance(path, NAMES), upto=1)
    assert record.rounds[0].row()["replied"] == ["a", "c"]
    assert record.rounds[0].row()["missed"] == ["b"]
    np.testing.assert_allclose(state.shared, (6 * 1 + 4 * 3) / 10)
    assert state.standing == {"a": 1, "c": 1}
    kept = json.loads(path.read_text())
    assert (kept["members"], kept["missed"]) == ([*NAMES], {"1": {"b": LATE}})

    again, record = train(Members(), Attendance(path, NAMES), upto=2)  # everybody is in time now
    assert record.states[0].shared.tobytes() == state.shared.tobytes()
    assert [one.replied for one in record.rounds] == [("a", "c"), NAMES]
    assert Attendance(path, NAMES).missed == {"1": {"b": LATE}}
    assert again.standing == {"a": 2, "b": 2, "c": 2}


def test_it_is_noted_before_the_commit(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Members(["b"]), Attendance(tmp_path / MISSED, NAMES), upto=1, dies_at=1)
    assert Attendance(tmp_path / MISSED, NAMES).absent(1) == ("b",)


def test_if_nobody_is_left_the_round_fails(tmp_path):
    with pytest.raises((RunError, ValueError)):
        train(Members([*NAMES]), Attendance(tmp_path / MISSED, NAMES), upto=1)
    assert not (tmp_path / MISSED).exists()
