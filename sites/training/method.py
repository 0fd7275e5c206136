"""The hooks of a strategy that a site calls in its local loop. Strategies (one floor up) implement them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.batches import Slice
    from fedrecon.sites.training.parameters import Parameters
    from fedrecon.sites.training.settings import Training
    from fedrecon.sites.wire import TrainRequest, Vector


@dataclass
class LocalFit:
    """The state of one local fit. Hooks get everything from it, nothing from global state.

    Attributes:
        site: name of the member that trains.
        request: the server's request.
        model: the network, with the request's parameters loaded.
        parameters: the flat vector of the network's parameters.
        training: the experiment's training settings.
        rate: learning rate of this round.
        generator: CPU generator seeded by (seed, round, site). Draw noise with it and move the noise to the device.
        memory: private vectors that the site keeps from round to round, by name (control variates, averages), on the
            CPU.
        sites: names of all sites of the experiment.
        optimizers: the optimisers that the strategy's ``optimizers`` made.
        n_slices: number of training slices of the site.
        indices: positions of this batch's slices among the training slices.
        epoch: number of the pass over the data within this fit, from 0.
        batch: number of the batch within the pass, from 0.
        scratch: tensors that only this fit needs, by name.
        noted: further losses of this batch to record, by name; the strategy's ``loss`` writes them.
    """

    site: str
    request: TrainRequest
    model: nn.Module
    parameters: Parameters
    training: Training
    rate: float
    generator: torch.Generator
    memory: dict[str, Vector]
    sites: Sequence[str]
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    n_slices: int = 0
    indices: tuple[int, ...] = ()
    epoch: int = 0
    batch: int = 0
    scratch: dict[str, Any] = field(default_factory=dict)
    noted: dict[str, Tensor] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The round that is trained."""
        return self.request.round

    def shared(self) -> list[Tensor]:
        """The shared parameters of the network in the order of the flat vector, without buffers."""
        named = dict(self.model.named_parameters())
        return [named[slot.name] for slot in self.parameters.slots if slot.shared and slot.name in named]

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Views of ``flat``, one for each tensor of :meth:`shared`; ``flat`` has the length of the shared vector."""
        named = dict(self.model.named_parameters())
        slots = [slot for slot in self.parameters.slots if slot.shared and slot.name in named]
        return [flat[slot.start : slot.stop].view(slot.shape) for slot in slots]


@dataclass(frozen=True)
class Subject:
    """The slices that are reconstructed together. All belong to one site.

    A method that adapts to each slice derives its seeds and its site label from them.

    Attributes:
        site: name of the site whose code a prior takes; empty takes the mean of all sites' codes.
        subjects: subject of each slice.
        slices: index of each slice in its volume.
        seed: the experiment's seed.
    """

    site: str
    subjects: tuple[str, ...]
    slices: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, items: Sequence[Slice], seed: int) -> Subject:
        """These slices of one site."""
        return cls(items[0].site, tuple(i.volume.subject for i in items), tuple(i.index for i in items), seed)


class Method(Protocol):
    """The hooks and flags of a strategy that a site uses; see :class:`fedrecon.strategies.Strategy`.

    Attributes:
        remembers: True if the method keeps vectors in ``fit.memory`` from round to round.
        trains_on_operator: False if the training never sees the imaging operator (a generative prior).
        private_reconstructs: False if the private parameters serve training alone (a discriminator).
        has_spread: whether the method tells the spread of its error.
    """

    remembers: ClassVar[bool]
    trains_on_operator: ClassVar[bool]
    private_reconstructs: ClassVar[bool]

    @property
    def has_spread(self) -> bool:
        """Whether :meth:`spread` can be asked."""
        ...

    def build(self, network: Any, images: Images) -> nn.Module:
        """The module that a site trains."""
        ...

    def updates(self, training: Training, per_pass: int, per_pass_of_sites: Sequence[int]) -> int:
        """The number of optimiser steps of a round."""
        ...

    def shares(self, name: str, network: nn.Module) -> bool:
        """Whether the parameter of this name is shared, so that it crosses the wall."""
        ...

    def receive(self, fit: LocalFit) -> None:
        """Called after a request has been loaded, before the local loop."""
        ...

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """The optimisers of this fit."""
        ...

    def step(self, fit: LocalFit, batch: Measurement) -> Mapping[str, Tensor]:
        """Takes one optimiser step on one batch. Returns the losses to record, ``loss`` first."""
        ...

    def reply(self, fit: LocalFit, steps: int) -> Mapping[str, Vector]:
        """The vectors that go up beside the shared parameters, by name."""
        ...

    def draw(self, network: nn.Module, site: str, count: int, draws: torch.Generator, size: tuple[int, int]) -> Tensor:
        """(count, y, x) magnitude images that a prior draws for a site whose slices have the matrix ``size``."""
        ...

    def scoring_batch(self, usual: int) -> int:
        """The number of slices that are reconstructed together when they are scored; ``usual`` is the default."""
        ...

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """The reconstruction of one measurement, (b, y, x) complex64."""
        ...

    def spread(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """The standard deviation of each pixel's magnitude, (b, y, x) float32."""
        ...
