"""Monotone FISTA for 1/2 |A x - y|^2 + weight * TV(x), batched over slices, each its own problem.

Beck and Teboulle, IEEE TIP 18(11), 2009: MFISTA (section 5) outside, the fast gradient projection for the
dual of the proximal step (section 4) inside. Coil maps have unit sum of squares, so |A| <= 1 and the step
size is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Measurement


class Minimum(NamedTuple):
    """``image`` (b, y, x) complex64 at the data's scale; ``objective`` (1 + iterations, b), data scaled."""

    image: Tensor
    objective: Tensor


@torch.no_grad()
def minimise(measurement: Measurement, weight: float, iterations: int, dual_iterations: int, *, real: bool) -> Minimum:
    """The minimiser over complex (or real) images, started from the zero-filled image.

    The momentum step stays linear, so A^H A is applied once an iteration: to the candidate ``z``; those of
    the image and of the extrapolated point follow from it.
    """
    unit = measurement.scale[:, None, None]
    measured = measurement.back_projected / unit  # A^H y
    energy = _total((measurement.kspace / unit[..., None]).abs().square()) / 2

    def objective(image: Tensor, normal: Tensor) -> Tensor:
        data = _total(_dot(image, normal)) / 2 - _total(_dot(image, measured)) + energy
        return data + weight * total_variation(image)

    image = _constrained(measured, real)
    normal = measurement.operator.normal(image)
    point, point_normal, t = image, normal, 1.0
    dual = torch.zeros(2, *image.shape, dtype=image.dtype, device=image.device)
    values = [objective(image, normal)]
    for _ in range(iterations):
        step = point - (point_normal - measured)
        z, dual = proximal(step, weight, dual_iterations, real=real, dual=dual)
        z_normal = measurement.operator.normal(z)
        value = objective(z, z_normal)
        better = (value <= values[-1])[:, None, None]
        values.append(torch.minimum(value, values[-1]))
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        last, last_normal = image, normal
        image, normal = torch.where(better, z, image), torch.where(better, z_normal, normal)
        toward, onward = t / t_next, (t - 1) / t_next
        point = image + toward * (z - image) + onward * (image - last)
        point_normal = normal + toward * (z_normal - normal) + onward * (normal - last_normal)
        t = t_next
    return Minimum(image * unit, torch.stack(values))


def proximal(
    image: Tensor, weight: float, iterations: int, *, real: bool = False, dual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """argmin_x 1/2 |x - image|^2 + weight * TV(x) over complex (or real) x, and its dual (2, b, y, x).

    Fast gradient projection (FGP, section 4.3); the dual problem's gradient has the Lipschitz constant 8
    weight^2.
    """
    if dual is None:
        dual = torch.zeros(2, *image.shape, dtype=image.dtype, device=image.device)
    if weight == 0.0:
        return _constrained(image, real), dual
    point, t = dual, 1.0
    for _ in range(iterations):
        primal = _constrained(image + weight * divergence(point), real)
        step = point + gradient(primal) / (8 * weight)
        last, dual = dual, step / _magnitude(step).clamp_min(1.0)
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        point = dual + ((t - 1) / t_next) * (dual - last)
        t = t_next
    return _constrained(image + weight * divergence(dual), real), dual


def gradient(image: Tensor) -> Tensor:
    """Forward differences along y and x, zero across the border: (b, y, x) -> (2, b, y, x)."""
    result = torch.zeros(2, *image.shape, dtype=image.dtype, device=image.device)
    torch.sub(image[..., 1:, :], image[..., :-1, :], out=result[0][..., :-1, :])
    torch.sub(image[..., :, 1:], image[..., :, :-1], out=result[1][..., :, :-1])
    return result


def divergence(field: Tensor) -> Tensor:
    """Minus the adjoint of :func:`gradient`: (2, b, y, x) -> (b, y, x)."""
    along_y, along_x = field[0][..., :-1, :], field[1][..., :, :-1]
    result = torch.zeros_like(field[0])
    result[..., :-1, :] += along_y
    result[..., 1:, :] -= along_y
    result[..., :, :-1] += along_x
    result[..., :, 1:] -= along_x
    return result


def total_variation(image: Tensor) -> Tensor:
    """Isotropic: the sum over pixels of the gradient's length, real and imaginary part together; (b,)."""
    return _total(_magnitude(gradient(image)))


def _magnitude(field: Tensor) -> Tensor:
    return torch.view_as_real(field).square().sum(dim=(0, -1)).sqrt()


def _constrained(image: Tensor, real: bool) -> Tensor:
    return torch.complex(image.real, torch.zeros_like(image.real)) if real else image


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a.real * b.real + a.imag * b.imag


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).double().sum(dim=1)  # double: the objective is a small difference of large sums
