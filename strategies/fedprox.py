"""FedProx: FedAvg with a proximal term that holds each site near the server's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from fedrecon.strategies.fedavg import FedAvg

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.training.method import LocalFit


class FedProx(FedAvg):
    """Adds (mu / 2) ||w - w_t||^2 to the local loss (Li et al., MLSys 2020, eq. 2), over the shared parameters.

    Attributes:
        mu: weight of the proximal term; 0 is FedAvg.
    """

    paper: ClassVar[str] = """
        @inproceedings{li2020fedprox,
            author = {Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and Talwalkar, Ameet and
                Smith, Virginia},
            title = {Federated Optimization in Heterogeneous Networks},
            booktitle = {Proceedings of Machine Learning and Systems},
            volume = {2},
            pages = {429--450},
            year = {2020}
        }
    """
    neutral: ClassVar[Mapping[str, Any] | None] = {"mu": 0.0}

    mu: float = Field(0.01, ge=0, le=1e6)

    def receive(self, fit: LocalFit) -> None:
        """Keeps w_t, the shared parameters that the server sent."""
        fit.scratch["w_t"] = list(zip(fit.shared(), fit.cut(fit.parameters.shared.clone()), strict=True))

    def loss(self, fit: LocalFit, batch: Measurement) -> Tensor:
        """The experiment's loss plus the proximal term."""
        loss = super().loss(fit, batch)
        if self.mu == 0:
            return loss
        distance: Tensor = sum((w - w_t).square().sum() for w, w_t in fit.scratch["w_t"])
        return loss + 0.5 * self.mu * distance
