"""Strategies of other kinds in miniature, to try the contract on; each is only its difference from FedAvg."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon.sites.imaging.measurement import Images, Measurement
from fedrecon.sites.method import Fit, Subject
from fedrecon.sites.seeding import torch_generator
from fedrecon.strategies.strategy import Strategy


class Adversarial(nn.Module):
    """A generator and a discriminator in one module; a site draws fakes under its own label."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        y, x = images.size
        self.sites, self.size = images.sites, images.size
        self.generator = nn.Sequential(
            nn.Linear(4 + len(images.sites), 2 * (y // 4) * (x // 4)),
            nn.Unflatten(1, (2, y // 4, x // 4)),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=4, mode="bilinear"),
            nn.Conv2d(2, 1, 3, padding=1),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 4, 4, stride=4),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(4 * (y // 4) * (x // 4), 1),
        )

    def draw(self, latents: Tensor, site: str) -> Tensor:
        """(b, 4) latents to (b, y, x) images of that site."""
        label = torch.zeros(len(latents), len(self.sites))
        label[:, self.sites.index(site)] = 1
        image: Tensor = self.generator(torch.cat([latents, label], dim=1))[:, 0]
        return image


class GenerativePrior(Strategy):
    """As FedGIMP: a shared generator, private discriminators, and a reconstruction that adapts a copy per subject."""

    neutral: ClassVar[None] = None
    not_neutral: ClassVar[str] = "another network and another loss"
    trains_on_operator: ClassVar[bool] = False

    adaptation_steps: int = 4

    def weights(self, n_slices: Mapping[str, int]) -> dict[str, float]:
        return {member: 1 / len(n_slices) for member in n_slices}

    def build(self, network: Any, images: Images) -> nn.Module:
        return Adversarial(images)

    def shares(self, name: str, network: nn.Module) -> bool:
        return name.startswith("generator.")

    def optimizers(self, fit: Fit) -> list[torch.optim.Optimizer]:
        model: Any = fit.model
        return [
            torch.optim.Adam(part.parameters(), fit.rate, betas=(0.0, 0.99))
            for part in (model.generator, model.discriminator)
        ]

    def step(self, fit: Fit, batch: Measurement) -> Mapping[str, Tensor]:
        model: Any = fit.model
        assert batch.reference is not None
        real = batch.reference / batch.reference.amax((-2, -1), keepdim=True)
        for_generator, for_discriminator = fit.optimizers
        fake = model.draw(torch.randn(len(real), 4, generator=fit.generator), fit.site)
        for_discriminator.zero_grad()
        judged = F.softplus(model.discriminator(fake.detach()[:, None])) + F.softplus(
            -model.discriminator(real[:, None])
        )
        judged.mean().backward()
        for_discriminator.step()
        for_generator.zero_grad()
        loss = F.softplus(-model.discriminator(fake[:, None])).mean()
        loss.backward()
        for_generator.step()
        return {"loss": loss.detach(), "discriminator": judged.mean().detach()}

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        names = ("adapt", subject.site, *subject.subjects, *subject.slices)
        start = torch.randn(len(measurement.scale), 4, generator=torch_generator(subject.seed, *names))
        scale = measurement.scale[:, None, None]
        with torch.enable_grad():  # scoring runs without gradients
            prior: Any = copy.deepcopy(network)
            latents = start.clone().requires_grad_()
            optimizer = torch.optim.Adam([latents, *prior.generator.parameters()], 0.01)
            for _ in range(self.adaptation_steps):
                optimizer.zero_grad()
                image = scale * prior.draw(latents, subject.site)
                residual = measurement.operator.forward(image.to(torch.complex64)) - measurement.kspace
                # the unmeasured samples of the forward model are zero on both sides
                torch.view_as_real(residual / scale[:, None]).square().mean().backward()
                optimizer.step()
            image = (scale * prior.draw(latents, subject.site)).detach().to(torch.complex64)
        return measurement.operator.project(image, measurement.kspace)


@dataclass(frozen=True)
class Toy:
    """A strategy with what it needs of the experiment."""

    kind: type[Strategy]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


TOYS: dict[str, Toy] = {
    "generative_prior": Toy(GenerativePrior),
    "generative_prior_keep": Toy(GenerativePrior, training={"optimizer_state": "keep"}),
}
