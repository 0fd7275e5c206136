"""Random patches of measured slices, on which a super-resolution network trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedrecon.sites.imaging.measurement import Measurement


def cut(measured: Measurement, side: int, rng: np.random.Generator) -> Measurement:
    """A random square patch from each slice of a measurement. Its corners lie on whole low-resolution pixels.

    The whole slice was measured before the patch is cut. So the pixels at the patch's edges have the values that they
    have within the slice. A patch has no k-space: only networks that work on the low-resolution image can train on it.

    Args:
        measured: a measurement with a low-resolution image.
        side: side of the patch in high-resolution pixels.
        rng: draws the position of each patch.
    """
    assert measured.low is not None
    scale, (y, x) = measured.factor, measured.low.shape[-2:]
    small = side // scale
    corners = [(int(rng.integers(y - small + 1)), int(rng.integers(x - small + 1))) for _ in measured.low]

    def squares(images: Tensor | None, unit: int) -> Tensor | None:
        if images is None:
            return None
        picks = [(slice(unit * i, unit * (i + small)), slice(unit * j, unit * (j + small))) for i, j in corners]
        return torch.stack([image[pick] for image, pick in zip(images, picks, strict=True)])

    padded = squares(measured.zero_filled, scale)
    assert padded is not None
    return replace(
        measured,
        kspace=measured.kspace[..., :0, :0],
        zero_filled=padded,
        target=squares(measured.target, scale),
        reference=squares(measured.reference, scale),
        low=squares(measured.low, 1),
    )
