"""Local: every site trains alone. This control shows whether federation pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.strategies.strategy import Strategy

if TYPE_CHECKING:
    from torch import nn


class Local(Strategy):
    """Nothing crosses the wall: each site trains its own network from the same first weights."""

    paper: ClassVar[str] = ""
    neutral: ClassVar[None] = None
    not_personal: ClassVar[str] = "every round of it is local"
    not_neutral: ClassVar[str] = "nothing is shared, so there is no mean over the sites"

    def shares(self, name: str, network: nn.Module) -> bool:
        """False: no parameter is shared."""
        return False
