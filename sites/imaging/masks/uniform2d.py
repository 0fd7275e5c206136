"""Points of the k-space plane, all equally likely."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.imaging.masks.mask import DensityMask, Shape
from fedrecon.sites.papers import SPARSE_MRI


class Uniform2d(DensityMask):
    """Distinct points drawn uniformly outside the fully sampled centre."""

    paper: ClassVar[str] = SPARSE_MRI

    def log_density(self, shape: Shape) -> NDArray[np.float64]:
        """A constant density, (y, x)."""
        return np.zeros(shape)
