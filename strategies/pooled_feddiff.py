"""Pooled FedDiff: the diffusion prior with all data in one place, the control with which FedDiff is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.plugin import refuse_idle
from fedrecon.strategies.feddiff import FedDiff
from fedrecon.strategies.pooled import Pooled

if TYPE_CHECKING:
    from fedrecon.sites.training.settings import Training


class PooledFedDiff(FedDiff, Pooled):
    """One member trains the denoiser of FedDiff on the slices of all sites; the reconstruction is FedDiff's.

    The member is no site, so no site has a code: the denoiser is unconditional, as that of ``feddiff`` is with
    ``without_site=1``, which is the twin to compare with.

    Attributes:
        allow_pooling, budget: see :class:`fedrecon.strategies.pooled.Pooled`. All others: see ``feddiff``.
    """

    not_personal: ClassVar[str] = Pooled.not_personal

    @property
    def trains_codes(self) -> bool:
        """No site is a member, so none has a code."""
        return False

    def check(self, training: Training) -> None:
        """Refuses what only a federation has.

        Raises:
            ValueError: private parts, a proximal term, or a key of codes or of weights.
        """
        super().check(training)
        if self.private or self.mu:
            key = "private" if self.private else "mu"
            raise ValueError(f"strategy.{key}: one member holds all data, so there is no other to keep it from or near")
        refuse_idle(self, ("weighting",), "strategy", "there is one member")
        if self.without_site != 1:  # which is what it does
            refuse_idle(self, ("without_site",), "strategy", "no site has a code")
