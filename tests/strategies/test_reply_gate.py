"""No reply that differs from what was asked is merged: for every strategy of the registry."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cases import federation
from tiny import Commits

from fedrecon.platform.execution.wire_log import WireLog, unread
from fedrecon.sites import wire
from fedrecon.sites.errors import RunError
from fedrecon.sites.wire import TrainReply
from fedrecon.strategies import STRATEGIES

pytestmark = pytest.mark.usefixtures("few_drawn")


def first(reply, change):
    return replace(reply, shared=change(reply.shared))


def spoilt(vector, value):
    values = vector.copy()
    values[-1:] = value
    return values


def one_extra(reply, change):
    name = next(iter(reply.extra))
    return replace(reply, extra={**reply.extra, name: change(reply.extra[name])})


def with_loss(reply, name, value):
    return replace(reply, losses={**reply.losses, name: value})


USAGE = "cpu_utilization_percentage"
TAMPERED = {
    "wrong round": (lambda r: replace(r, round=7), "round = 7 instead of 1"),
    "the round as a float": (lambda r: replace(r, round=1.0), "round = 1.0 instead of 1"),
    "another member's name": (lambda r: replace(r, site="elsewhere"), "the name 'elsewhere' instead of its own"),
    "other slices": (lambda r: replace(r, n_slices=r.n_slices + 1), "n_slices = "),
    "float64": (lambda r: first(r, np.float64), "shared parameters of type float64"),
    "int32": (lambda r: first(r, np.int32), "shared parameters of type int32"),
    "a matrix": (lambda r: first(r, lambda v: v[:, None]), "shared parameters of type float32 of shape"),
    "a list": (lambda r: first(r, np.ndarray.tolist), "instead of a flat float32 vector"),
    "too long": (lambda r: first(r, lambda v: np.append(v, v.dtype.type(0))), "shared parameters instead of"),
    "4 MB undeclared": (
        lambda r: replace(r, extra={**r.extra, "hidden": np.zeros(1 << 20, np.float32)}),
        "replied with hidden beside the shared parameters",
    ),
    "a loss that is NaN": (lambda r: replace(r, losses={"loss": float("nan")}), "loss = nan"),
    "no loss": (lambda r: replace(r, losses={}), "no loss among"),
    "a loss with the name of a score": (lambda r: with_loss(r, "psnr", 99.0), "a loss of the name 'psnr'"),
    "a loss with the name of a distance": (lambda r: with_loss(r, "nearest", 0.0), "a loss of the name 'nearest'"),
    "a loss with the path of a score": (lambda r: with_loss(r, "zero_filled/psnr", 1.0), "of the name 'zero_filled/"),
    "a loss with an escape": (lambda r: with_loss(r, "\x1b[2J", 1.0), "of the name '\\x1b[2J'"),
    "a loss that no float holds": (lambda r: with_loss(r, "term", 10**400), "term = 1000"),
    "a loss in the place of the seconds": (
        lambda r: replace(with_loss(r, "seconds", 1.0), seconds=float("inf")),
        "seconds = inf",
    ),
    "a usage of one's own": (lambda r: replace(r, usage={"x": 1.0}), "a usage of the name 'x'"),
    "a hundred thousand usages": (lambda r: replace(r, usage=dict.fromkeys(map(str, range(10**5)), 1.0)), "name '0'"),
    "a usage that is NaN": (lambda r: replace(r, usage={USAGE: float("nan")}), f"{USAGE} = nan"),
    "a usage that no float holds": (lambda r: replace(r, usage={USAGE: 10**400}), f"{USAGE} = 1000"),
    "a negative usage": (lambda r: replace(r, usage={USAGE: -1.0}), f"{USAGE} = -1.0"),
    "seconds that no float holds": (lambda r: replace(r, seconds=10**400), "seconds = 1000"),
    "steps beyond 64 bits": (lambda r: replace(r, steps=10**30), "steps = 1000"),
    "n_slices of a million digits": (lambda r: replace(r, n_slices=10**10**6), "n_slices = an integer of"),
    "a masked array": (lambda r: first(r, np.ma.masked_array), "shared parameters of type MaskedArray"),
    "a loss that is text": (lambda r: replace(r, losses={"loss": "0.1"}), "loss = '0.1'"),
    "infinite seconds": (lambda r: replace(r, seconds=float("inf")), "seconds = inf"),
    "negative steps": (lambda r: replace(r, steps=-1), "steps = -1"),
    "no reply": (lambda r: SimpleNamespace(**vars(r)), "SimpleNamespace instead of a TrainReply"),
}
TURNS = 4
"""None of these has to do with a strategy: each strategy meets every fourth, and each of these meets several."""

WITH_PARAMETERS = {
    "too short": (lambda r: first(r, lambda v: v[:-1]), "shared parameters instead of"),
    "NaN": (lambda r: first(r, lambda v: spoilt(v, np.nan)), "NaN or infinity in 1 of"),
    "infinity": (lambda r: first(r, lambda v: spoilt(v, -np.inf)), "NaN or infinity in 1 of"),
}
WITH_EXTRA = {
    "a missing extra": (lambda r: replace(r, extra={}), "its strategy declares"),
    "a short extra": (lambda r: one_extra(r, lambda v: v[1:]), "instead of"),
    "a NaN extra": (lambda r: one_extra(r, lambda v: spoilt(v, np.nan)), "NaN or infinity in 1 of"),
    "a float64 extra": (lambda r: one_extra(r, np.float64), "of type float64"),
}


class Replay:
    """Members that reply with what is written here, and score as their executor does.

    Each reply is hashed for a record, as in an executor, and read then; or only when it is checked, if not ``noted``.
    """

    restarts = 0

    def __init__(self, members, replies, executor=None, noted=True):
        self.members, self.replies, self.dead, self.executor = tuple(members), replies, {}, executor
        self.missed, self.waited, self.noted = {}, {}, noted

    def fit(self, request, without=(), reader=unread):
        for one in self.replies:
            if self.noted and type(one) is TrainReply:
                WireLog().received("one", one, reader(one))
            yield one

    def evaluate(self, *arguments):
        return self.executor.evaluate(*arguments)

    def samples(self, request):
        return self.executor.samples(request)


@pytest.fixture(scope="module")
def replied(consortium, tmp_path_factory):
    """The replies of round 1 of a strategy, and the executor whose sites keep its memory on disk; made once."""
    done = {}

    def get(name, with_executor=False):
        if name not in done:
            one = federation(name, consortium, tmp_path_factory.mktemp(name) / "memory", rounds=1)
            executor = one.executor()
            done[name] = one, list(executor.fit(one.method.request(one.begin()))), executor
        return done[name][:2] if not with_executor else done[name]

    return get


def refusal(one, executor, record):
    """The message of the error that ends the training; empty if there is none."""
    try:
        one.train(executor, record)
    except RunError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_reply_that_differs_from_the_request_is_refused_before_the_merge(name, replied):
    one, replies = replied(name)
    turn = list(STRATEGIES).index(name) % TURNS
    tampered = dict(list(TAMPERED.items())[turn::TURNS]) | (WITH_PARAMETERS if replies[-1].shared.size else {})
    tampered |= WITH_EXTRA if one.method.replies else {}
    for number, (what, (change, says)) in enumerate(tampered.items(), start=turn):
        record = Commits(None)
        executor = Replay(one.roster, [*replies[:-1], change(replies[-1])], noted=number % 2 == 0)
        message = refusal(one, executor, record)
        assert message.startswith(f"site '{replies[-1].site}', round 1: replied with "), what
        assert says in message, what
        assert "\n" not in message
        assert not record.rounds


def test_there_are_strategies_enough_to_meet_every_tampering_several_times():
    assert len(STRATEGIES) >= 3 * TURNS


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_replies_of_a_strategy_pass(name, replied):
    one, replies = replied(name)
    state = one.train(Replay(one.roster, replies))
    assert state.standing == dict.fromkeys(one.roster, 1)
    with pytest.raises(RunError, match="though every member has replied"):
        one.train(Replay(one.roster, [*replies, replies[-1]]))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_reply_that_is_read_beside_its_hash_is_merged_to_the_same_bits(name, replied, monkeypatch):
    monkeypatch.setattr(wire, "PART", 100)
    one, replies = replied(name)
    merged = one.method.merge(one.begin(), iter(replies), one.n_slices)
    for noted in (True, False):
        state = one.train(Replay(one.roster, replies, noted=noted))
        assert {key: value.tobytes() for key, value in {"shared": state.shared, **state.extra}.items()} == {
            key: value.tobytes() for key, value in {"shared": merged.shared, **merged.extra}.items()
        }


def test_a_member_that_replies_under_the_name_of_another_is_refused_though_the_other_is_dead(replied):
    one, (north, _, south) = replied("fedavg")
    executor = Replay(one.roster, [replace(north, site="middle"), south])
    with pytest.raises(RunError, match="site 'north', round 1: replied with the name 'middle' instead of its own"):
        one.train(executor)
    executor = Replay(one.roster, [north, south])
    executor.dead["middle"] = "killed"
    assert one.train(executor).standing == {"north": 1, "south": 1}


@pytest.mark.parametrize("name", [name for name, kind in STRATEGIES.items() if kind.replies])
def test_a_state_that_overflows_in_the_merge_is_not_committed(name, replied, tmp_path):
    one, replies = replied(name)
    great = [replace(r, extra={key: np.full_like(v, 3e38) for key, v in r.extra.items()}) for r in replies]
    state = one.begin()
    state = replace(state, extra={key: np.full_like(v, 3e38) for key, v in state.extra.items()})
    record = Commits(tmp_path / "commits")
    refused = pytest.raises(RunError, match="round 1 cannot be committed: its state holds NaN or infinity")
    with refused, np.errstate(over="ignore"):
        one.train(Replay(one.roster, great), record, state)
    assert record.checkpoints.latest() is None


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_replies_whose_scores_would_not_be_finite_end_the_run(name, replied, tmp_path):
    """3e38 is finite: it may pass the gate and the mean, but no network makes an image of it."""
    one, replies, executor = replied(name, with_executor=True)
    great = [replace(reply, shared=np.full_like(reply.shared, 3e38)) for reply in replies]
    if not great[0].shared.size or name == "ditto":
        pytest.skip("the shared parameters do not reconstruct")
    record = Commits(tmp_path / "commits")
    refused = pytest.raises(RunError, match=r"round 1: .*finite|round 1 cannot be committed")
    with refused, np.errstate(all="ignore"):
        replace(one, scored=True).train(Replay(one.roster, great, executor), record)
    assert record.checkpoints.latest() is None


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_flipped_bit_in_a_private_memory_ends_the_run(name, replied, tmp_path):
    one, replies = replied(name)
    state = one.method.merge(one.begin(), replies, one.n_slices)
    if not one.memory.exists():
        pytest.skip("no memory")
    one = replace(one, memory=shutil.copytree(one.memory, tmp_path / "memory"), rounds=2)
    files = [one.memory / member / "round-000001.safetensors" for member in one.roster]
    assert all(file.is_file() for file in files)
    content = bytearray(files[0].read_bytes())
    content[-2] ^= 1
    files[0].write_bytes(content)
    member = files[0].parent.name
    with pytest.raises(
        RunError, match=f"site '{member}', round 2: the private memory of round 1 is refused: its check"
    ):
        one.train(state=state)
