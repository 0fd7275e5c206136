"""The local loop's own pieces: optimisers, their vectors, the schedule, the thread count, the losses it returns."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import parse
from fedrecon.sites.settings import Training
from fedrecon.sites.training import (
    OPTIMIZERS,
    autocast,
    load_optimizer_vectors,
    optimizer,
    optimizer_vectors,
    threads,
)


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
