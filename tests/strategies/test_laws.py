"""What must hold of every strategy of the registry, some of them in several ways."""

import shutil
from dataclasses import replace
from functools import cache, partial

import cases
import numpy as np
import pytest
from cases import CASES, Recorded, all_scores, vectors
from deaths import die
from tiny import N_TRAIN, Commits, bits, private_bits

from fedrecon.sites.errors import RunError
from fedrecon.sites.member.site import Site
from fedrecon.sites.wire import PanelTask, TrainReply, TrainRequest
from fedrecon.strategies import STRATEGIES
from fedrecon.strategies.strategy import Strategy

pytestmark = pytest.mark.usefixtures("few_drawn")

every = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in STRATEGIES else pytest.mark.slow) for name in CASES]
)
"""Every strategy once; those that come a second time, under other options, are slow."""


ROUNDS = 2
"""Of a training: what its last round begins with is what another round left."""

federation = partial(cases.federation, rounds=ROUNDS)

WITH_NEUTRAL = [name for name, case in CASES.items() if case.kind.neutral]


@pytest.fixture(scope="module")
def trained(consortium, tmp_path_factory):
    """A training of a case that nobody interrupts: its federation, executor, commits and last state; made once."""
    done = {}

    def get(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            one = federation(name, consortium, folder / "memory")
            executor, record = Recorded(one.plans()), Commits(folder / "commits")
            state = one.train(executor, record)
            scores = all_scores(executor, one.method.request(state))
            done[name] = (one, executor, record, state, private_bits(executor), scores)
        return done[name]

    return get


@pytest.fixture(scope="module")
def died(consortium, tmp_path_factory):
    """A second training of a case, whose driver dies before each commit; made once."""
    return cache(lambda name: die(name, consortium, tmp_path_factory.mktemp(f"died-{name}"), ROUNDS))


@pytest.fixture(scope="module")
def replied(trained):
    """A case, its first state and its members' first replies."""

    def get(name):
        one, executor = trained(name)[:2]
        return one, one.begin(), executor.replies[0]

    return get


@pytest.fixture(scope="module")
def plain(consortium):
    """The shared vector of FedAvg with the network, and on the images, of a case; trained once for each of these."""
    done = {}

    def get(name):
        setting = repr((CASES[name].network, CASES[name].degradation))
        if setting not in done:
            done[setting] = cases.fedavg_like(name, consortium, rounds=ROUNDS).train().shared
        return done[setting]

    return get


@pytest.mark.slow
@every
def test_training_moves_what_it_should(name, trained):
    one, executor, record, state, private, _ = trained(name)
    assert state.round == ROUNDS
    assert state.standing == dict.fromkeys(one.roster, ROUNDS)
    first = one.begin()
    assert first.shared.size == state.shared.size
    assert state.shared.size == 0 or (first.shared != state.shared).mean() > 0.5
    assert all(np.isfinite(values).all() for values in (state.shared, *state.extra.values()))
    for member, site in executor.sites.items():
        if len(site.parameters.private):
            start = site._first_private.tobytes()
            assert private[member]["parameters"] != start
    assert [one.replied for one in record.rounds] == [tuple(one.roster)] * ROUNDS


@pytest.mark.slow
@every
def test_a_run_that_dies_in_every_round_ends_with_the_same_bits(name, trained, died):
    """The driver dies before each commit, after scoring the last round, and once when only one member has trained."""
    _, _, _, state, private, scores = trained(name)
    after = died(name)
    assert after.starts == [0, 0, 1]
    assert bits(after.resumed) == bits(state)
    assert after.resumed.standing == state.standing
    assert private_bits(after.executor) == private
    assert all_scores(after.executor, after.one.method.request(after.resumed)) == scores


@pytest.mark.slow
@every
def test_a_restarted_site_loads_its_committed_memory_alone(name, trained):
    """A new executor, from the state and the memory on disk, scores to the bit as the one that trained."""
    one, _, _, state, private, scores = trained(name)
    executor = one.executor()
    assert all_scores(executor, one.method.request(state)) == scores
    assert all(kept == private[member] for member, kept in private_bits(executor).items() if kept)


@pytest.mark.slow
@every
def test_a_fit_asked_twice_gives_the_same_reply(name, trained):
    """The last fit of the training, asked of the same sites once more."""
    one, executor, record, _, private, _ = trained(name)
    first = [(reply.losses, vectors(reply)) for reply in executor.replies[-1]]
    assert [(r.losses, vectors(r)) for r in executor.fit(one.method.request(record.states[-2]))] == first
    assert private_bits(executor) == private


@pytest.mark.slow
@every
def test_a_second_run_gives_the_same_bits_though_it_is_scored_and_nothing_may_be_written_to(name, trained, died):
    """Ray's store is read-only; in this process nothing stops a strategy but this law."""
    _, _, _, state, private, _ = trained(name)
    last, kept = died(name).uncommitted
    assert (last.round, bits(last)) == (ROUNDS, bits(state))
    assert kept == private


@pytest.mark.slow
def test_pictures_change_nothing_and_are_one_a_site(consortium, tmp_path, trained):
    one, executor, _, state, private, scores = trained("fedgimp")
    request = one.method.request(state)
    pictures = executor.panels(request, PanelTask("test", "round 3"))
    assert [site for one in pictures for site in one.pictures] == list(N_TRAIN)
    (chosen,) = executor.panels(request, PanelTask("test", "round 3", ("middle",), small=True))
    assert list(chosen.pictures) == ["middle"]
    assert len(chosen.pictures["middle"]) < len(pictures[1].pictures["middle"])
    assert private_bits(executor) == private
    assert all_scores(executor, request) == scores


@pytest.mark.slow
@every
def test_a_private_value_is_in_no_reply(name, consortium, tmp_path, trained):
    """Private parameters and memory are set to numbers that occur nowhere else; no reply then holds one."""
    _, before, _, state, _, _ = trained(name)
    still = {"learning_rate": 1e-30, "optimizer_state": "reset"}
    one = federation(name, consortium, tmp_path, rounds=ROUNDS + 1, training=still)
    executor = one.executor()
    marks = {}
    for k, (member, site) in enumerate(executor.sites.items()):
        n = len(site.parameters.private)
        marks[member] = (np.float32(0.4242) + np.float32(1e-6) * np.arange(k * n, (k + 1) * n)).astype(np.float32)
        if values := before.sites[member].memory.values:
            site.memory.save(ROUNDS, {**values, **({"parameters": marks[member]} if n else {})})
    secret = np.concatenate([np.zeros(0, np.float32), *marks.values()])
    for reply in executor.fit(one.method.request(state)):
        site = executor.sites[reply.site]
        assert len(reply.shared) == site.parameters.n_shared == len(state.shared)
        assert set(site.parameters.names(shared=True)).isdisjoint(site.parameters.names(shared=False))
        for vector in (reply.shared, *reply.extra.values()):
            assert not np.isin(vector, secret).any()
        kept = site.memory.values.get("parameters", secret[:0])
        assert len(kept) == len(marks[reply.site])  # batch statistics may move, nothing is lost
        if name != "fedbn":
            assert kept.tobytes() == marks[reply.site].tobytes()


@pytest.mark.slow
@every
def test_a_reply_holds_flat_float32_vectors_and_numbers(name, replied):
    one, _, replies = replied(name)
    for reply in replies:
        assert isinstance(reply, TrainReply)
        for vector in (reply.shared, *reply.extra.values()):
            assert isinstance(vector, np.ndarray)
            assert (vector.ndim, vector.dtype) == (1, np.float32)
            assert vector.size <= one.layout.flat.numel()
        assert next(iter(reply.losses)) == "loss"
        assert all(type(value) is float for value in reply.losses.values())
        assert reply.nbytes == 4 * sum(v.size for v in (reply.shared, *reply.extra.values()))


@every
def test_missing_members_leave_a_state_over_those_that_replied(name, replied):
    one, state, replies = replied(name)
    if len(one.roster) == 1:
        pytest.skip("one member holds all data")
    after = one.method.merge(state, replies[1:], one.n_slices)
    assert after.standing == {reply.site: 1 for reply in replies[1:]}
    assert after.round == 1
    assert all(np.isfinite(v).all() for v in (after.shared, *after.extra.values()))
    if type(one.method).merge is Strategy.merge:
        weights = one.method.weights({reply.site: reply.n_slices for reply in replies[1:]})
        expected = sum(weights[r.site] * r.shared.astype(np.float64) for r in replies[1:])
        np.testing.assert_allclose(after.shared, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_NEUTRAL)
def test_at_its_neutral_parameters_a_strategy_is_fedavg_to_the_bit(name, consortium, plain):
    neutral = federation(name, consortium, more=CASES[name].kind.neutral)
    assert neutral.train().shared.tobytes() == plain(name).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_NEUTRAL)
def test_at_other_parameters_it_is_not(name, plain, trained):
    _, _, _, state, private, _ = trained(name)
    if len(state.shared) == len(plain(name)):
        assert state.shared.tobytes() != plain(name).tobytes()
    else:
        assert all("parameters" in kept for kept in private.values())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_without_neutral_parameters_says_why(name):
    kind = STRATEGIES[name]
    assert (kind.neutral is None) == bool(kind.not_neutral)
    if kind.neutral is not None:
        kind(**kind.neutral)
    assert kind.__doc__


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.kind.trains_on_operator])
def test_a_strategy_that_says_so_trains_the_same_under_every_operator(name, consortium, trained):
    other = _first_round(name, consortium, operator={"mask": "gaussian2d", "acceleration": 5, "noise": 3})
    assert other.left(1) == trained(name)[1].left(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind.trains_on_operator])
def test_the_others_do_not(name, consortium, trained):
    changed = {"degradation": {**degraded, "noise": 3}} if (degraded := CASES[name].degradation) else {}
    other = _first_round(name, consortium, 1, operator={"mask": "random", "acceleration": 5}, **changed)
    (member,) = other.members
    assert [one[member] for one in other.left(1)] != [one[member] for one in trained(name)[1].left(1)]


def _first_round(name, paths, members=None, **changes):
    """The executor that trained the first round of a case under other settings, with so many of its members."""
    one = federation(name, paths, **changes)
    executor = Recorded(one.plans()[:members])
    assert len(list(executor.fit(one.method.request(one.begin())))) == len(executor.members)
    return executor


@pytest.mark.slow
@every
def test_what_must_go_on_is_kept_and_nothing_else(name, trained):
    """Who has private parameters, remembers or keeps moments has a memory of the committed round on disk."""
    one, executor, _, _, private, _ = trained(name)
    keeps = one.training.get("optimizer_state") == "keep"
    for member, site in executor.sites.items():
        needs = len(site.parameters.private) > 0 or one.method.remembers or keeps
        files = sorted(path.name for path in (one.memory / member).glob("*"))
        assert bool(files) == needs == bool(private[member])
        if needs:  # the round before stays until the next order says that the last one was committed
            assert files == ["round-000001.safetensors", "round-000002.safetensors"]
        assert any(key.startswith("optimizer.") for key in private[member]) == keeps


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "reset"), [("fedavg_keep", None), ("fedgimp", "fedgimp_reset")])
def test_moments_that_are_kept_make_a_difference(keep, reset, consortium, trained):
    other = trained(reset)[3] if reset else federation("fedavg", consortium, training={"schedule": "cosine"}).train()
    assert bits(trained(keep)[3]) != bits(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "fedavg_keep", "scaffold", "fedmri", "fedgimp"])
def test_members_that_miss_rounds_go_on_from_their_own_memory(name, consortium, tmp_path):
    """South is away in round 2: in round 3 it takes its memory of round 1, before and after a restart."""
    one = federation(name, consortium, tmp_path / "memory", rounds=3)
    one.memory.mkdir()

    def rounds(executor, now, until, away=()):
        while now.round < until:
            present = (r for r in _fit(executor, one.method.request(now), away))
            now = one.method.merge(now, present, one.n_slices)
        return now

    executor = one.executor()
    second = rounds(executor, rounds(executor, one.begin(), 1), 2, away=("south",))
    assert second.standing == {"north": 2, "middle": 2, "south": 1}
    shutil.copytree(one.memory, tmp_path / "restarted")
    expected = rounds(executor, second, 3)
    executor_after = replace(one, memory=tmp_path / "restarted").executor()  # what is in memory is on disk
    third = rounds(executor_after, second, 3)
    assert third.standing == {"north": 3, "middle": 3, "south": 3}
    assert bits(third) == bits(expected)
    assert private_bits(executor_after) == private_bits(executor)


def _fit(executor, request, away):
    for member in executor.sites:
        if member not in away:
            reply = executor.sites[member].fit(request)
            yield TrainReply(**{**reply.__dict__, "shared": reply.shared.copy()})


@pytest.mark.slow
def test_lost_memory_is_an_error_and_no_new_start(consortium, tmp_path):
    one = federation("local", consortium, tmp_path / "memory", rounds=1)
    state = one.train()
    (tmp_path / "memory" / "south" / "round-000001.safetensors").unlink()
    with pytest.raises(RunError, match=r"site 'south'.*round 1 is lost"):
        list(one.executor().fit(one.method.request(state)))


@pytest.mark.slow
def test_replies_come_in_the_order_of_the_roster(replied):
    assert [reply.site for reply in replied("fedavg")[2]] == list(N_TRAIN)


@every
def test_the_order_of_replies_changes_no_more_than_rounding(name, replied):
    one, state, replies = replied(name)
    forward = one.method.merge(state, replies, one.n_slices)
    backward = one.method.merge(state, replies[::-1], one.n_slices)
    assert forward.standing == backward.standing
    assert set(forward.extra) == set(backward.extra)
    pairs = [(forward.shared, backward.shared), *((forward.extra[key], backward.extra[key]) for key in forward.extra)]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_weights_go_by_name_whatever_the_order(replied):
    one, state, replies = replied("fedavg")
    merge = partial(one.method.merge, state, n_slices=one.n_slices)
    forward, backward = merge(replies=replies).shared, merge(replies=replies[::-1]).shared
    np.testing.assert_allclose(forward, backward, rtol=1e-5, atol=1e-7)
    by_hand = replies[0].shared / 2 + replies[1].shared / 6 + replies[2].shared / 3
    np.testing.assert_allclose(forward, by_hand, rtol=1e-5, atol=1e-7)
    assert merge(replies=replies).shared.tobytes() == forward.tobytes()


@pytest.mark.slow
def test_sites_reply_the_same_whoever_else_is_in_the_federation_process(consortium, tmp_path, replied):
    """A site alone in its process replies the same bits as among others in one."""
    one, state, replies = replied("fedmri")
    request, together = one.method.request(state), {reply.site: reply for reply in replies}
    for plan in federation("fedmri", consortium, tmp_path / "alone").plans()[::-1]:
        assert Site(plan).fit(request).shared.tobytes() == together[plan.member].shared.tobytes()


@every
def test_the_federation_counts_the_bytes_that_moved(name, trained, replied):
    one, _, record, _, _, _ = trained(name)
    last = record.states[-2]
    request = one.method.request(last)
    assert isinstance(request, TrainRequest)
    assert record.rounds[-1].bytes_down == len(one.roster) * request.nbytes
    assert record.rounds[-1].bytes_up == sum(reply.nbytes for reply in replied(name)[2])


def test_federate_from_the_last_round_does_nothing(consortium, trained):
    one, _, _, state, _, _ = trained("fedavg")
    assert one.train(None, None, state) is state
