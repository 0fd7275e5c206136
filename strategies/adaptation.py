"""Adapts a prior to the measured k-space of each slice under its imaging operator, many slices at once.

This is FedGIMP's inference. For each slice on its own, it minimises over latents, noise and weights

    sqrt( mean_{y,x} sum_c |M F S_c x - k_c|^2 )  +  tv * mean_{y,x} ( |D_y x| + |D_x x| )

Data and image are divided by ``measurement.scale``, so that both terms and ``tv`` have the same scale. With one coil
this is the published objective times a constant: the published weight 1e-4 of the summed variation is ``tv`` = 1e-4
sqrt(y x) here, 0.0256 at 256 x 256. With several coils, the published objective takes the mean of the data term over
the coils, but the sum of the variation over the coil images. So with n coils the same weight smooths up to n times
more. Here neither term depends on the number of coils (docs/decisions/009).

Ours: each slice has its own gain, because undersampled data do not tell the scale of the full image. The gain starts at
its least-squares value. A few measured samples are held out of the loss, and the image that fits them best is kept.
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
"""Smallest number of held-out samples of a slice. If there would be fewer, the slice has none."""
EPS = 1e-8
"""Adam's epsilon, as published."""
CHECK = 10
"""Number of steps between two checks of the patience; each check waits for the device."""

Variable = Literal["z", "w", "noise", "weights", "phase"]


class Adaptation(Settings):
    """Settings of the adaptation of a prior to a slice. They do not influence the training.

    Attributes:
        prior: weights to start from: ``trained``, or ``untrained`` (the first weights). ``untrained`` is the control
            that shows the benefit of the training.
        variables: names of the adapted variables: ``z`` (the mapper's input), ``w`` (the styles of every layer, instead
            of z), ``noise`` (the noise maps), ``weights`` (of the whole generator, a copy for each slice), ``phase``
            (ours: a smooth phase of the image, because the low-resolution phase in the coil maps is not the whole
            phase).
        phase_size: number of knots of that phase along each side; it is bicubic between them.
        steps: number of steps of Adam; 0 gives the static prior.
        rate: learning rate of Adam (0.9, 0.999), constant.
        tv: weight of the total variation.
        noise_to: largest size of the noise maps that are drawn and adapted. Larger maps are zero, because they could
            fit any image.
        holdout: fraction of the measured samples that is held out of the loss: whole columns where a mask measures
            whole columns (at least one), else single samples.
        patience: number of steps after which a slice is finished if it fits its held-out samples no better.
        batch: number of slices that are adapted together. It changes only the rounding. But Adam amplifies rounding, so
            the number belongs to the digest of the run.
    """

    prior: Literal["trained", "untrained"] = "trained"
    variables: tuple[Variable, ...] = Field(("z", "noise", "weights", "phase"), min_length=1)
    steps: int = Field(1200, ge=0, le=10**6)
    rate: float = Field(0.01, gt=0, le=1000)
    tv: float = Field(0.0256, ge=0, le=1e6)
    noise_to: int = Field(8, ge=0, le=4096)
    phase_size: int = Field(8, ge=2, le=256)
    holdout: float = Field(0.03, ge=0, lt=0.5)
    patience: int = Field(200, ge=1, le=10**6)
    batch: int = Field(8, ge=1, le=4096)

    @field_validator("variables")
    @classmethod
    def _each_once(cls, given: tuple[Variable, ...]) -> tuple[Variable, ...]:
        if len(set(given)) < len(given):
            raise ValueError("name each variable once")
        if {"z", "w"} <= set(given):
            raise ValueError("w replaces z: name only one of them")
        return given


@dataclass
class Fitted:
    """The result of an adaptation of b slices.

    Attributes:
        image: the adapted images, (b, y, x) complex64 at the scale of the data.
        steps: the number of steps before it stopped.
        kept: the step whose image was kept, (b,).
        loss: the loss of each slice before every step and after the last, (steps + 1, b).
    """

    image: Tensor
    steps: int
    kept: Tensor
    loss: Tensor


def adapt(settings: Adaptation, network: Any, measurement: Measurement, subject: Subject) -> Fitted:
    """Adapts a copy of ``network`` to each slice of the measurement. ``network`` itself keeps its weights."""
    import torch

    from fedrecon.sites.training.optimizers import optimizer

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
    adam = optimizer("adam", slices.variables, settings.rate, eps=EPS)
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
        adam.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        adam.step()
        torch.clear_autocast_cache()  # the cache would hold the dense layers' old weights
        slices.standardise()
    return Fitted(kept_image * unit, len(losses) - 1, kept, torch.stack(losses))


class _Slices:
    """The variables of a batch: one set for each slice. The first axis of each tensor counts the slices."""

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
        """The present images, (b, y, x) complex64, in units of the measurement's scale."""
        import torch

        image = self.gain[:, None, None] * self._drawn()
        if not self.phase.requires_grad:
            return image
        with torch.autocast(self.phase.device.type, enabled=False):  # 8 bits of a phase are half a degree and more
            phase = self.bicubic[0] @ self.phase @ self.bicubic[1].mT
            return image * torch.polar(torch.ones_like(phase), phase)

    def standardise(self) -> None:
        """Sets each noise map to mean 0 and standard deviation 1, as published, maps of few pixels included."""
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
    """Noise maps drawn by (experiment seed, site, subject, slice): the other slices of the batch do not change them."""
    import torch

    drawn = [
        generator.noise(1, torch_generator(subject.seed, "adapt", subject.site, *one), largest)
        for one in zip(subject.subjects, subject.slices, strict=True)
    ]
    return [torch.cat(maps) for maps in zip(*drawn, strict=True)]


def _bicubic(knots: int, length: int) -> Tensor:
    """(length, knots): bicubic interpolation of one axis as a matrix: its gradient is deterministic on every device."""
    import torch
    from torch.nn import functional as F

    made = F.interpolate(torch.eye(knots)[None, None], (length, knots), mode="bicubic", align_corners=False)
    return made[0, 0]


def _split(part: float, mask: Tensor, subject: Subject) -> tuple[Tensor, Tensor]:
    """The samples of the loss and the held-out samples, both (b, 1, y, x) bool. The middle 4 x 4 is never held out.

    Where a mask measures whole columns, whole columns are held out, at least one, and never one of the middle 4: a
    sample between measured neighbours of its own column would be predicted by any smooth image.

    If fewer than FEWEST samples of a slice would be held out, none are: so few samples tell nothing. The image of the
    last step is then kept.
    """
    import torch

    mask = mask.expand(len(subject.subjects), *mask.shape[1:])
    held = torch.zeros_like(mask)
    for i, one in enumerate(zip(subject.subjects, subject.slices, strict=True)):
        draws = torch_generator(subject.seed, "hold out", subject.site, *one)
        own = mask[i, 0].cpu()
        y, x = (n // 2 for n in own.shape)
        if (own == own[:1]).all():
            columns = own[0].clone()
            columns[x - 2 : x + 2] = False
            count = max(1, round(part * int(own[0].sum()))) if part else 0
            order = torch.rand(len(columns), generator=draws).masked_fill(~columns, 2.0).argsort()
            held[i, 0, :, order[: min(count, int(columns.sum()))].to(mask.device)] = True
        else:
            points = own & (torch.rand(own.shape, generator=draws) < part)
            points[y - 2 : y + 2, x - 2 : x + 2] = False
            held[i, 0] = points.to(mask.device)
    held = held & (held.sum(dim=(1, 2, 3), keepdim=True) >= FEWEST)
    return mask & ~held, held


def _rms(residual: Tensor, samples: Tensor, pixels: int) -> Tensor:
    """(b,): the root of the squared residual (b, c, ...), summed over coils and samples and divided by ``pixels``."""
    import torch

    squares: Tensor = torch.view_as_real(residual * samples).square().flatten(1)
    return (squares.sum(dim=1) / pixels + 1e-12).sqrt()


def _variation(images: Tensor) -> Tensor:
    """(b,): anisotropic total variation of images (b, y, x), divided by the number of pixels."""
    down, across = images.diff(dim=-2).abs(), images.diff(dim=-1).abs()
    return (down.sum(dim=(1, 2)) + across.sum(dim=(1, 2))) / images[0].numel()
