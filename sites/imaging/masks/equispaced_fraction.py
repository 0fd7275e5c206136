"""Equispaced columns. Their spacing allows for the fully sampled centre."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrecon.sites.imaging.masks.mask import ColumnMask, Samples
from fedrecon.sites.papers import FASTMRI


class EquispacedFraction(ColumnMask):
    """Every R'-th column from a random offset, with R' = R (n_low - N) / (n_low R - N).

    R' need not be an integer. For the same seed the mask equals fastMRI's ``EquispacedMaskFractionFunc`` bit for
    bit, with one exception: at acceleration 1 it also samples the last column, which fastMRI leaves out.
    """

    paper: ClassVar[str] = FASTMRI

    def columns(self, n: int, n_low: int, random: np.random.RandomState) -> Samples:
        """The columns at the rounded positions of a comb with the real-valued spacing R'."""
        spacing = (self.acceleration * (n_low - n)) / (n_low * self.acceleration - n)
        offset = random.randint(0, high=round(spacing))
        columns = np.zeros(n, dtype=bool)
        columns[np.around(np.arange(offset, n - 1, spacing)).astype(np.intp)] = True
        return columns
