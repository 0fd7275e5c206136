"""Smooth random fields: cubic B-splines on a lattice of control points (Rueckert et al., IEEE TMI 18:712, 1999)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def spline_basis(positions: NDArray[np.float64], spacing: float) -> NDArray[np.float32]:
    """Cubic B-spline weights (positions, controls) of the control points that reach the positions."""
    u = (positions - positions.min()) / spacing
    controls = np.arange(int(np.ceil(u.max())) + 3) - 1
    distance = np.abs(u[:, None] - controls[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    weights: NDArray[np.float32] = np.where(distance < 1, near, far).astype(np.float32)
    return weights


def smooth_field(
    random: np.random.Generator, axes: Sequence[NDArray[np.float64]], spacing: float, n_fields: int = 1
) -> NDArray[np.float32]:
    """Random fields (n_fields, *lengths of the three axes) of about unit variance.

    Args:
        random: the generator that draws the control points.
        axes: positions along z, y and x, in mm.
        spacing: distance of the control points in mm; smaller details do not occur.
        n_fields: number of independent fields.
    """
    z, y, x = (spline_basis(axis, spacing) for axis in axes)
    # Unit variance at a control point: it has the weights 1/6, 2/3, 1/6 of three independent points along each axis.
    controls = random.standard_normal((n_fields, z.shape[1], y.shape[1], x.shape[1])).astype(np.float32) * 2**1.5
    planes = np.tensordot(z, controls, axes=(1, 1)).swapaxes(0, 1)  # z first: along z there are few control points
    fields: NDArray[np.float32] = y @ np.ascontiguousarray(planes) @ np.ascontiguousarray(x.T)
    return fields
