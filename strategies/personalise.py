"""Personalising: the last rounds of a training are local, from the shared weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedrecon.sites.plugin import Settings
from fedrecon.strategies.partial import within
from fedrecon.strategies.strategy import Strategy

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedrecon.sites.training.method import LocalFit


class LocalRounds(Strategy):
    """The hooks of a local round: the plain loss, and one optimiser over what the site trains for itself.

    Neither the method's own terms (a distance to the shared weights, a control variate) nor its server act in it.
    """

    paper = ""

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """One optimiser over the personal and the private parameters; the others stay as they were shared."""
        from fedrecon.sites.training.optimizers import optimizer

        named, own = dict(fit.model.named_parameters()), fit.parameters.local_names
        return [optimizer(fit.training.optimizer, [named[name] for name in own if name in named], fit.rate)]


class Personalise(Settings):
    """The key ``personalise`` of a strategy's block.

    In the last ``rounds`` of the training each site goes on from the shared weights, alone. What it trains then is
    private: it stays in the memory of the site.

    Attributes:
        rounds: number of local rounds, among ``training.rounds``; 0 is the method without them.
        parts: what is trained in them: ``all``, ``head``, ``norm``, or parts of the network and beginnings of the
            names of parameters. What is not named stays as it was shared.
    """

    rounds: int = Field(0, ge=0, le=10**6)
    parts: Literal["all", "head", "norm"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"

    def takes(self, name: str, network: nn.Module) -> bool:
        """Whether a shared parameter becomes the site's own in the local rounds.

        Raises:
            InputError: ``parts`` names something that this network does not have.
        """
        entries = (self.parts,) if isinstance(self.parts, str) else self.parts
        return self.parts == "all" or any(within(name, one, network, "strategy.personalise.parts") for one in entries)

    def local(self, round_number: int, rounds: int) -> bool:
        """Whether this round of ``rounds`` is a local one."""
        return round_number > rounds - self.rounds

    @property
    def method(self) -> LocalRounds:
        """The hooks of a local round."""
        return LocalRounds()
