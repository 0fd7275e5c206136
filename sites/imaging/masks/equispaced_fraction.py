"""Equispaced columns whose spacing makes up for the fully sampled centre."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrecon.sites.imaging.masks.mask import ColumnMask, Samples


class EquispacedFraction(ColumnMask):
    """Every R'-th column from a random offset, with R' = R (n_low - N) / (n_low R - N), which is not an
    integer.

    Equal to fastMRI's ``EquispacedMaskFractionFunc`` bit for bit for the same seed; acceleration 1 samples
    the last column too, which the original leaves out.
    """

    paper: ClassVar[str] = (
        "Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, arXiv:1811.08839, 2018"
    )

    def columns(self, n: int, n_low: int, random: np.random.RandomState) -> Samples:
        """Rounded positions of the real-valued comb."""
        spacing = (self.acceleration * (n_low - n)) / (n_low * self.acceleration - n)
        offset = random.randint(0, high=round(spacing))
        columns = np.zeros(n, dtype=bool)
        columns[np.around(np.arange(offset, n - 1, spacing)).astype(np.intp)] = True
        return columns
