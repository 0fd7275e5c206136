"""The local loop's own pieces: optimisers, their vectors, the schedule, the thread count, the losses it returns."""

import math

import numpy as np
import pytest
import torch
from tiny import N_TRAIN, UNET, Federation
from torch import nn

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import parse
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.seeding import seed
from fedrecon.sites.training.fine_tuning import fine_tune
from fedrecon.sites.training.local_loop import (
    autocast,
    load_optimizer_vectors,
    optimizer_vectors,
    threads,
    train,
)
from fedrecon.sites.training.method import LocalFit
from fedrecon.sites.training.optimizers import OPTIMIZERS, optimizer
from fedrecon.sites.training.settings import Training
from fedrecon.sites.wire import TrainRequest
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.local import Local


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def step(model, optimizers, k):
    loss = model(torch.full((2, 3), float(k))).square().sum()
    model.zero_grad()
    loss.backward()
    for one in optimizers:
        one.step()


def made(name, model, rate=0.1):
    return [optimizer(name, model[0].parameters(), rate), optimizer(name, model[1].parameters(), rate)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_go_on_from_their_vectors_as_if_never_stopped(name):
    model, twin = network(), network()
    optimizers, first = made(name, model), made(name, twin)
    for k in (1, 2):
        step(model, optimizers, k)
        step(twin, first, k)
    kept = optimizer_vectors(first)
    assert all(value.ndim == 1 and value.dtype == np.float32 for value in kept.values())
    second = made(name, twin)
    load_optimizer_vectors(second, kept)
    step(model, optimizers, 3)
    step(twin, second, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    again = optimizer_vectors(second)
    assert {k: v.tobytes() for k, v in again.items()} == {
        k: v.tobytes() for k, v in optimizer_vectors(optimizers).items()
    }


def test_without_its_vectors_adam_goes_elsewhere():
    model, twin = network(), network()
    optimizers = made("adam", model)
    step(model, optimizers, 1)
    step(twin, made("adam", twin), 1)
    step(model, optimizers, -2)
    fresh = made("adam", twin)
    load_optimizer_vectors(fresh, {"parameters": np.zeros(3, np.float32)})  # holds none: nothing happens
    step(twin, fresh, -2)
    assert not torch.equal(model[0].weight, twin[0].weight)


def test_loading_leaves_the_rate_of_this_round():
    model = network()
    optimizers = made("adam", model)
    step(model, optimizers, 1)
    later = made("adam", model, rate=0.025)
    load_optimizer_vectors(later, optimizer_vectors(optimizers))
    assert [group["lr"] for one in later for group in one.param_groups] == [0.025, 0.025]


def test_kept_vectors_are_copies():
    model = network()
    optimizers = made("adam", model)
    step(model, optimizers, 1)
    kept = optimizer_vectors(optimizers)
    before = {name: value.copy() for name, value in kept.items()}
    other = made("adam", network())
    load_optimizer_vectors(other, kept)
    step(model, other, 2)
    step(model, optimizers, 2)
    assert all(np.array_equal(kept[name], before[name]) for name in kept)


def test_cosine_schedule_by_hand():
    settings = Training(rounds=4, learning_rate=0.8, schedule="cosine")
    root = math.sqrt(0.5)
    expected = [0.8, 0.4 * (1 + root), 0.4, 0.4 * (1 - root)]
    np.testing.assert_allclose([settings.rate(number) for number in (1, 2, 3, 4)], expected, rtol=1e-12)
    constant = Training(rounds=4, learning_rate=0.8)
    assert [constant.rate(number) for number in (1, 4)] == [0.8, 0.8]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"loss": "l3"}, "Did you mean 'l1'"),
        ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
        ({"optimizer": "adagrad"}, "'adam', 'adamw', 'sgd' or 'rmsprop'"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_wrong_settings_are_refused(block, message):
    with pytest.raises(InputError, match=message):
        parse(Training, block, "training")


def test_threads_are_set_and_put_back():
    before = torch.get_num_threads()
    inside = []

    def fails():
        with threads(before + 1):
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before


def test_bfloat16_is_autocast_and_float32_is_not():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    cpu = torch.device("cpu")
    with autocast("bfloat16", cpu):
        assert layer(x).dtype == torch.bfloat16
        assert torch.fft.fft2(x.to(torch.complex64)).dtype == torch.complex64
    with autocast("float32", cpu):
        assert layer(x).dtype == torch.float32


class Counted:
    """Seven slices; a batch is a list of their numbers."""

    device = torch.device("cpu")
    items = range(7)

    def __len__(self):
        return 7

    def batches(self, size, request=None):
        items = list(range(7)) if request is None else [int(i) for i in request.permutation(7)]
        return [items[i : i + size] for i in range(0, 7, size)]

    def per_pass(self, size):
        return len(self.batches(size))

    def per_pass_of_sites(self, size):
        return [self.per_pass(size)]

    def training(self, items, seed, epoch, augment, patch):
        return epoch, items


class Noting:
    """A method that notes what it was given and learns nothing."""

    def __init__(self):
        self.seen = []

    updates = Local().updates

    def step(self, fit, batch):
        assert fit.indices == tuple(batch[1])
        self.seen.append((fit.round, fit.epoch, fit.batch, *batch))
        return {"loss": torch.tensor(1.0)}


def noted(rounds=3, **settings):
    method, slices = Noting(), Counted()
    training = Training(rounds=rounds, batch_size=3, **settings)
    for number in range(1, rounds + 1):
        request = TrainRequest(number, np.zeros(0, np.float32))
        fit = LocalFit("a", request, network(), None, training, 0.1, torch.Generator(), {}, ("a",))
        steps, losses = train(method, fit, slices, seed=5)
        assert losses == {"loss": 1.0}
        assert steps == sum(one[0] == number for one in method.seen)
    return method.seen


def test_a_pass_that_a_round_leaves_unfinished_goes_on_in_the_next():
    """Three batches a pass and two steps a round: passes 0, 0 | 0, 1 | 1, 1, and no slice more often than another."""
    seen = noted(local_steps=2)
    assert [(number, epoch, batch, over_all) for number, epoch, batch, over_all, _ in seen] == [
        (1, 0, 0, 0), (1, 0, 1, 0), (2, 0, 2, 0), (2, 1, 0, 1), (3, 0, 1, 1), (3, 0, 2, 1),
    ]  # fmt: skip
    assert sorted(i for *_, items in seen for i in items) == sorted([*range(7)] * 2)


def test_steps_that_make_whole_passes_are_epochs():
    assert noted(local_steps=6) == noted(local_epochs=2)
    assert [one[1] for one in noted(rounds=1, local_steps=7)] == [0, 0, 0, 1, 1, 1, 2]


def test_a_site_with_few_slices_passes_over_them_as_often_as_it_takes():
    few = noted(rounds=1, local_steps=12)
    assert [one[3] for one in few] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    requests = [[i for one in few if one[3] == k for i in one[4]] for k in range(4)]
    assert all(sorted(one) == list(range(7)) for one in requests)
    assert len({tuple(one) for one in requests}) == 4


class Drawing(Noting):
    """A method that draws from the global generator, as a layer does."""

    def step(self, fit, batch):
        self.seen.append(torch.rand(2))
        return {"loss": torch.tensor(1.0)}


def test_what_a_layer_draws_follows_from_seed_round_and_site_and_leaves_the_global_generator_alone():
    method = Drawing()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    for number, site in ((1, "a"), (2, "a"), (1, "b"), (1, "a")):
        request = TrainRequest(number, np.zeros(0, np.float32))
        training = Training(batch_size=7, local_steps=1)
        fit = LocalFit(site, request, network(), None, training, 0.1, torch.Generator(), {}, ("a", "b"))
        torch.set_rng_state(before)
        train(method, fit, Counted(), seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        wanted = torch.Generator().manual_seed(seed(5, "dropout", number, site))
        assert torch.equal(method.seen[-1], torch.rand(2, generator=wanted))
    assert len({tuple(one.tolist()) for one in method.seen}) == 3


WITH_DROPOUT = {
    "unet": UNET,
    "dual_domain": {"channels": 2, "pools": 1},
    "unrolled": {"cascades": 1, "channels": 2, "pools": 1, "sensitivity_channels": 2},
    "film": {"cascades": 1, "channels": 2, "pools": 1, "hidden": 4},
}


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_is_the_same_whatever_the_global_generator_holds(name, consortium):
    def replies(held, rate):
        chosen = {**WITH_DROPOUT[name], "name": name, "dropout": rate}
        one = Federation(FedAvg(), consortium, network=chosen, rounds=1)
        executor, request = one.executor(), one.method.request(one.begin())
        for number in held:  # asked so often for one round; a reply is a view of its site's network
            torch.manual_seed(number)
            found = [reply.shared.tobytes() for reply in executor.fit(request)]
        return found

    first = replies([1], 0.3)
    assert len(first) == len(N_TRAIN)
    assert replies([2, 3], 0.3) == first
    assert replies([1], 0.0) != first


def test_a_fine_tune_draws_dropout_by_seed_and_site(consortium):
    def tuned(held, number, site="north"):
        one = Federation(FedAvg(), consortium, network={**UNET, "dropout": 0.3}, rounds=1)
        member = one.executor().sites["north"]
        torch.manual_seed(held)
        names, slices = member.parameters.names(shared=True), member.slices("train")
        fine_tune(member.model, names, slices, member.plan.training, number, site, 1)
        return member.parameters.flat.detach().numpy().tobytes()

    assert tuned(1, 0) == tuned(2, 0)
    assert len({tuned(1, 0), tuned(1, 1), tuned(1, 0, "other")}) == 3


def test_keys_that_came_later_leave_older_digests_alone():
    later = {"local_steps", "max_slices", "ssdu", "patch", "keep", "patience", "start"}
    assert set(Training().science()) == set(Training().model_dump()) - later
    assert set(Evaluation().science()) == set(Evaluation().model_dump()) - {"self_ensemble", "reference"}
    assert Evaluation(self_ensemble=True).science()["self_ensemble"] is True
    assert Training(patch=16).science()["patch"] == 16
    assert Training(loss="ssdu", augment=False).science()["ssdu"] == {"ratio": 0.4, "selection": "gaussian"}
    assert Training(local_steps=3).science()["local_steps"] == 3
    assert Training(max_slices={"a": 2}).slices_at("a") == 2
    assert Training(max_slices={"a": 2}).slices_at("b") is None
    assert Training(max_slices=4).slices_at("b") == 4
