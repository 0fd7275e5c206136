"""Losses between a reconstruction and the fully sampled image: one function and one registry line for each loss.

An experiment names one (``loss: l1``) or a weighted sum (``loss: {l1: 1, gradient_profile: 0.05}``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fedrecon.sites.training.splitting import SSDU

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


def l1(image: Tensor, batch: Measurement) -> Tensor:
    """Mean absolute error of the magnitude image, (b, y, x), in units of each slice's own scale."""
    return ((image.abs() - _reference(batch)).abs() / batch.scale[:, None, None]).mean()


def mse(image: Tensor, batch: Measurement) -> Tensor:
    """Mean squared error of the magnitude image, in units of each slice's own scale."""
    return (((image.abs() - _reference(batch)) / batch.scale[:, None, None]) ** 2).mean()


def complex_l1(image: Tensor, batch: Measurement) -> Tensor:
    """The mean over pixels of |real part| + |imaginary part| of the error against the combined fully sampled image."""
    import torch

    if batch.target is None:
        raise ValueError("complex_l1 needs the fully sampled complex image")
    error = torch.view_as_real(image - batch.target).abs().sum(-1)
    return (error / batch.scale[:, None, None]).mean()


def gradient_profile(image: Tensor, batch: Measurement) -> Tensor:
    """The difference in direction between the gradient profiles of the image and of the reference, from 0 to 8.

    This is the gradient part of the spatial profile loss (Sarfraz et al., BMVC 2019, arXiv 1908.00274). Each column
    and each row of the forward differences along y and along x is a vector (a profile). It is compared with the same
    profile of the reference by the cosine of their angle. The loss is 1 - cosine (the paper's negative cosine plus a
    constant), so that identical images give 0. It is averaged over columns and over rows, both means are added, the
    sums of both differences are added, and the result is averaged over slices. A constant added to the image or a
    positive factor does not change the loss. A profile that is zero in both images gives 0.
    """
    total = _profiles(image.abs(), _reference(batch), batch, -2) + _profiles(image.abs(), _reference(batch), batch, -1)
    return total.mean()


def gradient_magnitude(image: Tensor, batch: Measurement) -> Tensor:
    """Mean absolute error of the gradient's magnitude, by central differences, at the pixels inside the border.

    The form is known from text super-resolution (TextZoom, ECCV 2020); the unit is each slice's own scale.
    """
    unit = batch.scale[:, None, None]
    return (_steepness(image.abs() / unit) - _steepness(_reference(batch) / unit)).abs().mean()


def ssdu(image: Tensor, batch: Measurement) -> Tensor:
    """The error of the image's k-space at the samples that were held: normalised l2 plus normalised l1, over slices.

    Yaman et al., Magn Reson Med 84(6):3172-3191, 2020: ||u - v||_2 / ||u||_2 + ||u - v||_1 / ||u||_1 for the held
    samples u of all coils and the image's samples v under the same operator. The loss is the mean over the slices.
    """
    import torch

    if batch.held is None:
        raise ValueError("ssdu needs samples that were held")
    kspace = batch.held.kspace
    error = batch.held.operator.forward(image) - kspace

    def relative(power: int) -> Tensor:
        sizes = [torch.linalg.vector_norm(one.flatten(1), ord=power, dim=1) for one in (error, kspace)]
        ratio: Tensor = sizes[0] / sizes[1].clamp_min(torch.finfo(sizes[1].dtype).tiny)
        return ratio

    return (relative(2) + relative(1)).mean()


def _profiles(image: Tensor, reference: Tensor, batch: Measurement, axis: int) -> Tensor:
    """(b,): 1 - cosine of the rows plus 1 - cosine of the columns, for the differences along one axis."""
    unit = batch.scale[:, None, None]
    a, b = (image / unit).diff(dim=axis), (reference / unit).diff(dim=axis)

    def mismatch(along: int) -> Tensor:
        both = (a * b).sum(dim=along) + TINY
        lengths = ((a.square().sum(dim=along) + TINY) * (b.square().sum(dim=along) + TINY)).sqrt()
        return (1 - both / lengths).mean(dim=1)

    return mismatch(-2) + mismatch(-1)


def _steepness(image: Tensor) -> Tensor:
    down = (image[:, 2:, 1:-1] - image[:, :-2, 1:-1]) / 2
    across = (image[:, 1:-1, 2:] - image[:, 1:-1, :-2]) / 2
    return (down.square() + across.square() + TINY).sqrt()


def _reference(batch: Measurement) -> Tensor:
    if batch.reference is None:
        raise ValueError("training needs a reference image")
    return batch.reference


TINY = 1e-8
"""Added under square roots, so that their gradient at 0 is finite: the square of 1e-4 of a slice's scale."""

LOSSES: dict[str, Callable[[Tensor, Measurement], Tensor]] = {
    "l1": l1,
    "mse": mse,
    "complex_l1": complex_l1,
    "gradient_profile": gradient_profile,
    "gradient_magnitude": gradient_magnitude,
    SSDU: ssdu,
}


BRIGHTNESS = ("l1", "mse", "complex_l1", SSDU)
"""Losses that depend on the brightness of the image; the other losses depend on its gradients alone."""


def terms(loss: str | Mapping[str, float], image: Tensor, batch: Measurement) -> dict[str, Tensor]:
    """The weighted terms of an experiment's loss by name; training minimises their sum."""
    weights = {loss: 1.0} if isinstance(loss, str) else loss
    return {name: weight * LOSSES[name](image, batch) for name, weight in weights.items()}


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """The sum of :func:`terms`."""
    first, *others = parts.values()
    return sum(others, start=first)


def of(loss: str | Mapping[str, float], image: Tensor, batch: Measurement) -> Tensor:
    """The experiment's loss: the sum of its weighted terms."""
    return total(terms(loss, image, batch))
