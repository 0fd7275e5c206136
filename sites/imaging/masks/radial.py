"""Golden-angle spokes on the Cartesian grid."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.imaging.masks.mask import EllipseMask, Samples, Shape

_GOLDEN_ANGLE = math.pi / ((1 + math.sqrt(5)) / 2)


class Radial(EllipseMask):
    """Full spokes through DC, each turned by 111.246 degrees, until R is reached.

    The first spoke has a random angle. A spoke is rounded to the grid, with one sample for each step along its
    longer axis. The last spoke is cut: it keeps its samples nearest to DC, so that the number of samples is
    round(N_y N_x / R).
    """

    paper: ClassVar[str] = """
        @article{winkelmann2007golden,
            author = {Winkelmann, Stefanie and Schaeffter, Tobias and Koehler, Thomas and Eggers, Holger and
                Doessel, Olaf},
            title = {An Optimal Radial Profile Order Based on the Golden Ratio for Time-Resolved {MRI}},
            journal = {IEEE Transactions on Medical Imaging},
            volume = {26},
            number = {1},
            pages = {68--76},
            year = {2007},
            doi = {10.1109/TMI.2006.885337}
        }
    """

    def draw(self, shape: Shape, random: np.random.RandomState) -> Samples:
        """The grid points in the order in which the spokes meet them, until their number is reached."""
        start = math.pi * random.uniform()
        centre, allowed = self.ellipse(shape), self.n_samples(shape)
        n_spokes = 2 + 2 * allowed // min(shape)
        while True:
            order = _first_visits(shape, start, n_spokes)
            order = order[~centre.flat[order]]
            if len(order) + centre.sum() >= allowed:
                break
            n_spokes *= 2
        centre.flat[order[: allowed - int(centre.sum())]] = True
        return centre


def _first_visits(shape: Shape, start: float, n_spokes: int) -> NDArray[np.intp]:
    """Flat indices of the points on the spokes, each once, sorted by spoke and then by distance from DC."""
    angle = start + _GOLDEN_ANGLE * np.arange(n_spokes)[:, None]
    direction = np.sin(angle), np.cos(angle)
    longest = np.maximum(np.abs(direction[0]), np.abs(direction[1]))
    reach = max(shape) // 2 + 1
    steps = np.stack([np.arange(reach), -np.arange(reach)], axis=1).reshape(1, -1)
    y, x = (n // 2 + np.rint(steps * part / longest).astype(np.intp) for n, part in zip(shape, direction, strict=True))
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    flat = (y * shape[1] + x)[inside]
    _, first = np.unique(flat, return_index=True)
    order: NDArray[np.intp] = flat[np.sort(first)]
    return order
