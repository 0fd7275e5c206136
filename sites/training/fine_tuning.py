"""A short local training, at a site that did not take part in the federation."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fedrecon.sites.seeding import generator, seeded
from fedrecon.sites.training import losses
from fedrecon.sites.training.local_loop import autocast
from fedrecon.sites.training.optimizers import optimizer

if TYPE_CHECKING:
    from torch import nn

    from fedrecon.sites.training.batches import Slices
    from fedrecon.sites.training.settings import Training


def fine_tune(
    model: nn.Module, names: Collection[str], slices: Slices, training: Training, seed: int, site: str, epochs: int
) -> None:
    """Trains the parameters ``names`` of ``model`` in place; the others do not change.

    The loss, optimiser, first learning rate, batch size and augmentation are the experiment's. The order of the slices
    follows from (seed, site, epoch) alone, and the masks follow from these and from the slice; dropout follows from
    (seed, site).
    """
    named = dict(model.named_parameters())
    own = [named[name] for name in names if name in named]
    one = optimizer(training.optimizer, own, training.learning_rate)
    model.train()
    with seeded(slices.device, seed, "dropout", "fine-tune", site):
        for epoch in range(epochs):
            for items in slices.batches(training.batch_size, generator(seed, "fine-tune", site, epoch)):
                batch = slices.training(items, seed, epoch, training.augment, training.patch)
                with autocast(training.precision, slices.device):
                    loss = losses.of(training.loss, model(batch), batch)
                model.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                one.step()
