"""The base class of sampling masks, and the two shapes of their fully sampled centre: columns, or an ellipse.

DC is at N//2. Only the seed decides a mask. It is drawn by numpy's RandomState, whose streams never change. So
the same seed gives the same mask on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import Plugin

Shape = tuple[int, int]
Samples = NDArray[np.bool_]


def centred(length: int, size: int) -> slice:
    """The ``size`` samples around DC of an axis. They start at (length - size + 1)//2, as in fastMRI."""
    start = (length - size + 1) // 2
    return slice(start, start + size)


def measured_acceleration(mask: NDArray[np.bool_]) -> float:
    """The acceleration that a mask really has: grid points over samples. The nominal acceleration may differ."""
    return mask.size / max(int(np.count_nonzero(mask)), 1)


def calibration_box(sampled: Samples) -> Shape:
    """Size (y, x) of a centred box in the mask (y, x) that is fully sampled, and none of whose sides can grow.

    It grows from DC by one row and one column in turn, where all samples are there.

    Raises:
        InputError: the centre of k-space (DC) was not measured.
    """

    def full(size: tuple[int, int]) -> bool:
        rows, columns = (centred(n, s) for n, s in zip(sampled.shape, size, strict=True))
        return bool(sampled[rows, columns].all())

    size = (1, 1)
    if not full(size):
        raise InputError("the centre of k-space (DC at N//2) was not measured: is the k-space centred?")
    grown = True
    while grown:
        grown = False
        for step in ((1, 0), (0, 1)):
            larger = (size[0] + step[0], size[1] + step[1])
            if larger[0] <= sampled.shape[0] and larger[1] <= sampled.shape[1] and full(larger):
                size, grown = larger, True
    return size


def slice_boxes(volume: str, sampled: Samples, first: int = 0) -> list[Shape]:
    """The :func:`calibration_box` of each slice of a mask (slices, y, x).

    Args:
        volume, first: name of the volume, and the number of the first slice in it, for the message.

    Raises:
        InputError: the centre of k-space was not measured; the message names the volume and the slice.
    """
    found = []
    for index, one in enumerate(sampled, first):
        try:
            found.append(calibration_box(one))
        except InputError as error:
            raise InputError(f"volume '{volume}', slice {index}: {error}") from None
    return found


class Mask(Plugin):
    """A family of Cartesian sampling masks.

    Attributes:
        paper: the works to cite for the family, as BibTeX entries.
        acceleration: grid points over samples, the fully sampled centre included; 1 samples everything.
        center_fraction: size of the fully sampled centre, as the family defines it.
        own_science: what enters digests beside the parameters: the mark of a fix that changed the family's masks.
    """

    paper: ClassVar[str] = ""
    own_science: ClassVar[Mapping[str, str]] = {}

    acceleration: float = Field(ge=1, le=10**4)
    center_fraction: float = Field(0.08, gt=0, le=1)

    def sample(self, shape: Shape, seed: int) -> Samples:
        """One mask (y, x), True at measured samples. The same seed gives the same mask.

        Raises:
            InputError: the seed is negative, or the mask is refused (see :meth:`check`).
        """
        self.check(shape)
        if self.acceleration == 1:
            return np.ones(shape, dtype=bool)
        return self.draw(shape, np.random.RandomState(_words(seed)))

    def calibration(self, shape: Shape) -> Shape:
        """Size (y, x) of the centred box (see :func:`centred`) that every draw samples fully."""
        return shape if self.acceleration == 1 else self.box(shape)

    def check(self, shape: Shape) -> None:
        """Refuses a mask that cannot reach its acceleration on this matrix (y, x).

        Raises:
            InputError: the mask is refused; the message names a possible ``center_fraction`` or the largest possible
                acceleration.
        """
        if min(shape) < 1:
            raise InputError(f"a mask needs a matrix (y, x) of at least 1 x 1, got {shape}")
        if self.acceleration > 1:
            self.check_centre(shape)

    def fraction_for(self, shape: Shape, side: int) -> float | None:
        """The smallest ``center_fraction``, in thousandths, whose box has no side below ``side``.

        None if the mask cannot reach its acceleration with it.
        """
        for thousandths in range(1, 1001):
            larger = self.model_copy(update={"center_fraction": thousandths / 1000})
            if min(larger.calibration(shape)) >= side:
                try:
                    larger.check(shape)
                except InputError:
                    return None
                return larger.center_fraction
        return None

    def draw(self, shape: Shape, random: np.random.RandomState) -> Samples:
        """A mask (y, x) of this family, for an acceleration above 1 that :meth:`check` accepted."""
        raise NotImplementedError

    def box(self, shape: Shape) -> Shape:
        """The calibration box (y, x) of this family, for an acceleration above 1."""
        raise NotImplementedError

    def check_centre(self, shape: Shape) -> None:
        """Refuses a centre that leaves no sample outside it.

        Raises:
            InputError: the centre is refused.
        """
        raise NotImplementedError

    def _refusal(self, shape: Shape, why: str, advice: str) -> InputError:
        return InputError(
            f"acceleration {self.acceleration:g} cannot be reached on {shape[0]} x {shape[1]} with "
            f"center_fraction {self.center_fraction:g}: {why}. {advice}"
        )


class ColumnMask(Mask):
    """Whole columns of the last axis: the centre is round(center_fraction * N_x) columns."""

    def box(self, shape: Shape) -> Shape:
        """The central columns with all their rows."""
        return shape[0], round(shape[1] * self.center_fraction)

    def draw(self, shape: Shape, random: np.random.RandomState) -> Samples:
        """The same columns in every row."""
        n, n_low = shape[1], self.box(shape)[1]
        columns = self.columns(n, n_low, random)
        columns[centred(n, n_low)] = True
        return np.ascontiguousarray(np.broadcast_to(columns, shape))

    def columns(self, n: int, n_low: int, random: np.random.RandomState) -> Samples:
        """The sampled columns (n,) outside the centre. The caller adds the ``n_low`` central columns."""
        raise NotImplementedError

    def check_centre(self, shape: Shape) -> None:
        """Requires at least one column in the centre and one outside it: 1 <= n_low <= N_x / R - 1."""
        n, n_low = shape[1], self.box(shape)[1]
        most = math.floor(n / self.acceleration) - 1
        if 1 <= n_low <= most:
            return
        why = f"its centre has {n_low} of the {n} columns, but only {n / self.acceleration:.3g} may be measured"
        if most < 1:
            raise self._refusal(shape, why, f"On this matrix the acceleration can be at most {n / 2:g}.")
        low, high = f"{1 / n:.3g}", f"{most / n:.3g}"
        would = f"of {low}" if low == high else f"from {low} to {high}"
        raise self._refusal(shape, why, f"A center_fraction {would} would do.")


class EllipseMask(Mask):
    """Points of the k-space plane: the fully sampled centre is an ellipse.

    Its semi-axes are center_fraction N / sqrt(pi), so it has the area of a box of center_fraction N_y x
    center_fraction N_x. The number of samples is round(N_y N_x / R) in every draw.
    """

    def box(self, shape: Shape) -> Shape:
        """The box inscribed in the ellipse, with odd sides and the ellipse's aspect ratio."""
        y, x = (2 * math.floor(radius / math.sqrt(2)) + 1 for radius in self._radii(shape))
        return min(y, shape[0]), min(x, shape[1])

    def ellipse(self, shape: Shape) -> Samples:
        """The fully sampled centre (y, x)."""
        return self.distance(shape) <= 1

    def distance(self, shape: Shape) -> NDArray[np.float64]:
        """Distance from DC in units of the ellipse: 1 on its edge, (y, x)."""
        y, x = ((np.arange(n) - n // 2) / max(radius, 0.5) for n, radius in zip(shape, self._radii(shape), strict=True))
        return np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)

    def n_samples(self, shape: Shape) -> int:
        """The number of samples of every draw, the centre included."""
        return round(shape[0] * shape[1] / self.acceleration)

    def check_centre(self, shape: Shape) -> None:
        """Requires that the centre has fewer samples than the mask may have."""
        allowed, centre = self.n_samples(shape), int(self.ellipse(shape).sum())
        if centre < allowed:
            return
        why = f"its centre has {centre} samples, but only {allowed} may be measured"
        would_do = self._largest_fraction(shape, allowed)
        if would_do is None:
            most = shape[0] * shape[1] / 2
            raise self._refusal(shape, why, f"On this matrix the acceleration can be at most {most:g}.")
        raise self._refusal(shape, why, f"A center_fraction of at most {would_do:g} would do.")

    def _largest_fraction(self, shape: Shape, allowed: int) -> float | None:
        thousandths = range(int(1000 * self.center_fraction), 0, -1)
        smaller = (self.model_copy(update={"center_fraction": n / 1000}) for n in thousandths)
        return next((m.center_fraction for m in smaller if m.ellipse(shape).sum() < allowed), None)

    def _radii(self, shape: Shape) -> tuple[float, float]:
        y, x = (self.center_fraction * n / math.sqrt(math.pi) for n in shape)
        return y, x


class DensityMask(EllipseMask):
    """Distinct points, drawn one after the other with a probability that depends on their position."""

    def log_density(self, shape: Shape) -> NDArray[np.float64]:
        """The logarithm of the density of the points, up to a constant, (y, x)."""
        raise NotImplementedError

    def draw(self, shape: Shape, random: np.random.RandomState) -> Samples:
        """The centre, and the points with the largest keys.

        A key is the log density plus Gumbel noise. The k largest keys are k weighted draws without replacement
        (Efraimidis and Spirakis, Inf. Process. Lett. 97:181, 2006). So the number of samples is exact, and no
        point is drawn twice.
        """
        mask = self.ellipse(shape)
        keys = self.log_density(shape) + random.gumbel(size=shape)
        keys[mask] = -np.inf
        n_drawn = self.n_samples(shape) - int(mask.sum())
        mask.flat[np.argpartition(keys, -n_drawn, axis=None)[-n_drawn:]] = True
        return mask


def _words(seed: int) -> int | list[int]:
    """A seed in the form that RandomState takes: one number below 2^32, or the seed's 32-bit words, lowest first."""
    if seed < 0:
        raise InputError(f"a mask seed must be at least 0, got {seed}")
    words = [(seed >> shift) & 0xFFFFFFFF for shift in range(0, max(seed.bit_length(), 1), 32)]
    return words[0] if len(words) == 1 else words
