"""What a site asks of a strategy: the hooks of the local loop. Strategies (one floor up) implement them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.parameters import Parameters
    from fedrecon.sites.training.settings import Training
    from fedrecon.sites.wire import TrainRequest, Vector


@dataclass
class LocalFit:
    """One local fit as the hooks see it: everything explicit, nothing global.

    Attributes:
        site: the member that trains. round: of the order. order: what came down.
        model, parameters: the network and its flat vector (already loaded).
        optimizers: made by the strategy's ``optimizers``.
        memory: private vectors that the site keeps over rounds, by name (control variates, averages); on the CPU.
        training: the settings. rate: this round's learning rate.
        generator: a CPU generator seeded by (seed, round, site): draw noise here and move it.
        n_slices: training slices of the site. indices: which of them are in this batch.
        epoch: passes over the data in this fit, from 0. batch: its place within the pass, from 0.
        sites: names of all sites of the experiment.
        noted: further losses of this batch to record, by name, written by the strategy's ``loss``.
        scratch: tensors that live for this fit alone.
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
        """The shared parameters of the network, in the order of the flat vector; buffers are none."""
        named = dict(self.model.named_parameters())
        return [named[slot.name] for slot in self.parameters.slots if slot.shared and slot.name in named]

    def cut(self, flat: Tensor) -> list[Tensor]:
        """A vector of the length of the shared one as views, one for each tensor of :meth:`shared`."""
        named = dict(self.model.named_parameters())
        slots = [slot for slot in self.parameters.slots if slot.shared and slot.name in named]
        return [flat[slot.start : slot.stop].view(slot.shape) for slot in slots]


@dataclass(frozen=True)
class Subject:
    """Whose slices are reconstructed together, all of one site: what a method that adapts seeds and logs by."""

    site: str
    subjects: tuple[str, ...]
    slices: tuple[int, ...]
    seed: int


class Method(Protocol):
    """The site's side of a strategy; see :class:`fedrecon.strategies.Strategy`, which has it all.

    Attributes:
        remembers: the method keeps vectors in ``fit.memory`` over rounds.
        trains_on_operator, private_reconstructs: see there.
    """

    remembers: ClassVar[bool]
    trains_on_operator: ClassVar[bool]
    private_reconstructs: ClassVar[bool]

    def build(self, network: Any, images: Images) -> nn.Module:
        """The module that a site trains."""
        ...

    def shares(self, name: str, network: nn.Module) -> bool:
        """Whether the parameter of this name crosses the wall."""
        ...

    def receive(self, fit: LocalFit) -> None:
        """Called when an order has been loaded, before the local epochs."""
        ...

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """The optimisers of this fit."""
        ...

    def step(self, fit: LocalFit, batch: Measurement) -> Mapping[str, Tensor]:
        """One optimiser step on one batch; the losses to record, ``loss`` first."""
        ...

    def reply(self, fit: LocalFit, steps: int) -> Mapping[str, Vector]:
        """What goes up beside the shared parameters."""
        ...

    def draw(self, network: nn.Module, site: str, count: int, draws: torch.Generator) -> Tensor:
        """(count, y, x) magnitude images that a prior draws for a site."""
        ...

    def scoring_batch(self, usual: int) -> int:
        """Slices that are reconstructed together when scored."""
        ...

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """(b, y, x) complex64 from one measurement."""
        ...
