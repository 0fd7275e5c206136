"""SCAFFOLD: control variates correct the drift of each site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedrecon.sites.wire import State
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.mean import Mean, checked

if TYPE_CHECKING:
    from fedrecon.sites.training.method import LocalFit
    from fedrecon.sites.wire import Buffers, TrainReply, Vector


class Scaffold(FedAvg):
    """Moves every gradient at site i by c - c_i (Karimireddy et al., ICML 2020, algorithm 1, all sites every round).

    c_i estimates the site's own gradient and stays at the site; c is the mean of all c_i, with the weights of the mean
    of the parameters: with others, the sites would drift to the minimum of another objective. (The paper weighs all
    sites alike, ``weighting: uniform``.) c goes down with the parameters, and the change of c_i goes up. So each
    direction takes twice FedAvg's bytes.

    Our reading of the paper: the new c_i is the mean of the uncorrected gradients of the local steps. With plain SGD
    this IS option II of the paper, c_i - c + (x - y_i) / (K eta), up to rounding, because the K steps add up to
    x - y_i. Ours: with Adam or RMSprop, x - y_i is not a sum of gradients. The mean is still an estimate of the
    gradient, and the optimiser gets the corrected gradient. The server's step size is 1.
    """

    paper: ClassVar[str] = """
        @inproceedings{karimireddy2020scaffold,
            author = {Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank J. and
                Stich, Sebastian U. and Suresh, Ananda Theertha},
            title = {{SCAFFOLD}: Stochastic Controlled Averaging for Federated Learning},
            booktitle = {Proceedings of the 37th International Conference on Machine Learning},
            series = {Proceedings of Machine Learning Research},
            volume = {119},
            pages = {5132--5143},
            year = {2020}
        }
    """
    neutral: ClassVar[None] = None
    not_neutral: ClassVar[str] = "the control variates are part of every step; no parameter turns them off"
    replies: ClassVar[tuple[str, ...]] = ("change",)
    remembers: ClassVar[bool] = True

    @property
    def own_science(self) -> dict[str, Any]:
        """c once weighed all sites alike: under other weights it has digests of its own since then."""
        return {"c": "weighted"} if self.weighting != "uniform" else {}

    # On the server

    def begin(self, weights: Vector, buffers: Buffers | None = None) -> State:
        """c = 0."""
        return replace(super().begin(weights, buffers), extra={"c": np.zeros_like(weights)})

    def merge(self, state: State, replies: Iterable[TrainReply], n_slices: Mapping[str, int]) -> State:
        """The mean of the parameters, and c + sum_i weight_i (change of c_i) over all sites; an absent site adds 0."""
        change = Mean(checked(type(self), self.weights(n_slices), n_slices), len(state.shared))
        merged = super().merge(state, change.folded(replies, "change"), n_slices)
        return replace(merged, extra={"c": state.extra["c"] + change.total})

    # At the site

    def receive(self, fit: LocalFit) -> None:
        """Forms the correction c - c_i, and sets the sum of the gradients to 0."""
        import torch

        c = np.array(fit.request.extra["c"])
        device = fit.parameters.flat.device
        correction = torch.from_numpy(c - fit.memory.get("c_i", np.zeros_like(c))).to(device)
        total = torch.zeros(len(c), device=device)
        fit.scratch["total"] = total
        fit.scratch["each"] = list(zip(fit.shared(), fit.cut(correction), fit.cut(total), strict=True))

    def gradients(self, fit: LocalFit) -> None:
        """Adds the gradient of this step to the sum, then corrects the gradient."""
        for parameter, correction, total in fit.scratch["each"]:
            if parameter.grad is not None:
                total += parameter.grad
                parameter.grad += correction

    def reply(self, fit: LocalFit, steps: int) -> Mapping[str, Vector]:
        """Keeps the new c_i at the site and sends the change of c_i as ``change``."""
        mean: Vector = (fit.scratch["total"] / max(steps, 1)).cpu().numpy()
        before = fit.memory.get("c_i", np.zeros_like(mean))
        fit.memory["c_i"] = mean
        return {"change": mean - before}
