"""Reconstruction with a denoiser: half-quadratic splitting over falling noise levels, many slices at once.

    x0 = D(x; sigma)                                                        the prior
    z = argmin_z |A z - k|^2 + rho |z - x0|^2,   rho = weight (sigma_k / sigma)^2      the data, by conjugate gradients
    x = z + sqrt(zeta) sigma' n                                             n ~ N(0, 1), sigma' the next noise level

``zeta`` 0 is deterministic: the least-error image (plug-and-play half-quadratic splitting as in DPIR; the conjugate
gradients about the denoised image are those of DDS). ``zeta`` 1 draws samples (DiffPIR, algorithm 1, in the
variance-exploding form of EDM): the start and each step get fresh noise. sigma_k is the standard deviation of the
samples' noise. With a Gaussian prior and weight 1, the iteration tends to the posterior mean as sigma falls slowly
to 0. All values are in units of ``measurement.scale``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from fedrecon.sites.plugin import Settings
from fedrecon.sites.seeding import seed, torch_generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.training.method import Subject


class HalfQuadratic(Settings):
    """Settings of the reconstruction with a denoiser. They do not influence the training.

    Attributes:
        prior: weights of the denoiser: ``trained``, or ``untrained`` (the first weights), which is the control.
        steps: number of noise levels, which fall by a constant factor from ``sigma_max`` to ``sigma_min``. sigma_max,
            sigma_min: in units of the peak of the zero-filled image.
        weight: weight of the denoised image against the data.
        noise: the standard deviation of the samples' noise where the measurement does not know it, and its least value
            where it does, in units of the peak of the zero-filled image.
        iterations: largest number of conjugate gradients in each step.
        zeta: share of fresh noise in each step.
        samples: number of samples whose mean is the image; more than one only with fresh noise.
        batch: largest number of images that are reconstructed together: slices, and several samples of each where a
            batch has few slices. It changes only the rounding.
    """

    paper: ClassVar[str] = """
        @inproceedings{zhu2023diffpir,
            author = {Zhu, Yuanzhi and Zhang, Kai and Liang, Jingyun and Cao, Jiezhang and Wen, Bihan and
                Timofte, Radu and {Van Gool}, Luc},
            title = {Denoising Diffusion Models for Plug-and-Play Image Restoration},
            booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops (CVPRW)},
            year = {2023}
        }

        @inproceedings{chung2024dds,
            author = {Chung, Hyungjin and Lee, Suhyeon and Ye, Jong Chul},
            title = {Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems},
            booktitle = {International Conference on Learning Representations (ICLR)},
            year = {2024}
        }
    """

    prior: Literal["trained", "untrained"] = "trained"
    steps: int = Field(25, ge=1, le=10**4)
    sigma_max: float = Field(0.3, gt=0, le=100)
    sigma_min: float = Field(0.01, gt=0, le=100)
    weight: float = Field(1.0, gt=0, le=1e6)
    noise: float = Field(0.005, gt=0, le=100)
    iterations: int = Field(6, ge=1, le=1000)
    zeta: float = Field(0.0, ge=0, le=1)
    samples: int = Field(1, ge=1, le=1000)
    batch: int = Field(16, ge=1, le=4096)

    @model_validator(mode="after")
    def _fits(self) -> HalfQuadratic:
        if self.sigma_min > self.sigma_max:
            raise ValueError(f"sigma_min: at most sigma_max ({self.sigma_max:g}) is needed")
        if self.samples > 1 and not self.zeta:
            raise ValueError("samples: without fresh noise all samples are equal; set zeta=1, or samples=1")
        return self

    def levels(self) -> list[float]:
        """The noise levels, from ``sigma_max`` down to ``sigma_min``; of a single step ``sigma_max``."""
        ratio = self.sigma_min / self.sigma_max
        return [self.sigma_max * ratio ** (k / max(self.steps - 1, 1)) for k in range(self.steps)]


Denoise = Callable[["Tensor", "Tensor", float], "Tensor"]
"""Denoises images (b, y, x) complex64 of a noise level; the second argument is the last image that fits the data."""


Weights = Mapping[str, "Tensor"]
"""Weights of a denoiser by name, a set for each slice: the first axis of each tensor counts the slices."""


def restored(
    settings: HalfQuadratic,
    network: Any,
    measurement: Measurement,
    subject: Subject,
    weights: Weights | None = None,
    coded: bool = True,
) -> Tensor:
    """The samples of each slice, (samples, b, y, x) complex64 at the scale of the data; one if deterministic.

    Args:
        weights: each slice's own weights of the denoiser; None takes those of ``network``.
        coded: whether the denoiser takes the code of the site.
    """
    import torch

    network, count, parts = prior(settings, network, subject), len(measurement.scale), []
    together = max(1, settings.batch // count)
    for first in range(0, settings.samples, together):
        numbers = range(first, min(first + together, settings.samples))
        times = len(numbers)
        own = weights and {name: one.repeat(times, *[1] * (one.ndim - 1)) for name, one in weights.items()}
        denoise = denoiser(network, network.label(subject.site if coded else "", count * times), own)
        draws = [one for number in numbers for one in draws_of(subject, number)]
        many = measurement.repeated(times) if times > 1 else measurement
        parts.append(split(settings, denoise, many, draws).view(times, count, *measurement.zero_filled.shape[1:]))
    return torch.cat(parts)


def prior(settings: HalfQuadratic, network: Any, subject: Subject) -> Any:
    """The denoiser of the settings, in evaluation mode."""
    chosen = network if settings.prior == "trained" else network.untrained(seed(subject.seed, "weights"))
    return chosen.eval()


def denoiser(network: Any, label: Tensor, weights: Weights | None = None) -> Denoise:
    """The network as the prior of a batch.

    Args:
        label: the site of each slice, (b, n_sites).
        weights: each slice's own weights; None takes those of ``network``.
    """
    import torch
    from torch.func import functional_call

    def called(planes: Tensor, levels: Tensor) -> Tensor:
        if weights is None:
            return network(planes, levels, label)  # type: ignore[no-any-return]

        def one(own: Weights, *given: Tensor) -> Tensor:
            return functional_call(network, dict(own), tuple(x[None] for x in given))[0]  # type: ignore[no-any-return]

        return torch.vmap(one)(weights, planes, levels, label)

    def denoise(noisy: Tensor, fitted: Tensor, sigma: float) -> Tensor:
        levels = torch.full((len(noisy),), sigma, device=noisy.device)
        if network.content == "complex":
            return network.decoded(called(network.encoded(noisy), levels))  # type: ignore[no-any-return]
        phase = torch.polar(torch.ones_like(fitted.real), fitted.angle())  # a prior of magnitudes knows no phase
        turned = (noisy * phase.conj()).real.unsqueeze(1)
        return network.decoded(called(turned, levels)) * phase  # type: ignore[no-any-return]

    return denoise


def split(settings: HalfQuadratic, denoise: Denoise, measurement: Measurement, draws: list[torch.Generator]) -> Tensor:
    """One pass over the noise levels: the images (b, y, x) complex64 at the scale of the data.

    Args:
        denoise: the prior.
        draws: a generator of each slice, so that the other slices of the batch do not change its noise.
    """
    import torch

    from fedrecon.sites.classical.conjugate_gradients import solve

    unit, operator = measurement.scale[:, None, None], measurement.operator
    right = measurement.back_projected / unit
    noise = torch.full_like(measurement.scale, settings.noise)
    if measurement.noise is not None:
        noise = noise.maximum(measurement.noise / measurement.scale)
    fitted = measurement.zero_filled / unit
    for sigma in settings.levels():
        noisy = fitted + settings.zeta**0.5 * sigma * _normal(fitted, draws) if settings.zeta else fitted
        denoised = denoise(noisy, fitted, sigma)
        rho = (settings.weight * (noise / sigma).square())[:, None, None]
        fitted = denoised + solve(operator, right - operator.normal(denoised), rho, settings.iterations)
    return fitted * unit


def draws_of(subject: Subject, number: int) -> list[torch.Generator]:
    """The generators of sample ``number`` of each slice, from (experiment seed, site, subject, slice)."""
    slices = zip(subject.subjects, subject.slices, strict=True)
    return [torch_generator(subject.seed, "sample", subject.site, *one, number) for one in slices]


def _normal(like: Tensor, draws: list[torch.Generator]) -> Tensor:
    """Complex noise (b, y, x) with standard deviation 1 in each plane."""
    import torch

    planes = [torch.randn((*like.shape[1:], 2), generator=one) for one in draws]
    return torch.view_as_complex(torch.stack(planes)).to(like.device)
