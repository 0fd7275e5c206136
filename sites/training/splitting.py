"""Self-supervision: splits the measured samples of a slice into those that are given and those that the loss compares.

Yaman et al., Magn Reson Med 84(6):3172-3191, 2020 (SSDU). No fully sampled image is needed. The settings load no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks.mask import centred
from fedrecon.sites.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement

SSDU = "ssdu"
"""Name of the loss, and of the key beside it."""


class Splitting(Settings):
    """How the measured samples of a slice are split, anew in each epoch.

    The samples of the calibration box are always given: the coil maps come from them. (The paper keeps the central
    4 x 4 samples; with columns the box holds all rows.) The others are split point by point, also in whole columns.

    Attributes:
        ratio: share of the measured samples outside the calibration box that the loss compares (rho in the paper, there
            of all measured samples); the others are given to the network and to its data consistency.
        selection: density of the compared samples: ``gaussian`` with a standard deviation of a quarter of the matrix
            along each axis, as published, or ``uniform``.
    """

    ratio: float = Field(0.4, gt=0, lt=1)
    selection: Literal["gaussian", "uniform"] = "gaussian"

    def held(self, mask: NDArray[np.bool_], box: tuple[int, int], random: np.random.Generator) -> NDArray[np.bool_]:
        """The samples (y, x) that the loss compares, Lambda in the paper; the given ones are ``mask & ~held``.

        A key is the log density plus Gumbel noise. The k largest keys are k weighted draws without replacement, so the
        number of samples is exact.

        Args:
            mask: the measured samples, (y, x).
            box: size (y, x) of the centred calibration box.

        Raises:
            InputError: fewer than two samples were measured outside the box.
        """
        free = mask.copy()
        free[tuple(centred(n, size) for n, size in zip(mask.shape, box, strict=True))] = False
        places = np.flatnonzero(free)
        if len(places) < 2:
            raise InputError(
                f"the loss '{SSDU}' compares measured samples outside the calibration box ({box[0]} x {box[1]}), and "
                f"{len(places)} were measured there; at least 2 are needed"
            )
        keys = random.gumbel(size=len(places))
        if self.selection == "gaussian":
            for at, n in zip(np.unravel_index(places, mask.shape), mask.shape, strict=True):
                keys -= ((at - n // 2) / (n / 4)) ** 2 / 2
        count = min(max(1, round(self.ratio * len(places))), len(places) - 1)
        found = np.zeros_like(mask)
        found.flat[places[np.argpartition(keys, -count)[-count:]]] = True
        return found


def split(kspace: Tensor, mask: Tensor, held: Tensor, maps: Tensor) -> Measurement:
    """The measurement by the given samples, which carries the compared ones in ``held``.

    Args:
        kspace: (b, c, y, x) complex64; samples outside ``mask`` are not used. maps: coil maps, (b, c, y, x).
        mask, held: the measured and the compared samples, (b, 1, y, x) bool.
    """
    from dataclasses import replace

    from fedrecon.sites.imaging.measurement import Held, measure
    from fedrecon.sites.imaging.operator import Cartesian

    given = measure(kspace, mask & ~held, maps)
    return replace(given, held=Held(Cartesian(mask & held, maps), (mask & held) * kspace))


def measured_by(kspace: Any) -> NDArray[np.bool_]:
    """The measured samples (y, x) of a slice (c, y, x) that was undersampled by its scanner: not zero in some coil."""
    return np.asarray(np.any(kspace != 0, axis=0))
