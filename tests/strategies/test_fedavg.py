"""The mean by hand, and one site alone against a training loop written out here."""

import math

import numpy as np
import pytest
import torch
from tiny import NETWORKS, RECONSTRUCTS, UNET, Federation

from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.seeding import generator, seed
from fedrecon.sites.training.batches import Slices
from fedrecon.sites.wire import PART, State, TrainReply
from fedrecon.strategies import STRATEGIES, make_strategy, strategy_name
from fedrecon.strategies.mean import Mean
from fedrecon.strategies.networks.choice import NetworkChoice


def f32(*values):
    return np.array(values, np.float32)


def test_mean_of_two_sites_by_hand():
    mean = Mean({"a": 3 / 4, "b": 1 / 4}, 3)
    mean.fold("a", f32(4, 0, -8))
    mean.fold("b", f32(8, 2, 4))
    assert mean.value().tolist() == [5.0, 0.5, -5.0]
    assert mean.value().dtype == np.float32


def test_merge_of_two_sites_by_hand():
    fedavg = make_strategy("fedavg", {})
    replies = [TrainReply("a", 1, 6, f32(4, -8)), TrainReply("b", 1, 2, f32(8, 4))]
    state = fedavg.merge(State(0, f32(0, 0)), replies, {"a": 6, "b": 2})
    assert state.shared.tolist() == [5.0, -5.0]
    assert (state.round, state.standing) == (1, {"a": 1, "b": 1})
    uniform = make_strategy("fedavg", {"weighting": "uniform"})
    assert uniform.merge(State(0, f32(0, 0)), replies, {"a": 6, "b": 2}).shared.tolist() == [6.0, -2.0]


def test_where_a_member_never_replied_the_mean_is_over_the_others():
    mean = Mean({"a": 1 / 2, "b": 1 / 4, "c": 1 / 4}, 2)
    mean.fold("a", f32(6, 3))
    mean.fold("c", f32(0, 9))
    assert mean.value().tolist() == [4.0, 5.0]  # weights 2/3 and 1/3


def test_where_nobody_replied_there_is_no_mean():
    with pytest.raises(ValueError, match="no member replied"):
        Mean({"a": 1.0}, 2).value()


def test_where_those_who_replied_weigh_nothing_there_is_no_mean():
    mean = Mean({"a": 1.0, "b": 0.0}, 2)
    mean.fold("b", f32(6, 3))
    with pytest.raises(RunError, match=r"weight 0 \(b\)"):
        mean.value()


@pytest.mark.parametrize("size", [1, 3])
def test_a_vector_of_another_length_is_no_part_of_a_mean(size):
    with pytest.raises(ValueError, match=f"'a'.*{size} values.*2"):
        Mean({"a": 1.0}, 2).fold("a", np.zeros(size, np.float32))


def test_a_long_mean_is_the_same_as_one_part_at_once():
    rng = np.random.default_rng(0)
    vectors = {name: rng.standard_normal(2 * PART + 7).astype(np.float32) for name in "abc"}
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    mean = Mean(weights, 2 * PART + 7)
    for name, values in vectors.items():
        values.setflags(write=False)
        mean.fold(name, values)
    expected = np.zeros(2 * PART + 7, np.float32)
    for name, values in vectors.items():
        expected = expected + values * np.float32(weights[name])
    assert mean.value().tobytes() == expected.tobytes()


def test_weights_sum_to_one_and_go_by_training_slices():
    n_slices = {"a": 5, "b": 3, "c": 2}
    assert make_strategy("fedavg", {}).weights(n_slices) == {"a": 0.5, "b": 0.3, "c": 0.2}
    assert make_strategy("fedavg", {"weighting": "uniform"}).weights(n_slices) == dict.fromkeys("abc", 1 / 3)
    for name in STRATEGIES:
        assert math.isclose(sum(make_strategy(name, {}).weights(n_slices).values()), 1)


def test_names_and_parameters_are_checked():
    with pytest.raises(InputError, match="Did you mean 'fedprox'"):
        make_strategy("fedprx", {})
    with pytest.raises(InputError, match="Did you mean 'mu'"):
        make_strategy("fedprox", {"muu": 1})
    for value in (-0.1, math.inf, math.nan, "much"):
        with pytest.raises(InputError, match="mu"):
            make_strategy("fedprox", {"mu": value})
    assert strategy_name(make_strategy("fedprox", {"mu": 1})) == "fedprox"


def test_rosters():
    sites = ["a", "b"]
    assert make_strategy("pooled", {}).roster(sites) == {"pooled": ("a", "b")}
    for name in ("fedavg", "fedprox", "local"):
        assert make_strategy(name, {}).roster(sites) == {"a": ("a",), "b": ("b",)}


def plain(path, kinds, rounds, seed_, member, network):
    """Adam on a network of its own: no Site, no Parameters, no strategy."""
    operators = {"north": Undersampling.read({"mask": "random", "acceleration": 3})}
    slices = Slices({"north": Shard.open(path)}, operators, "train", torch.device("cpu"))
    torch.manual_seed(seed(seed_, "weights"))
    network = NetworkChoice.parse(network).build(kinds)
    losses = []
    for number in range(1, rounds + 1):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        losses.append([])
        for epoch in (2 * number - 2, 2 * number - 1):
            shuffled = generator(seed_, "order", member, epoch).permutation(len(slices.items))
            for start in range(0, len(shuffled), 2):
                batch = slices.training([slices.items[i] for i in shuffled[start : start + 2]], seed_, epoch, True)
                error = (network(batch).abs() - batch.reference).abs() / batch.scale[:, None, None]
                optimizer.zero_grad()
                error.mean().backward()
                optimizer.step()
                losses[-1].append(error.mean().item())
    return {name: value.detach().numpy() for name, value in network.named_parameters()}, losses


ROUNDING = {"fedmri": 1e-4, "scaffold": 1e-4}
"""Where what is added to the gradient cancels for one site, but for rounding, which Adam then makes visible."""

SERVER_STEPS = ("fedadam", "fedyogi")
"""The server does not take the mean as it is, not even of one site."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RECONSTRUCTS)
def test_one_site_alone_is_plain_training(name, consortium):
    network = NETWORKS.get(name, UNET)
    method = make_strategy(name, {"mu": 0} if name == "fedprox" else {})
    settings = {"network": network, "training": {"local_epochs": 2}, "seed": 7, "rounds": 2}
    one = Federation(method, {"north": consortium["north"]}, **settings)
    executor, (member,) = one.executor(), one.roster
    state = one.begin()
    losses = []
    while state.round < 2:
        (reply,) = executor.fit(one.method.request(state))
        losses.append(
            next(reply.losses[key] for key in ("shared_loss", "reconstruction", "loss") if key in reply.losses)
        )
        state = one.method.merge(state, [reply], one.n_slices)
    expected, steps = plain(consortium["north"], one.plans()[0].images, 2, 7, member, network)
    model = executor.sites[member].model
    found = {n: p.detach().numpy() for n, p in getattr(model, "shared", model).named_parameters()}
    if name in SERVER_STEPS:
        assert any(not np.array_equal(found[key], values) for key, values in expected.items())
        return
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=0, atol=ROUNDING.get(name, 0), err_msg=key)
    np.testing.assert_allclose(losses, [np.mean(each) for each in steps], rtol=max(1e-6, ROUNDING.get(name, 0)))
