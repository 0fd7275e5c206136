"""FedDiff: the sites train a diffusion prior of MR images; a reconstruction joins it with each slice's operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import ADDED_LATER, Settings
from fedrecon.strategies.fedprox import FedProx
from fedrecon.strategies.half_quadratic import HalfQuadratic, restored
from fedrecon.strategies.moving_average import MovingAverage
from fedrecon.strategies.partial import Partial
from fedrecon.strategies.subject_adaptation import SubjectAdaptation, adapted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.method import LocalFit, Subject
    from fedrecon.sites.training.settings import Training

BANDS = ("low_noise", "middle_noise", "high_noise")
"""Names of the losses of the lowest, the middle and the highest third of the noise levels."""
HIGHEST, LOWEST, DRAW_STEPS = 1.6, -4.6, 24
"""ln of the highest and of the lowest noise level of an image that is drawn (5 and 0.01), and the number of levels."""


class Denoising(Partial):
    """The training of a denoiser on fully sampled images: the loss of EDM, without a federation's additions.

    A step draws one noise level for each image, ln(sigma) ~ N(noise_mean, noise_spread^2), and weights its squared
    error by 1 / c_out^2 (Karras et al. 2022, table 1). Ours: the levels of a batch are stratified, so that every batch
    has low and high ones.

    Attributes:
        noise_mean, noise_spread: mean and standard deviation of ln(sigma), sigma in units of the peak of the image.
        without_site: probability that an image is trained without the code of its site; 1 trains no codes.
        brightness: largest change of an image's brightness in training, as a logarithm. A reconstruction needs it: it
            only knows the peak of the zero-filled image.
        patch: side of the random squares of the images to train on, in pixels; 0 takes whole images. The position of
            its pixels tells the denoiser where a patch lies.
        clip: the largest norm of the gradient of a step, a larger one is scaled down to it; 0 clips none.
    """

    noise_mean: float = Field(-2.5, ge=-20, le=20)
    noise_spread: float = Field(1.2, gt=0, le=20)
    without_site: float = Field(0.2, ge=0, le=1)
    brightness: float = Field(0.2, ge=0, le=3)
    patch: int = Field(0, ge=0, le=4096)
    clip: Annotated[float, ADDED_LATER] = Field(0.0, ge=0, le=1e6)

    @property
    def trains_codes(self) -> bool:
        """Whether a site has a code. Without one, the codes of the run that this one started from take no part."""
        return self.without_site < 1

    def _coded(self, site: str) -> str:
        """The site whose code the denoiser takes; empty takes none."""
        return site if self.trains_codes else ""

    def build(self, network: Any, images: Images) -> nn.Module:
        """The denoiser.

        Raises:
            InputError: patches are asked for, and the network does not see positions; or no image is as large.
        """
        if self.patch > max(images.size):
            largest = " x ".join(map(str, images.size))
            raise InputError(
                f"strategy.patch: {self.patch} would change nothing: no image is larger than {largest} pixels; "
                "set patch=0, which takes whole images"
            )
        model: Any = super().build(network, images)
        if self.patch and not model.position:
            raise InputError("strategy.patch: a patch needs its position; set network.position=true, or patch=0")
        return model  # type: ignore[no-any-return]

    def loss(self, fit: LocalFit, batch: Measurement) -> Tensor:
        """The weighted squared error of the denoised images; notes its mean over thirds of the noise levels."""
        import torch

        from fedrecon.strategies.networks.denoiser import positions, preconditioning

        model: Any = fit.model
        assert batch.target is not None
        count, device = len(batch.target), batch.target.device
        draws = torch.rand(count, 4, generator=fit.generator)
        real = model.encoded(batch.target / batch.scale[:, None, None])
        real = real * ((2 * draws[:, 0] - 1) * self.brightness).exp().to(device)[:, None, None, None]
        label = model.label(self._coded(fit.site), count) * (draws[:, 1] >= self.without_site).to(device)[:, None]
        where = positions(real.shape[-2], real.shape[-1], device).expand(count, -1, -1, -1)
        if self.patch:
            real, where = (self._patches(one, draws[:, 2:]) for one in (real, where))
        rank = (torch.randperm(count, generator=fit.generator) + torch.rand(count, generator=fit.generator)) / count
        levels = torch.special.ndtri(rank.double().clamp(1e-6, 1 - 1e-6)).float()
        sigma = (self.noise_mean + self.noise_spread * levels).exp().to(device)
        noise = torch.randn(real.shape, generator=fit.generator).to(device)
        cleaned = model(real + sigma[:, None, None, None] * noise, sigma, label, where)
        _, c_out, _, _ = preconditioning(sigma, model.sigma_data)
        losses = (cleaned - real).square().mean(dim=(1, 2, 3)) / c_out.square()
        band = (3 * rank).long().clamp_max(2).to(device)
        fit.noted.clear()
        fit.noted.update(
            {name: losses.detach()[band == k].mean() for k, name in enumerate(BANDS) if bool((band == k).any())}
        )
        mean: Tensor = losses.mean()
        return mean

    def gradients(self, fit: LocalFit) -> None:
        """Clips the gradient: a step that is too large can end the training of a denoiser for good."""
        super().gradients(fit)
        if self.clip:
            import torch

            torch.nn.utils.clip_grad_norm_(fit.model.parameters(), self.clip)

    def _patches(self, planes: Tensor, draws: Tensor) -> Tensor:
        """A square of each image (b, c, y, x); ``draws`` (b, 2) say where. A smaller side of the image stays whole."""
        import torch

        sides = [min(self.patch, n) for n in planes.shape[-2:]]
        corners = [
            [int(u * (n - side + 1)) for u, n, side in zip(one.tolist(), planes.shape[-2:], sides, strict=True)]
            for one in draws
        ]
        cut = [one[:, i : i + sides[0], j : j + sides[1]] for one, (i, j) in zip(planes, corners, strict=True)]
        return torch.stack(cut)


class Uncertainty(Settings):
    """Settings of the samples whose spread tells how sure the reconstruction is. They do not influence the training.

    Attributes:
        samples: number of samples, each with fresh noise in all steps (``zeta`` 1); 0 draws none, and there is no map.
        steps: number of noise levels of a sample. All else is as ``splitting`` says.
    """

    samples: int = Field(0, ge=0, le=1000)
    steps: int = Field(15, ge=1, le=10**4)

    @field_validator("samples")
    @classmethod
    def _not_one(cls, given: int) -> int:
        if given == 1:
            raise ValueError("one sample has no spread; 0, or 2 or more are needed")
        return given


class FedDiff(MovingAverage, FedProx, Denoising):
    """A denoiser of images at every noise level is shared; a reconstruction alternates it with the measured data.

    Training never sees an imaging operator: one training serves every mask, acceleration, coil set and scale. A
    reconstruction (see :class:`fedrecon.strategies.half_quadratic.HalfQuadratic`) needs no gradient: it takes tens of
    passes of a small network. Ours are the federation (FedAvg with a proximal term, a moving average on the server, a
    code for each site that can be dropped, private parts) and the stratified noise levels.

    Attributes:
        mu: weight of the proximal term; 0 has none.
        splitting: settings of the reconstruction; they do not influence the training.
        uncertainty: settings of the samples whose spread is the uncertainty map.
        adaptation: settings of the adaptation of the denoiser to each slice.
    """

    paper: ClassVar[str] = FedProx.paper + HalfQuadratic.paper + SubjectAdaptation.paper
    neutral: ClassVar[None] = None
    not_personal: ClassVar[str] = "a local round would train on a reconstruction's loss; strategy.private keeps parts"
    not_neutral: ClassVar[str] = "another network and another loss"
    trains_on_operator: ClassVar[bool] = False
    network_kind: ClassVar[str] = "denoiser"
    optimizer_state: ClassVar[str] = "keep"
    at_inference: ClassVar[tuple[str, ...]] = ("splitting", "uncertainty", "adaptation")

    mu: float = Field(0.0, ge=0, le=1e6)
    splitting: HalfQuadratic = HalfQuadratic()
    uncertainty: Annotated[Uncertainty, ADDED_LATER] = Uncertainty()
    adaptation: Annotated[SubjectAdaptation, ADDED_LATER] = SubjectAdaptation()

    def check(self, training: Training) -> None:
        """Refuses another loss.

        Raises:
            ValueError: the message names the key.
        """
        if training.loss != type(training).model_fields["loss"].default:
            raise ValueError(f"loss: feddiff has its own (of EDM); '{training.loss}' would change nothing")

    def draw(self, network: nn.Module, site: str, count: int, draws: torch.Generator, size: tuple[int, int]) -> Tensor:
        """(count, y, x) magnitude images of that site with a peak of about 1: Euler's steps of the probability flow.

        They have the matrix ``size``, because training shows positions from -1 to 1 over a slice's own matrix. In the
        frame of a larger one, its pixels would be told other positions.
        """
        import torch

        model: Any = network
        device, label = model.codes.device, model.label(self._coded(site), count)
        levels = torch.linspace(HIGHEST, LOWEST, DRAW_STEPS).exp().tolist()
        planes = levels[0] * torch.randn(count, model.n_planes, *size, generator=draws).to(device)
        for sigma, after in zip(levels, [*levels[1:], 0.0], strict=True):
            cleaned = model(planes, torch.full((count,), sigma, device=device), label)
            planes = cleaned + after / sigma * (planes - cleaned)
        image: Tensor = model.decoded(planes).abs()
        return image

    def scoring_batch(self, usual: int) -> int:
        """The number of slices that are reconstructed together."""
        return self.splitting.batch

    def scoring_cost(self) -> float:
        """A step of the reconstruction costs about a third of a training step; a step of the adaptation a whole one."""
        own, drawn = self.splitting, self.uncertainty
        times = 1 + bool(self.adaptation.steps)  # with the trained weights, and again with the adapted ones
        passes = own.steps * own.samples * times + drawn.steps * drawn.samples
        return super().scoring_cost() + passes / 3 + self.adaptation.steps

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """(b, y, x) complex64: the mean of the samples, with the adapted denoiser if there is an adaptation."""
        given, coded = (network, measurement, subject), self.trains_codes
        weights = adapted(self.adaptation, self.splitting, *given, coded) if self.adaptation.steps else None
        return restored(self.splitting, *given, weights, coded).mean(dim=0)

    @property
    def has_spread(self) -> bool:
        """Whether samples are drawn for it."""
        return self.uncertainty.samples > 0

    def spread(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """(b, y, x) float32: the standard deviation over the samples, with the weights that were trained."""
        drawn = self.uncertainty
        settings = self.splitting.model_copy(update={"zeta": 1.0, "samples": drawn.samples, "steps": drawn.steps})
        return restored(settings, network, measurement, subject, coded=self.trains_codes).abs().std(dim=0)
