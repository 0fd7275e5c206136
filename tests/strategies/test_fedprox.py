"""The proximal term: its value by hand and its gradient by finite differences."""

import numpy as np
import torch
from torch import nn

from fedrecon.sites.training.method import LocalFit
from fedrecon.sites.training.parameters import Parameters
from fedrecon.sites.training.settings import Training
from fedrecon.sites.wire import TrainRequest
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.fedprox import FedProx


class Scale(nn.Module):
    """Two shared numbers, one private and a buffer; the loss is made by the test."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.own = nn.Parameter(torch.tensor([5.0]))
        self.register_buffer("statistic", torch.tensor([9.0]))


def prepare(monkeypatch, mu):
    monkeypatch.setattr(FedAvg, "loss", lambda self, fit, batch: (fit.model.shared * batch).sum())
    model = Scale()
    parameters = Parameters(model, lambda name: name != "own")
    request = TrainRequest(1, np.array([1, 2, 9], np.float32))
    fit = LocalFit("a", request, model, parameters, Training(), 0.1, torch.Generator(), {}, ("a",))
    method = FedProx(mu=mu)
    method.receive(fit)
    return method, fit, model


def test_value_by_hand(monkeypatch):
    method, fit, model = prepare(monkeypatch, mu=0.5)
    batch = torch.tensor([3.0, -1.0])
    assert method.loss(fit, batch).item() == 1.0  # at w = w_t the term is zero: 3 * 1 - 1 * 2
    with torch.no_grad():
        model.shared += torch.tensor([2.0, -4.0])
        model.own += 100
        model.statistic += 100
    # 3 * 3 - 1 * (-2) + 0.5 / 2 * (4 + 16), the private parameter and the statistic not counted
    assert method.loss(fit, batch).item() == 11 + 5


def test_gradient_by_finite_differences(monkeypatch):
    method, fit, model = prepare(monkeypatch, mu=0.5)
    batch, step = torch.tensor([3.0, -1.0]), 0.25  # exact: the loss is quadratic
    with torch.no_grad():
        model.shared += torch.tensor([2.0, -4.0])
    method.loss(fit, batch).backward()
    for i in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                model.shared[i] += sign * step
                values.append(method.loss(fit, batch).item())
                model.shared[i] -= sign * step
        assert model.shared.grad[i].item() == (values[0] - values[1]) / (2 * step)
    assert model.shared.grad.tolist() == [3 + 0.5 * 2, -1 + 0.5 * -4]
    assert model.own.grad is None


def test_w_t_is_a_copy_of_what_came_down(monkeypatch):
    method, fit, _ = prepare(monkeypatch, mu=2.0)
    with torch.no_grad():
        fit.parameters.shared.zero_()
    assert method.loss(fit, torch.zeros(2)).item() == 1.0 * (1 + 4)
