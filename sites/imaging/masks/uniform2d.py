"""Points of the k-space plane, all equally likely."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.imaging.masks.mask import DensityMask, Shape


class Uniform2d(DensityMask):
    """Distinct points drawn uniformly outside the fully sampled centre."""

    paper: ClassVar[str] = "Lustig, Donoho, Pauly, Sparse MRI, Magn. Reson. Med. 58:1182, 2007"

    def log_density(self, shape: Shape) -> NDArray[np.float64]:
        """A constant density, (y, x)."""
        return np.zeros(shape)
