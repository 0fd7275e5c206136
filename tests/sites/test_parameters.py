"""One flat vector: layout, views, and what happens to a module that lives on it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fedrecon.sites.training.parameters import Parameters, initialise, to_vector


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        self.inner = nn.Sequential(nn.Linear(2, 1))
        self.norm = nn.BatchNorm1d(1)
        with torch.no_grad():
            self.inner[0].weight.copy_(torch.tensor([[5.0, 6.0]]))
            self.inner[0].bias.fill_(7.0)

    def forward(self, x):
        return self.norm(self.inner(x @ self.own))


def shares(name):
    return name != "own"


def test_shared_come_first_in_the_models_order():
    parameters = Parameters(Net(), shares)
    assert [slot.name for slot in parameters.slots] == [
        "inner.0.weight",
        "inner.0.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "own",
    ]
    assert parameters.flat.tolist() == [5, 6, 7, 1, 0, 0, 1, 1, 2, 3, 4]
    assert (parameters.n_shared, parameters.private.tolist()) == (7, [1, 2, 3, 4])
    assert parameters.names(shared=False) == ("own",)


def test_the_module_works_on_views_of_the_vector():
    model, same = Net(), Net()
    parameters = Parameters(model, shares)
    assert all(
        p.untyped_storage().data_ptr() == parameters.flat.untyped_storage().data_ptr() for p in model.parameters()
    )
    parameters.load_shared(np.array([1, 1, 0, 2, 3, 0, 1], np.float32))
    assert model.inner[0].weight.tolist() == [[1, 1]]
    assert (model.norm.weight.item(), model.norm.bias.item()) == (2, 3)
    assert model.own.tolist() == same.own.tolist()
    x = torch.tensor([[1.0, -1.0], [2.0, 5.0], [0.0, 3.0]])
    before = parameters.flat.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(x)[:, 0] * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    optimizer.step()
    assert not torch.equal(parameters.private, before[7:])  # a step moves the vector itself
    assert parameters.named(to_vector(parameters.shared), shared=True)["norm.running_mean"] != 0  # and a forward


def test_the_output_is_that_of_the_module_before():
    model = Net().eval()
    x = torch.tensor([[1.0, -1.0], [2.0, 5.0]])
    expected = model(x)
    Parameters(model, shares)
    assert torch.equal(model(x), expected)


def test_loading_copies_and_never_keeps_its_source():
    parameters = Parameters(Net(), shares)
    values = np.arange(7, dtype=np.float32)
    values.setflags(write=False)
    parameters.load_shared(values)
    parameters.shared.add_(1)
    assert values.tolist() == list(range(7))
    own = np.arange(4, dtype=np.float32)
    parameters.load_private(own)
    own[:] = 9
    assert parameters.private.tolist() == [0, 1, 2, 3]
    kept = to_vector(parameters.shared)
    parameters.shared.zero_()
    assert kept.tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("size", [0, 1, 6, 8])
def test_a_vector_of_another_length_is_refused(size):
    with pytest.raises(ValueError, match=f"got {size} values, the network has 7"):
        Parameters(Net(), shares).load_shared(np.zeros(size, np.float32))


@pytest.mark.parametrize("shared", [True, False])
def test_named_and_joined_are_inverse(shared):
    parameters = Parameters(Net(), shares)
    values = to_vector(parameters.shared if shared else parameters.private)
    named = parameters.named(values, shared)
    assert tuple(named) == parameters.names(shared)
    assert parameters.joined(dict(reversed(named.items())), shared).tobytes() == values.tobytes()


def test_named_arrays_have_the_parameters_shapes():
    parameters = Parameters(Net(), shares)
    assert parameters.named(to_vector(parameters.private), shared=False)["own"].tolist() == [[1, 2], [3, 4]]
    assert parameters.named(to_vector(parameters.shared), shared=True)["inner.0.weight"].tolist() == [[5, 6]]


def test_weights_of_another_network_are_refused():
    parameters = Parameters(Net(), shares)
    with pytest.raises(ValueError, match=r"another network: .*'own'"):
        parameters.joined({}, shared=False)
    with pytest.raises(ValueError, match=r"'own'.*\(2, 2\).*\(4, 1\)"):
        parameters.joined({"own": np.zeros((4, 1), np.float32)}, shared=False)


def test_everything_or_nothing_may_be_shared():
    assert Parameters(Net(), lambda name: True).private.numel() == 0
    nothing = Parameters(Net(), lambda name: False)
    assert (nothing.n_shared, nothing.private.numel()) == (0, 11)
    assert nothing.joined({}, shared=True).size == 0


def test_a_copy_of_the_module_no_longer_moves_the_vector():
    model = Net()
    parameters = Parameters(model, shares)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.own.zero_()
    assert parameters.private.tolist() == [1, 2, 3, 4]


def test_only_float32_is_exchanged():
    with pytest.raises(TypeError, match=r"'own' is torch\.float64"):
        Parameters(Net().double(), shares)


def test_first_weights_follow_from_the_seed_and_the_global_generator_stays():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (initialise(lambda: nn.Linear(3, 2), seed).weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_network_is_laid_out_in_the_memory_that_it_is_given_if_all_of_it_is_shared():
    here = Parameters(Net(), lambda _: True)
    asked = []
    there = Parameters(Net(), lambda _: True, room=lambda n: asked.append(np.zeros(n, np.float32)) or asked[-1])
    assert asked[0].tolist() == here.flat.tolist() == there.flat.tolist()
    there.load_shared(np.arange(len(here.flat), dtype=np.float32))
    assert asked[0].tolist() == list(range(len(here.flat)))
    assert Parameters(Net(), lambda _: True, room=lambda _: None).flat.tolist() == here.flat.tolist()
    Parameters(Net(), shares, room=lambda _: pytest.fail("what is private is in nobody else's memory"))


def test_a_network_that_moves_keeps_its_values_and_trains_in_its_new_memory():
    model, same = Net(), Net()
    parameters = Parameters(model, lambda _: True, lambda name: name == "own")
    before, storage = parameters.flat.tolist(), np.zeros(len(parameters.flat), np.float32)
    owner = model.own
    parameters.move(storage)
    assert storage.tolist() == before
    assert model.own is owner  # an optimizer that holds it goes on
    assert (parameters.shared.tolist(), parameters.private.tolist(), parameters.local.tolist()) == (
        before,
        [],
        [1, 2, 3, 4],
    )
    model(torch.tensor([[1.0, -1.0], [2.0, 5.0]])).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert storage.tolist() == parameters.flat.tolist() != before
    parameters.load_shared(np.arange(11, dtype=np.float32))
    assert storage.tolist() == [*range(11)]
    assert model.own.tolist() == [[7, 8], [9, 10]] != same.own.tolist()
    parameters.move(storage)
    assert storage.tolist() == [*range(11)]
