"""Points of the k-space plane with a normal density."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrecon.sites.imaging.masks.mask import DensityMask, Shape


class Gaussian2d(DensityMask):
    """Distinct points from a normal density around DC with standard deviation width * sqrt(N//2) on each axis.

    With the default width this is the density of DIRECT's ``Gaussian2DMaskFunc``. The number of samples is exact.

    Attributes:
        width: factor on the standard deviation.
    """

    paper: ClassVar[str] = """
        @article{yiasemis2022direct,
            author = {Yiasemis, George and Moriakov, Nikita and Karkalousos, Dimitrios and Caan, Matthan and
                Teuwen, Jonas},
            title = {{DIRECT}: Deep Image {REConstruction} Toolkit},
            journal = {Journal of Open Source Software},
            volume = {7},
            number = {73},
            pages = {4278},
            year = {2022},
            doi = {10.21105/joss.04278}
        }
    """

    width: float = Field(6.0, ge=0.1, le=1000)

    def log_density(self, shape: Shape) -> NDArray[np.float64]:
        """Minus half the squared distance from DC, in units of the standard deviation, (y, x)."""
        y, x = ((np.arange(n) - n // 2) / (self.width * max(n // 2, 1) ** 0.5) for n in shape)
        log_density: NDArray[np.float64] = -0.5 * (y[:, None] ** 2 + x[None, :] ** 2)
        return log_density
