"""Random columns."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrecon.sites.imaging.masks.mask import ColumnMask, Samples


class Random(ColumnMask):
    """Each column outside the centre on its own with probability (N/R - n_low) / (N - n_low).

    Equal to fastMRI's ``RandomMaskFunc`` bit for bit for the same seed. The acceleration holds on average
    only.
    """

    paper: ClassVar[str] = (
        "Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, arXiv:1811.08839, 2018"
    )

    def columns(self, n: int, n_low: int, random: np.random.RandomState) -> Samples:
        """Independent columns."""
        probability = (n / self.acceleration - n_low) / (n - n_low)
        return random.uniform(size=n) < probability
