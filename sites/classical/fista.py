"""Monotone FISTA for 1/2 |A x - y|^2 + penalty(x), batched over slices. Each slice is a problem of its own.

Beck and Teboulle, IEEE TIP 18(11), 2009: MFISTA (section 5). The coil maps have unit sum of squares, so |A| <= 1 and
the step size is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Measurement


class Penalty(Protocol):
    """A convex function of each image of a batch."""

    @property
    def real(self) -> bool:
        """Whether the penalty is infinite for images that are not real."""
        ...

    def value(self, image: Tensor) -> Tensor:
        """The penalty of each image: images (b, y, x) complex64 to (b,) double."""
        ...

    def proximal(self, image: Tensor, warm: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """argmin_x 1/2 |x - image|^2 + penalty(x), (b, y, x), and the value ``warm`` where the next step starts."""
        ...


class Minimum(NamedTuple):
    """The result of a minimisation.

    Attributes:
        image: the minimiser, (b, y, x) complex64 at the scale of the data.
        objective: the objective at the start and after each iteration, (1 + iterations, b), for data divided by its
            scale.
    """

    image: Tensor
    objective: Tensor


@torch.no_grad()
def minimise(measurement: Measurement, penalty: Penalty, iterations: int) -> Minimum:
    """The minimiser over complex (or real) images. The iteration starts from the zero-filled image.

    The momentum step is linear. So A^H A is applied only once in an iteration, to the candidate ``z``; A^H A of
    the image and of the extrapolated point follow from it.
    """
    unit = measurement.scale[:, None, None]
    measured = measurement.back_projected / unit  # A^H y
    energy = total((measurement.kspace / unit[..., None]).abs().square()) / 2

    def objective(image: Tensor, normal: Tensor) -> Tensor:
        data = total(dot(image, normal)) / 2 - total(dot(image, measured)) + energy
        return data + penalty.value(image)

    image = real_part(measured) if penalty.real else measured
    normal = measurement.operator.normal(image)
    point, point_normal, t = image, normal, 1.0
    warm: Tensor | None = None
    values = [objective(image, normal)]
    for _ in range(iterations):
        step = point - (point_normal - measured)
        z, warm = penalty.proximal(step, warm)
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


def real_part(image: Tensor) -> Tensor:
    """The nearest real image, with a complex dtype."""
    return torch.complex(image.real, torch.zeros_like(image.real))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Re(conj(a) b), element by element."""
    return a.real * b.real + a.imag * b.imag


def total(values: Tensor) -> Tensor:
    """The sum over all axes but the first, (b,)."""
    return values.flatten(1).double().sum(dim=1)  # double: the objective is a small difference of large sums
