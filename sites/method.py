"""What a site asks of a strategy: the hooks of the local loop. Strategies (one floor up) implement them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.parameters import Parameters
    from fedrecon.sites.settings import Training
    from fedrecon.sites.wire import Order, Vector


@dataclass
class Fit:
    """One local fit as the hooks see it: everything explicit, nothing global.

    Attributes:
        site: the member that trains. round: of the order. order: what came down.
        model, parameters: the network and its flat vector (already loaded).
        optimizers: made by the strategy's ``optimizers``.
        memory: private vectors that the site keeps over rounds, by name (control variates, averages); on the CPU.
        training: the settings. rate: this round's learning rate.
        generator: a CPU generator seeded by (seed, round, site): draw noise here and move it.
        epoch, batch: counters within this fit, from 0.
        scratch: tensors that live for this fit alone.
    """

    site: str
    order: Order
    model: nn.Module
    parameters: Parameters
    training: Training
    rate: float
    generator: torch.Generator
    memory: dict[str, Vector]
    sites: Sequence[str]
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    epoch: int = 0
    batch: int = 0
    scratch: dict[str, Any] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The round that is trained."""
        return self.order.round


@dataclass(frozen=True)
class Subject:
    """Whose slices are reconstructed: what a method that adapts per subject seeds and logs by."""

    site: str
    subjects: tuple[str, ...]
    slices: tuple[int, ...]
    seed: int


class Method(Protocol):
    """The site's side of a strategy."""

    def build(self, network: Any, images: Images) -> nn.Module: ...

    def shares(self, name: str, network: nn.Module) -> bool: ...

    def receive(self, fit: Fit) -> None: ...

    def optimizers(self, fit: Fit) -> list[torch.optim.Optimizer]: ...

    def step(self, fit: Fit, batch: Measurement) -> Mapping[str, Tensor]: ...

    def reply(self, fit: Fit, steps: int) -> Mapping[str, Vector]: ...

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor: ...
