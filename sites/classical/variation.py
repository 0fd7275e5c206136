"""The penalty weight * TV(x), where TV is the isotropic total variation, and its proximal step.

Beck and Teboulle, IEEE TIP 18(11), 2009: the fast gradient projection for the dual problem (section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrecon.sites.classical.fista import real_part, total


@dataclass(frozen=True)
class Variation:
    """The penalty weight * TV(x) of complex (or ``real``) images.

    Attributes:
        weight: weight of the penalty.
        iterations: number of iterations of each proximal step, which starts at the dual solution of the step before.
        real: whether only real images are allowed.
    """

    weight: float
    iterations: int
    real: bool = False

    def value(self, image: Tensor) -> Tensor:
        """The penalty of each image, (b,)."""
        return self.weight * total_variation(image)

    def proximal(self, image: Tensor, warm: Tensor | None) -> tuple[Tensor, Tensor]:
        """The minimiser and its dual solution, see :func:`proximal`."""
        return proximal(image, self.weight, self.iterations, real=self.real, dual=warm)


def proximal(
    image: Tensor, weight: float, iterations: int, *, real: bool = False, dual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """argmin_x 1/2 |x - image|^2 + weight * TV(x) over complex (or real) x, and its dual solution (2, b, y, x).

    It uses fast gradient projection (FGP, section 4.3). The gradient of the dual problem has the Lipschitz
    constant 8 weight^2.

    Args:
        dual: the dual solution from which the iteration starts; None starts from zero.
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
    """The isotropic total variation, (b,): the sum over pixels of the length of the complex gradient."""
    return total(_magnitude(gradient(image)))


def _magnitude(field: Tensor) -> Tensor:
    return torch.view_as_real(field).square().sum(dim=(0, -1)).sqrt()


def _constrained(image: Tensor, real: bool) -> Tensor:
    return real_part(image) if real else image
