"""FedGIMP: the sites train a generative prior of MR images; inference adapts it to each slice and its operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import refuse_idle
from fedrecon.strategies.adaptation import Adaptation, adapt
from fedrecon.strategies.moving_average import MovingAverage

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.method import LocalFit, Subject
    from fedrecon.sites.training.settings import Training
    from fedrecon.sites.wire import Vector

ANCHORS = "anchors"
"""Name of the latents of the site's training slices in its memory."""
ANCHORS_RATE = 0.05
"""Adam's learning rate for these latents; they are normalised before use."""
STEPS = "discriminator_steps"
"""Name of the number of steps of the site's discriminator in its memory."""
PROBABILITY = "augmentation"
"""Name of the site's present probability of augmentation in its memory."""


class FedGIMP(MovingAverage):
    """A generator conditioned on the site is shared; each site keeps its own discriminator and all moments of Adam.

    Training never sees an imaging operator: one training serves every mask, acceleration and coil set. A reconstruction
    adapts a copy of the generator to each slice (see :class:`fedrecon.strategies.adaptation.Adaptation`).

    As published (in the authors' code, not in the text): non-saturating logistic loss, R1 on real images with gamma 10,
    Adam(0, 0.99) at 0.002, one step of the generator for one step of the discriminator, style mixing 0.9, the uniform
    mean of the generators, fake images only under the site's own label. Ours: a step trains discriminator and generator
    on the same fake images; the discriminator has no further blur; and all parameters that are marked "ours".

    Attributes:
        r1: weight gamma of the R1 penalty.
        r1_every: period of the penalty in steps (ours); the penalty is multiplied by it (as in StyleGAN2).
        mixing: probability that two latents make one image.
        discriminator_rate: the discriminator's learning rate as a multiple of the generator's (ours).
        augmentation: ``none``, or ``adaptive`` (ours): the discriminator sees flipped, rotated, shifted, scaled and
            brightened images. Their probability rises while the discriminator is too sure of the real images (Karras
            et al., NeurIPS 2020).
        augmentation_target: value at which the probability holds the mean sign of the logits of real images.
        augmentation_images: number of images after which the probability can have gone from 0 to 1.
        anchor: weight of the anchors in the generator's loss (ours); 0 has none. Each site keeps one latent, an anchor,
            for every training slice. The anchor loss is the L1 distance between the image of the latent and the slice,
            over four scales.
        anchor_rounds: number of first rounds in which only the anchor loss is trained. They are an initialisation; an
            adversarial start would need thousands of images.
        anchor_rate: factor on the generator's learning rate in these first rounds.
        anchor_spread: standard deviation of the noise that is added to the anchors, so that the generator also learns
            the latents around them.
        moving_average: decay of the moving average of the generator over the rounds (ours), which is scored; 0 scores
            the last mean.
        adaptation: settings of the adaptation to a slice; they do not influence the training.
    """

    paper: ClassVar[str] = """
        @article{elmas2023fedgimp,
            author = {Elmas, Gokberk and Dar, Salman U. H. and Korkmaz, Yilmaz and Ceyani, Emir and Susam, Burak and
                Ozbey, Muzaffer and Avestimehr, Salman and {\\c{C}}ukur, Tolga},
            title = {Federated Learning of Generative Image Priors for {MRI} Reconstruction},
            journal = {IEEE Transactions on Medical Imaging},
            volume = {42},
            number = {7},
            pages = {1996--2009},
            year = {2023},
            doi = {10.1109/TMI.2022.3220757}
        }
    """
    neutral: ClassVar[None] = None
    not_personal: ClassVar[str] = "a prior is adapted to each slice when it reconstructs"
    not_neutral: ClassVar[str] = "another network and another loss"
    trains_on_operator: ClassVar[bool] = False
    network_kind: ClassVar[str] = "prior"
    optimizer_state: ClassVar[str] = "keep"
    loss_falls: ClassVar[bool] = False
    remembers: ClassVar[bool] = True
    private_reconstructs: ClassVar[bool] = False
    at_inference: ClassVar[tuple[str, ...]] = ("adaptation",)

    r1: float = Field(10.0, ge=0, le=1e6)
    r1_every: int = Field(1, ge=1, le=10**6)
    mixing: float = Field(0.9, ge=0, le=1)
    discriminator_rate: float = Field(1.0, gt=0, le=1e6)
    augmentation: Literal["none", "adaptive"] = "none"
    augmentation_target: float = Field(0.6, ge=-1, le=1)
    augmentation_images: int = Field(20000, ge=1, le=10**9)
    anchor: float = Field(0.0, ge=0, le=1e6)
    anchor_rounds: int = Field(0, ge=0, le=10**6)
    anchor_rate: float = Field(5.0, gt=0, le=1e6)
    anchor_spread: float = Field(0.5, ge=0, lt=1)
    adaptation: Adaptation = Adaptation()

    def weights(self, n_slices: Mapping[str, int]) -> dict[str, float]:
        """Uniform, as published."""
        return {member: 1 / len(n_slices) for member in n_slices}

    def check(self, training: Training) -> None:
        """Refuses another optimiser or loss, anchors of augmented slices, and keys that would act on nothing.

        Raises:
            ValueError: the settings do not fit; the message names the key.
        """
        for key in ("optimizer", "loss"):
            if (given := getattr(training, key)) != type(training).model_fields[key].default:
                raise ValueError(f"{key}: fedgimp has its own (Adam, logistic loss); '{given}' would change nothing")
        if self.anchor and training.augment:
            raise ValueError("strategy.anchor ties a latent to each slice, unchanged: set training.augment to false")
        if self.anchor_rounds and not self.anchor:
            raise ValueError("strategy.anchor_rounds without strategy.anchor would train nothing in these rounds")
        if self.augmentation == "none":
            keys = "augmentation_target", "augmentation_images"
            refuse_idle(self, keys, "strategy", "strategy.augmentation is none")
        if not self.anchor:
            refuse_idle(self, ("anchor_rate", "anchor_spread"), "strategy", "strategy.anchor is 0")
        if not self.r1:
            refuse_idle(self, ("r1_every",), "strategy", "strategy.r1 is 0")

    def warnings(self, training: Training, per_pass: Mapping[str, int]) -> Sequence[str]:
        """Says where the discriminator never trains: a short trial of a long recipe has anchor rounds alone."""
        if not 0 < training.rounds <= self.anchor_rounds:
            return ()
        return (
            f"warning: strategy.anchor_rounds ({self.anchor_rounds}) leaves none of the {training.rounds} rounds to "
            "the discriminator",
        )

    def build(self, network: Any, images: Images) -> nn.Module:
        """The generator and the discriminator.

        Raises:
            InputError: the noise maps are to be adapted, and there are none.
        """
        model: Any = super().build(network, images)
        own = self.adaptation
        asked = "noise" in own.variables and own.variables != Adaptation().variables
        if asked and not any(size <= own.noise_to for size in model.generator.synthesizer.noise_sizes):
            raise InputError(
                "strategy.adaptation.variables: noise would change nothing: network.noise_to and "
                "strategy.adaptation.noise_to leave no noise map; name other variables"
            )
        return model  # type: ignore[no-any-return]

    def receive(self, fit: LocalFit) -> None:
        """Takes the latents of the training slices from memory; in the first round it draws them."""
        import torch

        if not self.anchor:
            return
        model: Any = fit.model
        latent = model.generator.mapper.latent
        kept = fit.memory.get(ANCHORS)
        if kept is None:
            values = torch.randn(fit.n_slices, latent, generator=fit.generator)
        else:
            values = torch.from_numpy(kept.copy()).view(-1, latent)
        fit.scratch[ANCHORS] = values.to(fit.parameters.flat.device).requires_grad_()

    def reply(self, fit: LocalFit, steps: int) -> Mapping[str, Vector]:
        """No further vectors go up; the latents go to the site's memory."""
        if self.anchor:
            fit.memory[ANCHORS] = fit.scratch[ANCHORS].detach().cpu().numpy().reshape(-1).copy()
        return {}

    def shares(self, name: str, network: nn.Module) -> bool:
        """Only the generator is shared: the mapper with the sites' codes, the synthesizer, the mean of w."""
        return name.startswith("generator.")

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """One Adam(0, 0.99) each for the generator, for the discriminator and, if there are any, for the anchors."""
        from fedrecon.sites.training.optimizers import optimizer

        model: Any = fit.model
        warm = self.anchor_rate if fit.round <= self.anchor_rounds else 1.0
        made = [
            (model.generator.parameters(), fit.rate * warm),
            (model.discriminator.parameters(), fit.rate * self.discriminator_rate),
            ([fit.scratch[ANCHORS]] if self.anchor else [], ANCHORS_RATE),
        ]
        return [optimizer("adam", some, rate, betas=(0.0, 0.99)) for some, rate in made if some]

    def step(self, fit: LocalFit, batch: Measurement) -> Mapping[str, Tensor]:
        """One step of the discriminator, then one of the generator, on the same fake images."""
        from torch.nn import functional as F

        model: Any = fit.model
        assert batch.target is not None
        real = model.encoded(batch.target / batch.scale[:, None, None])
        label = model.label(fit.site, len(real))
        for_generator, for_discriminator, *for_anchors = fit.optimizers
        anchor = self._anchor(fit, real, label) if self.anchor else None
        if anchor is not None and fit.round <= self.anchor_rounds:
            _descend(anchor, for_generator, *for_anchors)
            return {"loss": anchor.detach(), "anchor": anchor.detach()}
        fake = self._fakes(fit, len(real))

        on_real = model.discriminator(self._augmented(fit, real), label)
        on_fake = model.discriminator(self._augmented(fit, fake.detach()), label)
        judged = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        penalty = self._penalty(fit, real, label)
        _descend(judged if penalty is None else judged + penalty, for_discriminator)

        model.discriminator.requires_grad_(False)
        loss = F.softplus(-model.discriminator(self._augmented(fit, fake), label)).mean()
        _descend(loss if anchor is None else loss + self.anchor * anchor, for_generator, *for_anchors)
        model.discriminator.requires_grad_(True)
        self._adjust(fit, on_real.detach())
        return {
            "loss": loss.detach(),
            "discriminator": judged.detach(),
            "real_logit": on_real.detach().mean(),
            "fake_logit": on_fake.detach().mean(),
            **({} if anchor is None else {"anchor": anchor.detach()}),
            **({PROBABILITY: on_real.new_tensor(self._probability(fit))} if self.augmentation != "none" else {}),
        }

    def _anchor(self, fit: LocalFit, real: Tensor, label: Tensor) -> Tensor:
        """Mean absolute difference between the slices and the images of their latents, over four scales."""
        import torch
        from torch.nn import functional as F

        generator: Any = fit.model.generator
        own = fit.scratch[ANCHORS][list(fit.indices)]
        own = own * torch.rsqrt(own.square().mean(dim=1, keepdim=True) + 1e-8)
        noise = torch.randn(own.shape, generator=fit.generator).to(own.device)
        w = generator.styles((1 - self.anchor_spread**2) ** 0.5 * own + self.anchor_spread * noise, label)
        generator.track(w[:, 0].detach())
        difference = generator.synthesizer(w, generator.noise(len(real), fit.generator)) - real
        scales = [difference.abs().mean()]
        for _ in range(3):
            difference = F.avg_pool2d(difference, 2)
            scales.append(difference.abs().mean())
        return torch.stack(scales).mean()

    def _fakes(self, fit: LocalFit, count: int) -> Tensor:
        """Fake images under the site's own label. In some, a second latent acts from a random layer on."""
        import torch

        generator: Any = fit.model.generator
        draw, device = fit.generator, generator.average.device
        label = fit.model.label(fit.site, count)  # type: ignore[operator]

        def styles() -> Tensor:
            return generator.styles(torch.randn(count, generator.mapper.latent, generator=draw).to(device), label)  # type: ignore[no-any-return]

        w = styles()
        generator.track(w[:, 0].detach())
        if self.mixing:
            mixed = torch.rand(count, 1, generator=draw) < self.mixing
            since = torch.randint(1, generator.n_layers, (count, 1), generator=draw)
            second = mixed & (torch.arange(generator.n_layers) >= since)
            w = torch.where(second.to(device).unsqueeze(-1), styles(), w)
        noise = generator.noise(count, draw)
        image: Tensor = generator.synthesizer(w, noise)
        return image

    def _penalty(self, fit: LocalFit, real: Tensor, label: Tensor) -> Tensor | None:
        """R1: (gamma / 2) |grad_x D(x)|^2 at real images, times ``r1_every``; None on the steps without a penalty."""
        import torch

        count = float(fit.memory[STEPS][0]) if STEPS in fit.memory else 0.0
        fit.memory[STEPS] = np.array([count + 1], np.float32)
        if not self.r1 or count % self.r1_every:
            return None
        shown = self._augmented(fit, real).detach().requires_grad_()
        logits = fit.model.discriminator(shown, label).sum()  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(logits, shown, create_graph=True)
        squares: Tensor = gradient.square().sum(dim=(1, 2, 3)).mean()
        return self.r1_every * self.r1 / 2 * squares

    def _augmented(self, fit: LocalFit, images: Tensor) -> Tensor:
        if self.augmentation == "none":
            return images
        from fedrecon.strategies.augmentation import augmented

        magnitude = getattr(fit.model, "content", "") == "magnitude"
        return augmented(images, self._probability(fit), fit.generator, empty=-1.0 if magnitude else 0.0)

    def _probability(self, fit: LocalFit) -> float:
        return float(fit.memory[PROBABILITY][0]) if PROBABILITY in fit.memory else 0.0

    def _adjust(self, fit: LocalFit, logits: Tensor) -> None:
        """Raises the probability of augmentation if the real logits' mean sign is above the target, else lowers it."""
        if self.augmentation == "none":
            return
        sign = 1 if float(logits.sign().mean()) > self.augmentation_target else -1
        moved = self._probability(fit) + sign * len(logits) / self.augmentation_images
        fit.memory[PROBABILITY] = np.array([min(max(moved, 0.0), LARGEST)], np.float32)

    def draw(self, network: nn.Module, site: str, count: int, draws: torch.Generator, size: tuple[int, int]) -> Tensor:
        """(count, y, x) magnitude images of that site with a peak of about 1; w is truncated as in a reconstruction.

        They have the generator's one size, whatever ``size`` says: a smaller matrix lies in its centre, as in training.
        """
        import torch

        model: Any = network
        latents = torch.randn(count, model.generator.mapper.latent, generator=draws)
        latents = latents.to(model.generator.average.device)
        planes = model.generator(latents, model.label(site, count), model.generator.noise(count, draws))
        image: Tensor = model.decoded(planes, planes.shape).abs()
        return image

    def scoring_batch(self, usual: int) -> int:
        """The number of slices that are adapted together."""
        return self.adaptation.batch

    def scoring_cost(self) -> float:
        """A step of the adaptation costs about a third of a training step, which has two networks and a penalty."""
        return super().scoring_cost() + self.adaptation.steps / 3

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """(b, y, x) complex64: the adapted prior's image after hard data consistency, as in the published method."""
        image = adapt(self.adaptation, network, measurement, subject).image
        return measurement.operator.project(image, measurement.kspace)


def _descend(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """One step of each optimiser down this loss."""
    for one in optimizers:
        one.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for one in optimizers:
        one.step()


LARGEST = 0.8
"""Largest probability of augmentation; above it, augmentations would leak into the fake images."""
