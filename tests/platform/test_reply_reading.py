"""A reply is read once: its record, the search for NaN and the merge take the same parts of it, one after the other."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from fedrecon.platform.execution.wire_log import WireLog, described
from fedrecon.platform.federation.reply_gate import ReplyGate
from fedrecon.sites import wire
from fedrecon.sites.errors import RunError
from fedrecon.sites.wire import State, TrainReply
from fedrecon.strategies import make_strategy
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.mean import Mean

N_SLICES = {"a": 3, "b": 1}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(wire, "PART", 4)


def vector(*first):
    """Ten values: two parts and a half."""
    return np.array([*first, *range(10 - len(first))], np.float32)


def reply(site, values, **extra):
    return TrainReply(site, 1, N_SLICES[site], values, extra, {"loss": 0.5})


class Members:
    """What an executor does with replies: each is noted, then yielded."""

    def __init__(self, *replies, extras=()):
        self.replies, self.log, self.taken = replies, WireLog(), []
        request = FedAvg().request(State(0, vector()))
        self.gate = ReplyGate(request, dict.fromkeys(extras, 10), list(N_SLICES), {}, N_SLICES)

    def checked(self):
        return self.gate.checked(self.noted())

    def noted(self):
        for one in self.replies:
            self.log.received(one.site, one, self.gate.reader(one))
            yield one

    def take(self, member, size):
        return lambda part: self.taken.append((member, size, part.tolist()))


def test_the_parts_come_in_order_before_the_reply_does():
    members = Members(reply("a", vector(9)), reply("b", vector(8)))
    replies = members.checked()
    assert replies.read_by(None, members.take)
    assert next(replies).site == "a"
    assert members.taken == [("a", 10, [9, 0, 1, 2]), ("a", 10, [3, 4, 5, 6]), ("a", 10, [7, 8])]
    assert [one.site for one in replies] == ["b"]
    assert [taken[0] for taken in members.taken] == ["a"] * 3 + ["b"] * 3


def test_a_mean_by_hand_takes_the_parts_of_the_shared_parameters_and_of_an_extra():
    members = Members(
        reply("a", vector(8), change=vector(4)), reply("b", vector(0), change=vector(8)), extras=["change"]
    )
    mean, change = Mean({"a": 0.75, "b": 0.25}, 10), Mean({"a": 0.5, "b": 0.5}, 10)
    for _ in mean.folded(change.folded(members.checked(), "change")):
        pass
    assert mean.value().tolist() == vector(6).tolist()
    assert change.value().tolist() == vector(6).tolist()


def test_the_merge_reads_no_vector_again(monkeypatch):
    def again(self, member, values):
        raise AssertionError("a reply is folded after it was read")

    members = Members(reply("a", vector(8)), reply("b", vector(4)))
    monkeypatch.setattr(Mean, "fold", again)
    merged = FedAvg().merge(State(0, vector()), members.checked(), N_SLICES)
    assert merged.shared.tolist() == vector(7).tolist()


def test_who_comes_after_the_first_reply_folds_by_itself():
    members = Members(reply("a", vector(8)), reply("b", vector(4)))
    replies = members.checked()
    first = next(replies)
    mean = Mean({"a": 0.75, "b": 0.25}, 10)
    assert not replies.read_by(None, members.take)
    mean.fold(first.site, first.shared)
    assert [one.site for one in mean.folded(replies)] == ["b"]
    assert mean.value().tolist() == vector(7).tolist()
    assert not members.taken


def test_the_hash_of_a_message_does_not_depend_on_who_reads_it():
    one = reply("a", vector(1, 2), change=vector(3), none=np.zeros(0, np.float32))
    seen = {}
    row = described(one, lambda name, part: seen.setdefault(name, []).extend(part.tolist()))
    assert row == described(one)
    assert seen == {"shared": vector(1, 2).tolist(), "extra/change": vector(3).tolist()}
    backwards = replace(one, shared=one.shared[::-1])  # no neighbours in memory
    assert described(backwards, lambda name, part: None) == described(backwards) != row


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("noted", [True, False])
def test_what_is_not_finite_is_counted_over_the_parts_and_stops_the_merge_there(value, noted):
    bad = vector(0)
    bad[[5, 9]] = value
    members = Members(reply("a", bad))
    replies = members.checked() if noted else members.gate.checked(members.replies)
    assert replies.read_by(None, members.take)
    with pytest.raises(RunError, match="site 'a', round 1: replied with NaN or infinity in 2 of 10 shared parameters"):
        next(replies)
    assert [part for _, _, part in members.taken] == [[0, 0, 1, 2]]
    assert [row["site"] for row in members.log.rows] == ["a"] * noted  # it came, so it is recorded


def test_finite_values_whose_sum_is_not_are_finite():
    assert next(Members(reply("a", np.full(10, 3e38, np.float32))).checked()).site == "a"


def test_a_reply_that_was_exchanged_after_it_was_read_is_refused():
    members = Members(reply("a", vector(8)))
    exchanged = members.gate.checked(replace(one) for one in members.noted())
    with pytest.raises(RunError, match="site 'a', round 1: replied with another reply than the one that was read"):
        next(exchanged)


def test_a_reply_that_was_read_in_part_is_refused():
    members = Members(one := reply("a", vector(8)))
    members.gate.reader(one)("shared", one.shared[:4])
    with pytest.raises(RunError, match="another reply than the one that was read"):
        next(members.gate.checked([one]))


def test_a_form_that_is_refused_is_not_read_at_all():
    short = reply("a", vector()[:3])
    members = Members(short)
    assert members.gate.reader(short) is None
    assert members.gate.reader("nothing") is None
    with pytest.raises(RunError, match="3 shared parameters instead of 10"):
        next(members.checked())


def test_a_mean_of_another_length_is_refused_when_the_reply_comes():
    members = Members(reply("a", vector(8)))
    with pytest.raises(ValueError, match="'a' replied with 10 values instead of 9"):
        list(Mean({"a": 0.75, "b": 0.25}, 9).folded(members.checked()))


def test_what_has_passed_is_counted():
    members = Members(reply("a", vector(8), m=vector()), reply("b", vector(4), m=vector()), extras=["m"])
    make_strategy("fedavg", {}).merge(State(0, vector()), members.checked(), N_SLICES)
    passed = members.gate.passed
    assert (passed.members, passed.bytes_up, passed.extra_up) == (["a", "b"], 160, 80)
    assert passed.losses == {"a": {"loss": 0.5}, "b": {"loss": 0.5}}


def own(merge):
    """A strategy of one's own with this merge."""
    return type("Own", (FedAvg,), {"merge": lambda self, state, replies, n_slices: merge(state, replies)})()


def first_alone(state, replies):
    one = next(replies)
    return state.next(one.shared, {}, {one.site: 1})


def by_name(state, replies, names="ab"):
    taken = list(replies)
    return state.next(taken[0].shared, {}, dict.fromkeys(names, 1))


def swallows(state, replies):
    taken = []
    with suppress(RunError):
        taken += [next(replies)]
        taken += [next(replies)]
    return by_name(state, taken, "a")


@pytest.mark.parametrize(
    ("merge", "says"),
    [
        (first_alone, "merge took 1 of 2 replies; it must go through all of them"),
        (lambda state, replies: state.next(vector(), {}, {}), "merge took 0 of 2 replies"),
        (lambda state, replies: by_name(state, replies, "a"), "merge says that a replied, and it was a, b"),
        (lambda state, replies: by_name(state, replies, "abc"), "merge says that a, b, c replied, and it was a, b"),
        (lambda state, replies: by_name(state, replies, ""), "merge says that nobody replied, and it was a, b"),
    ],
)
def test_a_merge_that_leaves_replies_out_or_names_others_is_refused(merge, says):
    members, strategy = Members(reply("a", vector(8)), reply("b", vector(4))), own(merge)
    replies = members.checked()
    state = strategy.merge(State(0, vector()), replies, N_SLICES)
    with pytest.raises(RunError, match=f"^strategy .*, round 1: {says}.*; refused"):
        members.gate.check_merge(replies, state, strategy)


def test_a_refusal_that_a_merge_swallows_ends_the_run_all_the_same():
    members, strategy = Members(reply("a", vector(8)), reply("b", vector(np.nan))), own(swallows)
    replies = members.checked()
    state = strategy.merge(State(0, vector()), replies, N_SLICES)
    assert state.standing == {"a": 1}
    with pytest.raises(RunError, match="site 'b', round 1: replied with NaN"):
        members.gate.check_merge(replies, state, strategy)


def test_an_error_of_the_executor_that_a_merge_swallows_ends_the_run_all_the_same():
    def dies():
        yield from members.noted()
        raise RunError("site 'b', round 1: stays dead after 3 restarts")

    members, strategy = Members(reply("a", vector(8))), own(swallows)
    replies = members.gate.checked(dies())
    state = strategy.merge(State(0, vector()), replies, N_SLICES)
    assert state.standing == {"a": 1}
    with pytest.raises(RunError, match="site 'b', round 1: stays dead"):
        members.gate.check_merge(replies, state, strategy)


def test_a_member_that_is_dead_need_not_be_merged():
    members = Members(reply("a", vector(8)))
    members.gate._dead = {"b": "killed"}
    replies = members.checked()
    state = FedAvg().merge(State(0, vector()), replies, N_SLICES)
    members.gate.check_merge(replies, state, FedAvg())
    assert state.standing == {"a": 1}


@pytest.mark.parametrize("array", [vector(), np.float32(0.5).reshape(()), vector().reshape(2, 5)])
def test_an_array_where_a_loss_belongs_is_refused_in_words(array):
    one = replace(reply("a", vector(8)), losses={"loss": array})
    with pytest.raises(RunError, match=r"site 'a', round 1: replied with loss = .* instead of a finite number"):
        next(Members(one).checked())
