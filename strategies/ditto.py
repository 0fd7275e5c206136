"""Ditto: FedAvg, and at every site a personal network that is held near the shared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from fedrecon.strategies.fedavg import FedAvg

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.method import LocalFit


class Ditto(FedAvg):
    """A personal network v held near the shared one: L(v) + (lam / 2) ||v - w_t||^2 (Li et al., ICML 2021, alg. 1).

    w_t is the shared network as the server sent it. The shared network is trained as in FedAvg, on the same batches and
    with the same dropout; v has no influence on it. The personal networks stay at the sites and reconstruct there. A
    large ``lam`` holds them at FedAvg's network; 0 trains them as ``local`` does. So ``lam`` leads from one to the
    other, and its best value shows whether federation pays. Each round costs twice FedAvg's training.

    Attributes:
        lam: weight of the distance to the shared network, lambda in the paper.
    """

    paper: ClassVar[str] = """
        @inproceedings{li2021ditto,
            author = {Li, Tian and Hu, Shengyuan and Beirami, Ahmad and Smith, Virginia},
            title = {Ditto: Fair and Robust Federated Learning Through Personalization},
            booktitle = {Proceedings of the 38th International Conference on Machine Learning},
            series = {Proceedings of Machine Learning Research},
            volume = {139},
            pages = {6357--6368},
            year = {2021}
        }
    """
    neutral: ClassVar[None] = None
    not_personal: ClassVar[str] = "each site has a personal network in every round"
    not_neutral: ClassVar[str] = (
        "its shared network is FedAvg's for every lam; its personal network has no counterpart in FedAvg"
    )

    lam: float = Field(0.1, ge=0, le=1e6)

    def build(self, network: Any, images: Images) -> nn.Module:
        """The shared network and a copy of it, the personal network."""
        from fedrecon.strategies.networks.pair import Pair

        return Pair(network.build(images))

    def shares(self, name: str, network: nn.Module) -> bool:
        """Only the shared network crosses the wall."""
        return name.startswith("shared.")

    def receive(self, fit: LocalFit) -> None:
        """Keeps w_t beside each parameter of the personal network."""
        model: Any = fit.model
        pairs = zip(model.personal.parameters(), model.shared.parameters(), strict=True)
        fit.scratch["w_t"] = [(v, w.detach().clone()) for v, w in pairs]

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """One optimiser for each network."""
        from fedrecon.sites.training.optimizers import optimizer

        model: Any = fit.model
        parts = (model.shared, model.personal)
        return [optimizer(fit.training.optimizer, part.parameters(), fit.rate) for part in parts]

    def step(self, fit: LocalFit, batch: Measurement) -> Mapping[str, Tensor]:
        """One step of the shared network, then one of the personal network on the same batch, with the same dropout."""
        from fedrecon.sites.seeding import same_draws
        from fedrecon.sites.training import losses

        model: Any = fit.model
        again = same_draws(fit.parameters.flat.device)
        shared = losses.of(fit.training.loss, model.shared(batch), batch)
        again()
        terms = losses.terms(fit.training.loss, model.personal(batch), batch)
        personal = losses.total(terms)
        near: Any = sum((v - w).square().sum() for v, w in fit.scratch["w_t"]) if self.lam else 0
        for optimizer, loss in zip(fit.optimizers, (shared, personal + 0.5 * self.lam * near), strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        noted = {name: value.detach() for name, value in terms.items()} if len(terms) > 1 else {}
        return {"loss": personal.detach(), "shared_loss": shared.detach(), **noted}
