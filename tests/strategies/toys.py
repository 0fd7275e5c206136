"""Strategies of other kinds in miniature, to try the contract on; each is only its difference from FedAvg."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon.sites.imaging.measurement import Images, Measurement
from fedrecon.sites.method import Fit, Subject
from fedrecon.sites.seeding import torch_generator
from fedrecon.sites.wire import Order, Reply, State, Vector
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.strategy import Mean, Strategy


class Partial(FedAvg):
    """The network's ``private`` parts stay at the site (FedPer, LG-FedAvg, FedBN by another choice of parts)."""

    neutral: ClassVar[Mapping[str, Any] | None] = {"private": ()}

    private: tuple[str, ...] = ("decoder", "head")

    def shares(self, name: str, network: Any) -> bool:
        return not name.startswith(tuple(p for part in self.private for p in network.parts[part]))


class Scaffold(Strategy):
    """Control variates (Karimireddy et al., ICML 2020, option II): c goes down, c_i stays, its change goes up."""

    neutral: ClassVar[None] = None
    not_neutral: ClassVar[str] = "the control variates are part of every step"
    remembers: ClassVar[bool] = True

    def begin(self, weights: Vector) -> State:
        return replace(super().begin(weights), extra={"c": np.zeros_like(weights)})

    def merge(self, state: State, replies: Iterable[Reply], n_slices: Mapping[str, int]) -> State:
        change = Mean({member: 1 / len(n_slices) for member in n_slices}, len(state.shared))
        merged = super().merge(state, _also(replies, change), n_slices)
        return replace(merged, extra={"c": state.extra["c"] + change.total})

    def receive(self, fit: Fit) -> None:
        own = fit.memory.get("c_i", np.zeros_like(fit.order.extra["c"]))
        correction = torch.from_numpy(fit.order.extra["c"] - own)
        fit.scratch["correction"] = {
            slot.name: correction[slot.start : slot.stop].view(slot.shape)
            for slot in fit.parameters.slots
            if slot.shared
        }

    def gradients(self, fit: Fit) -> None:
        for name, parameter in fit.model.named_parameters():
            if parameter.grad is not None and name in fit.scratch["correction"]:
                parameter.grad += fit.scratch["correction"][name]

    def reply(self, fit: Fit, steps: int) -> Mapping[str, Vector]:
        own = fit.memory.get("c_i", np.zeros_like(fit.order.extra["c"]))
        trained = fit.parameters.shared.detach().cpu().numpy()
        new = own - fit.order.extra["c"] + (fit.order.shared - trained) / np.float32(steps * fit.rate)
        fit.memory["c_i"] = new
        return {"change": new - own}


def _also(replies: Iterable[Reply], change: Mean) -> Iterator[Reply]:
    for reply in replies:
        change.fold(reply.site, reply.extra["change"])
        yield reply


class ServerAdam(FedAvg):
    """FedAdam (Reddi et al., ICLR 2021): Adam on the server, its moments in the State and never sent."""

    neutral: ClassVar[None] = None
    not_neutral: ClassVar[str] = "no step size makes Adam's step the mean"

    rate: float = 0.01

    def begin(self, weights: Vector) -> State:
        zero = np.zeros_like(weights)
        return State(0, weights, {"m": zero, "v": zero.copy()})

    def order(self, state: State) -> Order:
        return replace(super().order(state), extra={})

    def merge(self, state: State, replies: Iterable[Reply], n_slices: Mapping[str, int]) -> State:
        mean = super().merge(state, replies, n_slices)
        delta = mean.shared - state.shared
        m = np.float32(0.9) * state.extra["m"] + np.float32(0.1) * delta
        v = np.float32(0.99) * state.extra["v"] + np.float32(0.01) * delta**2
        step = np.float32(self.rate) * m / (np.sqrt(v) + np.float32(1e-3))
        return replace(mean, shared=state.shared + step, extra={"m": m, "v": v})


class PreviousEncoders(Partial):
    """As FedMRI's contrast: nearer to the server's encoder, further from every site's of the round before."""

    neutral: ClassVar[Mapping[str, Any] | None] = {"private": (), "weight": 0.0}

    weight: float = 0.01

    def merge(self, state: State, replies: Iterable[Reply], n_slices: Mapping[str, int]) -> State:
        previous: dict[str, Vector] = {}

        def kept() -> Iterator[Reply]:
            for reply in replies:
                previous[f"previous/{reply.site}"] = reply.shared.copy()
                yield reply

        merged = super().merge(state, kept(), n_slices)
        return replace(merged, extra={**state.extra, **previous})

    def receive(self, fit: Fit) -> None:
        fit.scratch["server"] = torch.from_numpy(np.array(fit.order.shared))
        fit.scratch["previous"] = [torch.from_numpy(np.array(one)) for one in fit.order.extra.values()]

    def loss(self, fit: Fit, batch: Measurement) -> Tensor:
        loss = super().loss(fit, batch)
        if self.weight == 0 or not fit.order.extra or fit.batch == 0:
            return loss
        named = dict(fit.model.named_parameters())
        local = torch.cat([named[slot.name].reshape(-1) for slot in fit.parameters.slots if slot.shared])
        far = sum((local - one).abs().mean() for one in fit.scratch["previous"])
        return loss + self.weight * (local - fit.scratch["server"]).abs().mean() / (far + 1e-6)


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
    "shared_encoder": Toy(Partial),
    "lg_fedavg": Toy(Partial, {"private": ("encoder",)}),
    "fedbn": Toy(Partial, {"private": ("norm",)}, {"norm": "batch"}),
    "scaffold": Toy(Scaffold, training={"optimizer": "sgd"}),
    "server_adam": Toy(ServerAdam),
    "previous_encoders": Toy(PreviousEncoders),
    "generative_prior": Toy(GenerativePrior),
    "generative_prior_keep": Toy(GenerativePrior, training={"optimizer_state": "keep"}),
}
