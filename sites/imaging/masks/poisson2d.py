"""Variable-density Poisson-disc points of the k-space plane."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.imaging.masks.mask import EllipseMask, Samples, Shape

_SURPLUS = 1.03
"""Factor on the wanted number of samples, for which the slope is chosen. The surplus is then removed at random."""


class Poisson2d(EllipseMask):
    """Points that keep a distance from each other. The distance grows linearly from the edge of the centre.

    Grid points are visited in random order. A point that is still free is sampled, and its neighbours closer than
    slope * d + u are blocked. d is its distance from the centre's edge over the largest such distance. u is
    uniform in [0, 1), so that the density changes smoothly on a grid, and slope 0 samples everything. Bisection
    finds the slope, once per shape and parameters. The number of samples is exact: a few points are then removed at
    random, or, mostly on small matrices, added at random within the distance.
    """

    paper: ClassVar[str] = """
        @inproceedings{bridson2007poisson,
            author = {Bridson, Robert},
            title = {Fast {Poisson} Disk Sampling in Arbitrary Dimensions},
            booktitle = {ACM SIGGRAPH 2007 Sketches},
            year = {2007},
            doi = {10.1145/1278780.1278807}
        }

        @inproceedings{vasanawala2011practical,
            author = {Vasanawala, S. S. and Murphy, M. J. and Alley, M. T. and Lai, P. and Keutzer, K. and
                Pauly, J. M. and Lustig, M.},
            title = {Practical Parallel Imaging Compressed Sensing {MRI}: Summary of Two Years of Experience in
                Accelerating Body {MRI} of Pediatric Patients},
            booktitle = {IEEE International Symposium on Biomedical Imaging: From Nano to Macro},
            pages = {1039--1043},
            year = {2011},
            doi = {10.1109/ISBI.2011.5872579}
        }
    """

    own_science: ClassVar[Mapping[str, str]] = {"poisson_samples": "exact"}  # some draws once had a few less

    def draw(self, shape: Shape, random: np.random.RandomState) -> Samples:
        """The points at the slope that fits. A few are removed or added at random, so that their number is exact."""
        centre, allowed = self.ellipse(shape), self.n_samples(shape)
        mask = _discs(centre, _outside(self, shape), _slope(self, shape), random)
        drawn = np.flatnonzero(mask & ~centre)
        surplus = len(drawn) + int(centre.sum()) - allowed
        if surplus > 0:
            mask.flat[random.permutation(drawn)[:surplus]] = False
        elif surplus < 0:
            mask.flat[random.permutation(np.flatnonzero(~mask))[:-surplus]] = True
        return mask


def _outside(mask: EllipseMask, shape: Shape) -> NDArray[np.float64]:
    """The distance from the centre's edge over the largest such distance, (y, x) in [0, 1]."""
    distance = np.maximum(mask.distance(shape) - 1, 0)
    return distance / max(float(distance.max()), 1e-12)


@functools.lru_cache(maxsize=256)
def _slope(mask: EllipseMask, shape: Shape) -> float:
    """The slope at which a draw has just enough samples; a pure function of mask and shape."""
    centre, outside = mask.ellipse(shape), _outside(mask, shape)
    wanted = _SURPLUS * mask.n_samples(shape)

    def enough(slope: float) -> bool:
        return bool(_discs(centre, outside, slope, np.random.RandomState(0)).sum() >= wanted)

    # the search goes upwards: a slope that is far too steep would have enormous discs
    low, high = 0.0, 1.0
    while enough(high) and high < max(shape):
        low, high = high, 2 * high
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def _discs(centre: Samples, outside: NDArray[np.float64], slope: float, random: np.random.RandomState) -> Samples:
    """Random placement on the grid, point by point. The centre is always sampled, and it blocks no other point."""
    n_y, n_x = centre.shape
    radius = slope * outside + random.uniform(size=centre.shape)
    margin = int(radius.max()) + 1
    # a frame around the grid, so that a disc at the border needs no clipping
    width = n_x + 2 * margin
    free = np.zeros((n_y + 2 * margin, width), dtype=bool)
    free[margin:-margin, margin:-margin] = ~centre
    free = free.ravel()
    sampled = np.zeros_like(free)
    squared = np.ceil(radius**2).astype(np.intp).ravel()
    offsets, ends = _offsets(int(squared.max()), margin, width)
    candidates = random.permutation(np.flatnonzero(~centre))
    positions = (candidates // n_x + margin) * width + candidates % n_x + margin
    for position, size in zip(positions.tolist(), squared[candidates].tolist(), strict=True):
        if free[position]:
            sampled[position] = True
            if size > 1:
                free[offsets[: ends[size]] + position] = False
    return sampled.reshape(-1, width)[margin:-margin, margin:-margin] | centre


@functools.lru_cache(maxsize=64)
def _offsets(largest: int, margin: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Flat offsets of the neighbours, the nearest first, and how many have a squared distance below 0 ... largest."""
    step = np.arange(-margin, margin + 1)
    distance = step[:, None] ** 2 + step[None, :] ** 2
    flat = step[:, None] * width + step[None, :]
    order = np.argsort(distance, axis=None, kind="stable")
    return flat.ravel()[order], np.searchsorted(distance.ravel()[order], np.arange(largest + 1))
