"""The round loop with members that are written out here: what is merged, refused, counted and committed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from honest import gate_of, honest
from tiny import Commits

from fedrecon.platform.execution.wire_log import unread
from fedrecon.platform.federation.round_loop import federate
from fedrecon.sites.errors import RunError
from fedrecon.sites.finite import count_not_finite
from fedrecon.sites.wire import State, TrainReply
from fedrecon.strategies import make_strategy
from fedrecon.strategies.fedavg import FedAvg

N_SLICES = {"a": 6, "b": 2, "c": 4}
GATE = gate_of(N_SLICES)


class Members:
    """Each member adds its own number to what came down; ``away`` do not reply, ``spoil`` changes a reply."""

    restarts = 0

    def __init__(self, away=(), spoil=lambda reply: reply):
        self.away, self.spoil, self.requests, self.scored = away, spoil, [], []
        self.dead = dict.fromkeys(away, "away")
        self.members = tuple(one for one in N_SLICES if one not in away)
        self.missed, self.waited = {}, {}

    def fit(self, request, without=(), reader=unread):
        self.requests.append(request)
        for number, name in enumerate(N_SLICES, start=1):
            if name not in self.away:
                self.restarts += name == "b"
                yield self.spoil(
                    TrainReply(
                        name, request.round, N_SLICES[name], request.shared + np.float32(number), {}, {"loss": 0.5}
                    )
                )

    def evaluate(self, request, split):
        self.scored.append((request.round, split, dict(request.standing)))
        return [honest(GATE, name, split) for name in self.members]


class Declares(FedAvg):
    """FedAvg whose replies carry one more vector."""

    replies = ("control",)


def experiment(rounds=2, every=10, method=None):
    return SimpleNamespace(
        method=method or make_strategy("fedavg", {}),
        rounds=rounds,
        scores_due=lambda number: number % every == 0 or number == rounds,
        personalise=None,
    )


def go(members, record=None, **changes):
    record = record or Commits(None)
    start = State(0, np.zeros(3, np.float32))
    return federate(experiment(**changes), members, GATE, record, start, N_SLICES), record


def test_two_rounds_by_hand():
    state, record = go(Members())
    # each round adds 6/12 * 1 + 2/12 * 2 + 4/12 * 3
    np.testing.assert_allclose(state.shared, [2 * 11 / 6] * 3, rtol=1e-6)
    first = record.rounds[0].row()
    assert first.pop("seconds") >= 0
    assert first == {
        "round": 1,
        "replied": ["a", "b", "c"],
        "restarts": 1,
        "bytes_up": 36,
        "bytes_down": 36,
        "losses": {name: {"loss": 0.5} for name in "abc"},
        "missed": [],
        "waited": [],
    }
    assert [one.number for one in record.rounds] == [1, 2]
    assert [one.standing for one in record.states] == [dict.fromkeys("abc", number) for number in (1, 2)]


def test_with_a_member_missing_the_weights_are_those_of_the_rest_and_the_record_says_so():
    state, record = go(Members(away=("b",)), rounds=1)
    np.testing.assert_allclose(state.shared, [0.6 * 1 + 0.4 * 3] * 3, rtol=1e-6)
    assert record.rounds[0].replied == ("a", "c")
    assert state.standing == {"a": 1, "c": 1}
    assert (record.rounds[0].bytes_up, record.rounds[0].bytes_down) == (24, 24)


def test_with_nobody_left_there_is_no_round():
    record = Commits(None)
    with pytest.raises(ValueError, match="no member replied"):
        go(Members(away=N_SLICES), record)
    assert not record.rounds


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["shared", "extra", "losses"])
def test_what_is_no_number_is_refused_by_name_and_never_committed(value, where):
    def spoil(reply):
        if (reply.site, reply.round) != ("b", 2):
            return replace(reply, extra={"control": reply.shared})
        vector = np.array([1, value, 3], np.float32)
        if where == "losses":
            return TrainReply("b", 2, 2, reply.shared, {"control": reply.shared}, {"loss": float(value)})
        extra = {"control": reply.shared}
        return TrainReply("b", 2, 2, **{"shared": reply.shared, "extra": extra, where: vector_of(where, vector)})

    def vector_of(where, vector):
        return {"control": vector} if where == "extra" else vector

    record = Commits(None)
    with pytest.raises(RunError, match="site 'b', round 2: replied with") as caught:
        go(Members(spoil=spoil), record, method=Declares())
    named = {"shared": "1 of 3 shared parameters", "extra": "1 of 3 control", "losses": "loss = "}[where]
    assert named in str(caught.value)
    assert [one.number for one in record.rounds] == [1]


def test_a_reply_that_carries_more_than_its_strategy_declares_is_refused():
    def smuggle(reply):
        extra = {"patients": np.zeros(3, np.float32)} if reply.site == "c" else {}
        return TrainReply(reply.site, reply.round, reply.n_slices, reply.shared, extra, reply.losses)

    record = Commits(None)
    with pytest.raises(RunError, match=r"site 'c', round 1: replied with patients .*declares none"):
        go(Members(spoil=smuggle), record)
    assert not record.rounds


def test_opposite_infinities_and_great_but_finite_values():
    """The sum of great values overflows, they do not."""
    assert count_not_finite(np.array([np.inf, -np.inf], np.float32)) == 2
    assert count_not_finite(np.full(9, 3e38, np.float32)) == 0
    assert count_not_finite(np.array([3e38, 3e38, np.nan], np.float32)) == 1
    assert count_not_finite(np.zeros(0, np.float32)) == 0


def test_scores_are_of_the_committed_state_and_do_not_count_as_time():
    members = Members()
    seen, pictured = [], []
    record = SimpleNamespace(
        ended=False,
        kept={},
        commit=lambda finished, state, one: seen.append(one.scores),
        picture=lambda step, pictures: pictured.append((step, len(seen), pictures)),
    )
    go(members, record, rounds=5, every=2)
    assert [(number - 1, split) for number, split, _ in members.scored] == [
        (2, "validation"),
        (4, "validation"),
        (5, "validation"),
    ]
    assert [standing for _, _, standing in members.scored] == [dict.fromkeys("abc", n) for n in (2, 4, 5)]
    assert [bool(scores) for scores in seen] == [False, True, False, True, True]
    assert pictured == [(2, 2, {}), (4, 4, {}), (5, 5, {})]  # each after the commit of its round


def test_it_goes_on_from_the_state_it_is_given():
    members = Members()
    record = Commits(None)
    start = State(3, np.zeros(3, np.float32), {}, {"a": 3, "b": 2, "c": 3})
    state = federate(experiment(rounds=5), members, GATE, record, start, N_SLICES)
    assert [request.round for request in members.requests] == [4, 5]
    assert members.requests[0].standing == {"a": 3, "b": 2, "c": 3}
    assert state.round == 5
