"""THE local loop: one loop for every strategy. The differences are in the strategy's hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from fedrecon.sites.seeding import generator, seeded

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.training.batches import Slice, Slices
    from fedrecon.sites.training.method import LocalFit, Method


def train(method: Method, fit: LocalFit, slices: Slices, seed: int) -> tuple[int, dict[str, float]]:
    """Trains ``fit.model`` for the local epochs or the local steps of one round.

    Layers that draw from torch's own generators (dropout) draw by (seed, round, site).

    Returns:
        The number of optimiser steps, and each loss by name: its mean over the steps whose ``step`` returned it.
    """
    training = fit.training
    fit.model.train()
    positions = {item: index for index, item in enumerate(slices.items)}
    steps, sums, counts = 0, {}, Counter()  # type: int, dict[str, Tensor], Counter[str]
    with seeded(slices.device, seed, "dropout", fit.round, fit.site):
        for epoch, items in _steps(method, fit, slices, seed):
            batch = slices.training(items, seed, epoch, training.augment, training.patch)
            fit.indices = tuple(positions[item] for item in items)
            with autocast(training.precision, slices.device):
                losses = method.step(fit, batch)
            for name, value in losses.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach().clone()
            counts.update(losses.keys())
            steps += 1
    return steps, {name: float(value) / counts[name] for name, value in sums.items()}


def _steps(method: Method, fit: LocalFit, slices: Slices, seed: int) -> Iterator[tuple[int, list[Slice]]]:
    """The batches of this round, each with the number of its pass over the data, counted from the first round on.

    If ``local_steps`` ends a round within a pass, the next round continues with the next batch of that pass.
    """
    training = fit.training
    per_epoch = max(slices.per_pass(training.batch_size), 1)
    count = method.updates(training, per_epoch, slices.per_pass_of_sites(training.batch_size))
    position, end = (fit.round - 1) * count, fit.round * count
    first = position // per_epoch
    while position < end:
        epoch, begin = divmod(position, per_epoch)
        batches = slices.batches(training.batch_size, generator(seed, "order", fit.site, epoch))
        fit.epoch = epoch - first
        for fit.batch, items in list(enumerate(batches))[begin : begin + end - position]:
            yield epoch, items
            position += 1


def autocast(precision: str, device: torch.device) -> Any:
    """A context of bfloat16 autocast if ``precision`` is bfloat16. FFTs stay complex64."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs the body with ``count`` torch threads.

    The number of threads decides the last bits of a result. So it is set and recorded, and never inherited.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def optimizer_vectors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """The optimisers' moments as flat vectors by name, for the private memory."""
    vectors = {}
    for k, one in enumerate(optimizers):
        for index, state in one.state_dict()["state"].items():
            for name, value in state.items():
                if torch.is_tensor(value):
                    vectors[f"optimizer.{k}.{index}.{name}"] = value.detach().float().cpu().reshape(-1).numpy().copy()
    return vectors


def load_optimizer_vectors(optimizers: list[torch.optim.Optimizer], memory: Mapping[str, Any]) -> None:
    """The inverse of :func:`optimizer_vectors`; an optimiser without moments in the memory stays as it is."""
    for k, one in enumerate(optimizers):
        full = one.state_dict()
        tensors = [p for group in one.param_groups for p in group["params"]]
        for index, parameter in enumerate(tensors):
            prefix = f"optimizer.{k}.{index}."
            entries = {key.removeprefix(prefix): value for key, value in memory.items() if key.startswith(prefix)}
            if entries:
                full["state"][index] = {name: _shaped(name, value, parameter) for name, value in entries.items()}
        one.load_state_dict(full)


def _shaped(name: str, value: Any, parameter: Tensor) -> Tensor:
    tensor = torch.from_numpy(value.copy())
    return tensor[0] if name == "step" else tensor.reshape(parameter.shape).to(parameter.device)
