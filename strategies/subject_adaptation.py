"""Adapts a denoiser to each slice: a few gradient steps on the slice's own measured samples, as AdaDiff does.

    minimise over w    | A D_w(x; sigma) - k |^2,     x the image that was reconstructed with the trained weights

A denoiser that was trained on other anatomies or contrasts changes what the samples of this slice say. The steps teach
it not to. Each slice has a copy of the weights of its own: the shared weights stay as they are, and the other slices of
a batch change nothing. Ours: the image x is that of the half-quadratic splitting, which is then done once more with
the adapted weights (AdaDiff updates image and weights in turn); sigma goes through the noise levels of the splitting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from fedrecon.sites.plugin import Settings
from fedrecon.strategies.half_quadratic import HalfQuadratic, Weights, denoiser, prior, restored

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.training.method import Subject


class SubjectAdaptation(Settings):
    """Settings of the adaptation of a denoiser to each slice. They do not influence the training.

    Attributes:
        steps: number of steps of Adam; 0 does not adapt.
        rate: learning rate of Adam (0.9, 0.999), constant.
    """

    paper: ClassVar[str] = """
        @article{gungor2023adadiff,
            author = {G{\\"u}ng{\\"o}r, Alper and Dar, Salman U. H. and {\\"O}zt{\\"u}rk, {\\c{S}}aban and
                Korkmaz, Yilmaz and Bedel, Hasan A. and Elmas, Gokberk and Ozbey, Muzaffer and
                {\\c{C}}ukur, Tolga},
            title = {Adaptive Diffusion Priors for Accelerated {MRI} Reconstruction},
            journal = {Medical Image Analysis},
            year = {2023}
        }
    """

    steps: int = Field(0, ge=0, le=10**4)
    rate: float = Field(1e-3, gt=0, le=10)


def adapted(
    settings: SubjectAdaptation,
    splitting: HalfQuadratic,
    network: Any,
    measurement: Measurement,
    subject: Subject,
    coded: bool = True,
) -> Weights:
    """The adapted weights of each slice, by name. ``network`` keeps its own; ``coded``: it takes the site's code."""
    import torch

    from fedrecon.sites.training.optimizers import optimizer

    network = prior(splitting, network, subject)
    count, unit = len(measurement.scale), measurement.scale[:, None, None]
    weights = {name: one.detach().repeat(count, *[1] * one.ndim) for name, one in network.named_parameters()}
    with torch.no_grad():
        image = restored(splitting, network, measurement, subject, coded=coded).mean(dim=0) / unit
    label, levels = network.label(subject.site if coded else "", count), splitting.levels()
    denoise = denoiser(network, label, weights)
    for one in weights.values():
        one.requires_grad_()
    adam = optimizer("adam", list(weights.values()), settings.rate)
    for step in range(settings.steps):
        adam.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = misfit(measurement, denoise(image, image, levels[step % len(levels)])).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        torch.clear_autocast_cache()  # it would hold the weights of before the step
    return {name: one.detach() for name, one in weights.items()}


def misfit(measurement: Measurement, image: Tensor) -> Tensor:
    """(b,): |A x - k|^2 over |k|^2 of images x (b, y, x) in units of the measurement's scale."""
    import torch

    kspace = measurement.kspace / measurement.scale[:, None, None, None]
    residual = measurement.operator.forward(image) - kspace
    over, under = (torch.view_as_real(one).square().flatten(1).sum(dim=1) for one in (residual, kspace))
    ratio: Tensor = over / under.clamp_min(1e-12)
    return ratio
