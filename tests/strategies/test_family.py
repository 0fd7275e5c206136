"""FedMRI's comparison family: what is private, SCAFFOLD, the server optimisers, Ditto; by hand and by oracle."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import UNET, Commits, Federation, bits, private_bits

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.measurement import Images
from fedrecon.sites.wire import State, TrainReply
from fedrecon.strategies import STRATEGIES, make_strategy
from fedrecon.strategies.fedopt import FedOpt
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.partial import Partial

IMAGES = Images(True, (32, 32), 1, ("a",))


def f32(*values):
    return np.array(values, np.float32)


def network(name="unet", **parameters):
    return NetworkChoice.parse({"name": name, **parameters}).build(IMAGES)


def kept(method, model):
    return {name for name, _ in model.named_parameters() if not method.shares(name, model)}


@pytest.mark.parametrize("name", [name for name, one in NETWORKS.items() if one.kind == "reconstruction"])
@pytest.mark.parametrize(
    ("strategy", "parts"),
    [("fedper", {"head"}), ("lg_fedavg", {"encoder"}), ("fedmri", {"decoder", "head"}), ("fedbn", {"norm"})],
)
def test_each_keeps_its_part_of_every_network(name, strategy, parts):
    model = network(name, channels=4, norm="instance_affine")
    prefixes = tuple(prefix for part in parts for prefix in model.parts[part])
    expected = {one for one, _ in model.named_parameters() if one.startswith(prefixes)}
    assert expected
    assert kept(make_strategy(strategy, {}), model) == expected


def test_statistics_of_a_private_normalisation_stay_at_the_site():
    model, method = network(channels=4, norm="batch"), make_strategy("fedbn", {})
    statistics = [name for name, _ in model.named_buffers() if "running" in name]
    assert statistics
    assert not any(method.shares(name, model) for name in statistics)


def test_parameters_can_be_named_one_by_one():
    model = network(channels=4)
    method = Partial(private=("unet.head.bias", "unet.encoder.levels.0"))
    assert kept(method, model) == {"unet.head.bias", "unet.encoder.levels.0.0.weight", "unet.encoder.levels.0.4.weight"}


@pytest.mark.parametrize(
    ("private", "message"),
    [
        (("decodr",), "Did you mean 'decoder'"),
        (("unet.encoder.level",), "unknown part or parameter"),  # the beginning of a name, but not of its last word
        (("norm",), "network.norm=instance_affine"),
    ],
)
def test_what_the_network_does_not_have_is_refused(private, message):
    model = network(channels=4)
    with pytest.raises(InputError, match=message):
        Partial(private=private).shares("unet.head.bias", model)


def test_a_run_that_cannot_keep_its_part_private_ends_before_it_starts(consortium, tmp_path):
    import fedrecon

    given = {
        "sites": {name: str(path) for name, path in consortium.items()},
        "network": UNET,
        "strategy": {"name": "fedbn"},
    }
    with pytest.raises(InputError, match=r"its part 'norm'.*network\.norm=instance_affine"):
        fedrecon.run(given, workspace=tmp_path, in_process=True)
    assert not list(tmp_path.iterdir())


# SCAFFOLD


def scaffold(consortium, **training):
    return Federation(make_strategy("scaffold", {}), consortium, training={"optimizer": "sgd", **training})


@pytest.mark.slow
def test_with_sgd_the_variates_are_those_of_option_two(consortium):
    """c_i - c + (x - y_i) / (K eta) over two rounds, from what crossed the wall alone."""
    one = scaffold(consortium, learning_rate=0.1)
    executor, state = one.executor(), one.begin()
    own = {site: np.zeros_like(state.shared) for site in one.paths}
    for _ in range(2):
        replies = [
            TrainReply(**{**r.__dict__, "shared": r.shared.copy()}) for r in executor.fit(one.method.request(state))
        ]
        c = state.extra["c"]
        for reply in replies:
            drift = (state.shared - reply.shared) / np.float32(reply.steps * 0.1)
            expected = own[reply.site] - c + drift
            change = expected - own[reply.site]
            scale = np.abs(expected).max()
            np.testing.assert_allclose(reply.extra["change"], change, rtol=0, atol=2e-4 * scale)
            own[reply.site] = own[reply.site] + reply.extra["change"]
        state = one.method.merge(state, replies, one.n_slices)
        weights = one.method.weights(one.n_slices)
        mean = sum(weights[site] * values for site, values in own.items())
        np.testing.assert_allclose(state.extra["c"], mean, rtol=0, atol=1e-5 * np.abs(mean).max())
    for site, values in own.items():
        np.testing.assert_allclose(executor.sites[site].memory.values["c_i"], values, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_first_round_of_scaffold_is_fedavg_s_and_the_second_is_not(consortium):
    fedavg = Federation(make_strategy("fedavg", {}), consortium, training={"optimizer": "sgd"})
    ours, theirs = Commits(None), Commits(None)
    scaffold(consortium).train(record=ours)
    fedavg.train(record=theirs)
    assert ours.states[0].shared.tobytes() == theirs.states[0].shared.tobytes()
    assert ours.states[1].shared.tobytes() != theirs.states[1].shared.tobytes()


def test_an_absent_site_s_variate_stays_in_c():
    method = make_strategy("scaffold", {})
    state = State(1, f32(0), {"c": f32(8)})
    reply = TrainReply("a", 2, 1, f32(4), {"change": f32(6)})
    merged = method.merge(state, [reply], {"a": 1, "b": 1, "c": 2})
    assert merged.shared.tolist() == [4]
    assert merged.extra["c"].tolist() == [9.5]  # 8 + 6 / 4
    merged = make_strategy("scaffold", {"weighting": "uniform"}).merge(state, [reply], {"a": 1, "b": 1, "c": 2})
    assert merged.extra["c"].tolist() == [10]  # 8 + 6 / 3


@pytest.mark.parametrize(("weighting", "minimum"), [("slices", 0.75), ("uniform", 0.5)])
def test_scaffold_ends_at_the_minimum_of_the_objective_that_its_weights_name(weighting, minimum):
    """(w - 0)^2 / 2 at a site of one slice and (w - 1)^2 / 2 at one of three, five exact steps of SGD a round."""
    targets, n_slices = {"small": 0.0, "large": 1.0}, {"small": 1, "large": 3}
    method = make_strategy("scaffold", {"weighting": weighting})
    state, memory = method.begin(f32(0.2)), {site: {} for site in targets}
    for _ in range(100):
        request, replies = method.request(state), []
        for site, target in targets.items():
            w = torch.nn.Parameter(torch.from_numpy(request.shared.copy()))
            flat = SimpleNamespace(flat=w)
            fit = SimpleNamespace(request=request, memory=memory[site], parameters=flat, scratch={})
            fit.shared, fit.cut = lambda w=w: [w], lambda values: [values]
            method.receive(fit)
            for _ in range(5):
                w.grad = (w - target).detach()
                method.gradients(fit)
                w.data -= 0.05 * w.grad
            extra = method.reply(fit, 5)
            replies.append(TrainReply(site, request.round, n_slices[site], w.detach().numpy().copy(), extra))
        state = method.merge(state, replies, n_slices)
    assert state.shared[0] == pytest.approx(minimum, abs=1e-4)


def test_scaffold_with_weighted_variates_has_digests_of_its_own():
    def marks(**parameters):
        return make_strategy("scaffold", parameters).own_science

    assert marks() == marks(weighting="slices") == {"c": "weighted"}
    assert marks(weighting="uniform") == make_strategy("fedavg", {}).own_science == {}


@pytest.mark.slow
def test_scaffold_sends_twice_as_much_both_ways(consortium):
    record = Commits(None)
    scaffold(consortium).train(record=record)
    for one in record.rounds:
        assert one.bytes_up == 2 * one.extra_up
        assert one.bytes_down == 2 * one.extra_down


# Server optimisers


def test_fedadam_and_fedyogi_by_hand():
    """beta1 1/2, beta2 3/4, tau 1/2, rate 1: the mean change is (2, -1); v_0 = 1/4."""
    values = {"server_rate": 1, "beta1": 0.5, "beta2": 0.75, "tau": 0.5}
    replies = [TrainReply("a", 1, 1, f32(13, 8)), TrainReply("b", 1, 1, f32(11, 10))]
    seconds = {"fedadam": (0.75 * 0.25 + 0.25 * 4, 0.75 * 0.25 + 0.25 * 1), "fedyogi": (0.25 + 0.25 * 4, 0.25 + 0.25)}
    for name, v in seconds.items():
        method = make_strategy(name, values)
        state = method.merge(method.begin(f32(10, 10)), replies, {"a": 1, "b": 1})
        assert state.extra["m"].tolist() == [1, -0.5]
        assert state.extra["v"] == pytest.approx(v)
        expected = [10 + 1 / (v[0] ** 0.5 + 0.5), 10 - 0.5 / (v[1] ** 0.5 + 0.5)]
        assert state.shared == pytest.approx(expected)
        assert method.request(state).extra == {}
    shrinking = make_strategy("fedyogi", values).second(f32(4), f32(1))  # v above the square: it falls by 1/4
    assert shrinking.tolist() == [3.75]


@pytest.mark.parametrize("name", [name for name, kind in STRATEGIES.items() if issubclass(kind, FedOpt)])
def test_a_server_optimiser_averages_running_statistics_and_steps_parameters(name):
    """One weight and one running variance that settles at 4 at both sites; a step along it would end elsewhere."""
    method = make_strategy(name, {"server_rate": 0.1})
    state = method.begin(f32(1, 1), np.array([False, True]))
    for number in range(1, 4):
        replies = [TrainReply("a", number, 3, f32(2, 3.0 + number)), TrainReply("b", number, 1, f32(2, 3.0 - number))]
        state = method.merge(state, replies, {"a": 3, "b": 1})
        assert state.shared[1] == 3 + number / 2  # (3 (3 + n) + (3 - n)) / 4
    assert 1 < state.shared[0] < 2
    alone = method.begin(f32(1))
    for number in range(1, 4):
        alone = method.merge(alone, [TrainReply("a", number, 1, f32(2))], {"a": 1})
    assert state.shared[0] == alone.shared[0]  # the buffers beside it change nothing
    assert set(method.begin(f32(1), np.array([False])).extra) == {"m", "v"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in STRATEGIES.items() if issubclass(kind, FedOpt)])
def test_the_running_statistics_of_a_trained_network_are_the_mean_of_the_sites(name, consortium):
    one = Federation(make_strategy(name, {"server_rate": 0.1}), consortium, network={**UNET, "norm": "batch"}, rounds=1)
    start, buffers = one.begin(), one.layout.buffers
    assert buffers.any()
    assert not buffers.all()
    state = one.train()
    plain = Federation(make_strategy("fedavg", {}), consortium, network=one.network, rounds=1).train()
    assert state.shared[buffers].tobytes() == plain.shared[buffers].tobytes()
    moved = np.abs(state.shared - start.shared)[~buffers]
    assert not np.array_equal(moved, np.abs(plain.shared - start.shared)[~buffers])


def test_ten_rounds_of_fedadam_follow_the_recurrence_in_double_precision():
    method = make_strategy("fedadam", {"server_rate": 0.1, "tau": 1e-3})
    state = method.begin(np.zeros(5, np.float32))
    weights = torch.zeros(5, dtype=torch.float64)
    m, v = torch.zeros(5, dtype=torch.float64), torch.full((5,), 1e-6, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for _ in range(10):
        change = rng.standard_normal(5).astype(np.float32)
        state = method.merge(state, [TrainReply("a", 1, 1, state.shared + change)], {"a": 1})
        m.lerp_(torch.from_numpy(change).double(), 0.1)
        v.mul_(0.99).addcmul_(torch.from_numpy(change).double(), torch.from_numpy(change).double(), value=0.01)
        weights += 0.1 * m / (v.sqrt() + 1e-3)
    np.testing.assert_allclose(state.shared, weights.numpy(), rtol=1e-4)


# Ditto


@pytest.mark.slow
def test_ditto_s_shared_network_is_fedavg_and_its_personal_one_goes_from_local_to_it(consortium, tmp_path):
    def train(name, **parameters):
        folder = tmp_path / f"{name}{parameters.get('lam', '')}"
        one = Federation(make_strategy(name, parameters), consortium, folder)
        executor = one.executor()
        state = one.train(executor)
        return bits(state)["shared"], {m: kept.get("parameters") for m, kept in private_bits(executor).items()}

    fedavg, _ = train("fedavg")
    _, local = train("local")
    shared, free = train("ditto", lam=0)
    assert shared == fedavg
    assert free == local
    held_shared, held = train("ditto", lam=10.0)
    assert held_shared == fedavg
    centre = np.frombuffer(fedavg, np.float32)
    for site in local:
        far, near = (np.abs(np.frombuffer(one[site], np.float32) - centre).mean() for one in (free, held))
        assert near < far


def test_ditto_s_networks_have_the_dropout_of_fedavg_and_of_local_and_its_terms_are_recorded(consortium, tmp_path):
    def train(name, **parameters):
        one = Federation(
            make_strategy(name, parameters), {"north": consortium["north"]}, tmp_path / name, rounds=1,
            network={**UNET, "dropout": 0.3}, training={"loss": {"l1": 1.0, "gradient_profile": 0.01}},
        )  # fmt: skip
        executor, record = one.executor(), Commits(None)
        shared = bits(one.train(executor, record))["shared"]
        (losses,) = record.rounds[0].losses.values()
        return shared, private_bits(executor)["north"].get("parameters"), losses

    fedavg, _, terms = train("fedavg")
    _, local, _ = train("local")
    shared, free, recorded = train("ditto", lam=0)
    assert (shared, free) == (fedavg, local)
    assert recorded == {**terms, "shared_loss": terms["loss"]}
