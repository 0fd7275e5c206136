"""Columns at random positions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrecon.sites.imaging.masks.mask import ColumnMask, Samples
from fedrecon.sites.papers import FASTMRI


class Random(ColumnMask):
    """Columns drawn independently outside the centre, with probability (N/R - n_low) / (N - n_low).

    For the same seed the mask equals fastMRI's ``RandomMaskFunc`` bit for bit. The acceleration is reached only on
    average.
    """

    paper: ClassVar[str] = FASTMRI

    def columns(self, n: int, n_low: int, random: np.random.RandomState) -> Samples:
        """Columns (n,), each drawn independently."""
        probability = (n / self.acceleration - n_low) / (n - n_low)
        return random.uniform(size=n) < probability
