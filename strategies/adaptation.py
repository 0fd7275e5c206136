"""A prior joined with the imaging operator of each slice and adapted to its k-space, many slices at once.

FedGIMP's inference: minimise over latents, noise and weights, for each slice on its own,

    sqrt( mean_{y,x} sum_c |M F S_c x - k_c|^2 )  +  tv * mean_{y,x} ( |D_y x| + |D_x x| )

with data and image divided by ``measurement.scale``, so that both terms and ``tv`` are on one scale. Of one coil it is
the published objective times a constant: its weight 1e-4 of the summed variation is ``tv`` = 1e-4 sqrt(y x) here,
0.0256 at 256 x 256. Of several coils the published one means the data term over the coils and sums the variation of the
coil images, so that the same weight smooths up to as many times more as there are coils; here neither depends on their
number (docs/decisions/009).

Ours: each slice has a gain of its own, begun by least squares, because the scale of the full image is not known from
undersampled data; a few measured samples are held out of the loss, and the image that fits them best is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from fedrecon.sites.plugin import Settings
from fedrecon.sites.seeding import seed, torch_generator

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.training.method import Subject

FEWEST = 16
"""Samples held out of a slice at least, if any."""
EPS = 1e-8
"""Adam's, as published."""
CHECK = 10
"""Steps between two looks at the patience: each waits for the device."""

Variable = Literal["z", "w", "noise", "weights", "phase"]


class Adaptation(Settings):
    """How a prior is adapted to a slice. None of it influences training.

    Attributes:
        prior: ``trained``, or ``untrained``: the first weights instead, the control that says what training was worth.
        variables: what is adapted: ``z`` (the mapper's input), ``w`` (the styles of every layer instead), ``noise``
            (the noise maps), ``weights`` (of the whole generator, each slice its own copy), ``phase`` (ours: a smooth
            phase on top of the low-resolution one in the coil maps, which is not all of it).
        phase_size: knots a side of that phase, bicubic between them.
        steps: of Adam; 0 is the static prior.
        rate: of Adam (0.9, 0.999), constant.
        tv: weight of the total variation.
        noise_to: noise maps up to this size are drawn and adapted; larger ones are zero, for they fit anything.
        holdout: part of the measured samples that the loss does not see.
        patience: a slice is done when it fits its held-out samples no better for so many steps.
        batch: slices adapted together. It changes rounding alone, which Adam amplifies, so it is part of the science.
    """

    prior: Literal["trained", "untrained"] = "trained"
    variables: tuple[Variable, ...] = Field(("z", "noise", "weights", "phase"), min_length=1)
    steps: int = Field(1200, ge=0)
    rate: float = Field(0.01, gt=0, allow_inf_nan=False)
    tv: float = Field(0.0256, ge=0, allow_inf_nan=False)
    noise_to: int = Field(8, ge=0)
    phase_size: int = Field(8, ge=2)
    holdout: float = Field(0.03, ge=0, lt=0.5)
    patience: int = Field(200, ge=1)
    batch: int = Field(8, ge=1)

    @field_validator("variables")
    @classmethod
    def _each_once(cls, given: tuple[Variable, ...]) -> tuple[Variable, ...]:
        if len(set(given)) < len(given):
            raise ValueError("each variable once")
        if {"z", "w"} <= set(given):
            raise ValueError("w takes the place of z: name one of them")
        return given


@dataclass
class Fitted:
    """What an adaptation came to.

    Attributes:
        image: (b, y, x) complex64 at the scale of the data. steps: taken before it stopped.
        kept: (b,) the step whose image was kept. loss: (steps, b) of every step, by slice.
    """

    image: Tensor
    steps: int
    kept: Tensor
    loss: Tensor


def adapt(settings: Adaptation, network: Any, measurement: Measurement, subject: Subject) -> Fitted:
    """Adapts ``network`` (which stays as it is) to each slice of the measurement."""
    import torch

    if settings.prior == "untrained":
        network = network.untrained(seed(subject.seed, "weights"))
    network.eval()
    unit = measurement.scale[:, None, None]
    kspace = measurement.kspace / unit[..., None]
    seen, held = _split(settings.holdout, measurement.operator.mask, subject)
    slices = _Slices(settings, network, measurement, subject, kspace * seen)
    pixels = measurement.zero_filled[0].numel()
    best = torch.full_like(measurement.scale, float("inf"))
    kept = torch.zeros_like(best, dtype=torch.long)
    live = torch.ones_like(best, dtype=torch.bool)
    kept_image = slices.image().detach()
    optimizer = torch.optim.Adam(slices.variables, settings.rate, eps=EPS)
    losses: list[Tensor] = []
    for step in range(settings.steps + 1):
        with torch.enable_grad():
            image = slices.image()
            residual = measurement.operator.forward(image) - kspace
            loss = _rms(residual, seen, pixels) + settings.tv * _variation(image)
            total = loss.sum()
        judged = torch.where(held.flatten(1).any(dim=1), _rms(residual.detach(), held, pixels), -step)
        better = (judged < best) & live
        best, kept = torch.where(better, judged, best), torch.where(better, step, kept)
        kept_image = torch.where(better[:, None, None], image.detach(), kept_image)
        losses.append(loss.detach())
        if step % CHECK == 0:
            live = live & (step - kept < settings.patience)
        if step == settings.steps or (step % CHECK == 0 and not live.any()):
            break
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        torch.clear_autocast_cache()  # it would hold the dense layers' weights as they were
        slices.standardise()
    return Fitted(kept_image * unit, len(losses) - 1, kept, torch.stack(losses))


class _Slices:
    """The variables of a batch: one set for each slice, in tensors with an axis for the slices in front."""

    def __init__(
        self, settings: Adaptation, network: Any, measurement: Measurement, subject: Subject, kspace: Tensor
    ) -> None:
        import torch

        self.network, self.shape = network, measurement.zero_filled.shape
        count, device, generator = self.shape[0], kspace.device, network.generator
        chosen = settings.variables if settings.steps else ()
        self.label = network.label(subject.site, count)
        self.latents = torch.zeros(count, generator.mapper.latent, device=device)
        self.noise = _noise(generator, subject, settings.noise_to)
        tensors = dict(generator.named_parameters()) | dict(generator.named_buffers())
        self.weights = {name: value.detach() for name, value in tensors.items()}
        own = [name for name in tensors if "weights" in chosen and not ("w" in chosen and name in generator.behind_w)]
        self.weights |= {name: self.weights[name].expand(count, *tensors[name].shape).clone() for name in own}
        self.styles: Tensor | None = None
        with torch.no_grad():
            if "w" in chosen:
                self.styles = generator.styles(self.latents, self.label).clone()
            samples = measurement.operator.forward(self._drawn()) * (kspace != 0)
            over = (samples.conj() * kspace).real.flatten(1).sum(dim=1)
            self.gain = (over / samples.abs().square().flatten(1).sum(dim=1).clamp_min(1e-12)).clamp_min(1e-3)
        self.phase = torch.zeros(count, settings.phase_size, settings.phase_size, device=device)
        self.bicubic = [_bicubic(settings.phase_size, n).to(device) for n in self.shape[1:]]
        self.noisy = [one for one in self.noise if "noise" in chosen and one.shape[-1] <= settings.noise_to]
        styled = [self.styles] if self.styles is not None else [self.latents] if "z" in chosen else []
        phased = [self.phase] if "phase" in chosen else []
        self.variables = [self.gain, *styled, *self.noisy, *phased, *(self.weights[name] for name in own)]
        for one in self.variables:
            one.requires_grad_()

    def image(self) -> Tensor:
        """(b, y, x) complex64, in units of the measurement's scale."""
        import torch

        image = self.gain[:, None, None] * self._drawn()
        if not self.phase.requires_grad:
            return image
        phase = self.bicubic[0] @ self.phase @ self.bicubic[1].mT
        return image * torch.polar(torch.ones_like(phase), phase)

    def standardise(self) -> None:
        """Noise maps of mean 0 and deviation 1, as published; a map of few pixels too."""
        import torch

        with torch.no_grad():
            for one in self.noisy:
                centred = one - one.mean(dim=(-2, -1), keepdim=True)
                one.copy_(centred * torch.rsqrt(centred.square().mean(dim=(-2, -1), keepdim=True) + 1e-8))

    def _drawn(self) -> Tensor:
        from torch.func import functional_call

        given = (self.latents, self.label, self.noise, self.styles)
        planes = functional_call(self.network.generator, self.weights, given)
        image: Tensor = self.network.decoded(planes, self.shape)
        return image


def _noise(generator: Any, subject: Subject, largest: int) -> list[Tensor]:
    """Noise maps by (experiment seed, site, subject, slice), so that a slice's company changes nothing."""
    import torch

    drawn = [
        generator.noise(1, torch_generator(subject.seed, "adapt", subject.site, *one), largest)
        for one in zip(subject.subjects, subject.slices, strict=True)
    ]
    return [torch.cat(maps) for maps in zip(*drawn, strict=True)]


def _bicubic(knots: int, length: int) -> Tensor:
    """(length, knots): bicubic interpolation of one axis as a matrix, whose gradient is deterministic everywhere."""
    import torch
    from torch.nn import functional as F

    made = F.interpolate(torch.eye(knots)[None, None], (length, knots), mode="bicubic", align_corners=False)
    return made[0, 0]


def _split(part: float, mask: Tensor, subject: Subject) -> tuple[Tensor, Tensor]:
    """The samples that the loss sees and those held out, (b, 1, y, x); the middle 4 x 4 is never held out.

    A slice of which fewer than FEWEST samples would be held out keeps them all: so few say nothing.
    """
    import torch

    draws = [
        torch.rand(mask.shape[1:], generator=torch_generator(subject.seed, "hold out", subject.site, *one))
        for one in zip(subject.subjects, subject.slices, strict=True)
    ]
    held = mask & (torch.stack(draws).to(mask.device) < part)
    y, x = (n // 2 for n in mask.shape[-2:])
    held[..., y - 2 : y + 2, x - 2 : x + 2] = False
    held = held & (held.sum(dim=(1, 2, 3), keepdim=True) >= FEWEST)
    return mask & ~held, held


def _rms(residual: Tensor, samples: Tensor, pixels: int) -> Tensor:
    """(b,): root of the sum over coils and samples (b, c, ...) for each of the image's ``pixels``."""
    import torch

    squares: Tensor = torch.view_as_real(residual * samples).square().flatten(1)
    return (squares.sum(dim=1) / pixels + 1e-12).sqrt()


def _variation(images: Tensor) -> Tensor:
    """(b,): anisotropic total variation of (b, y, x), its mean over the pixels."""
    down, across = images.diff(dim=-2).abs(), images.diff(dim=-1).abs()
    return (down.sum(dim=(1, 2)) + across.sum(dim=(1, 2))) / images[0].numel()
