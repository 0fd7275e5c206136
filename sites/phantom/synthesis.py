"""Synthesised heads: each subject has folds, ventricles, deep nuclei, lesions, size and shape of its own.

No atlas is used. The cortex is what lies within some millimetres of fluid, and fluid lies at the surface, in the
fissure between the hemispheres, and in sulci: the zero sheets of a band-limited random field that runs nearly along the
radius. The sizes are round numbers of ours, within the range of healthy and atrophied adults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedrecon.sites.phantom.anatomy import (
    CENTRE,
    N_SLICES,
    SLICES_MM,
    Volume,
    deform,
    layers,
    step,
    temporal_muscle,
    with_lesions,
)
from fedrecon.sites.phantom.fields import smooth_field

# Middle and half axes of the brain's envelope (x, y, z), in mm; the space in which folds are drawn, and its grid.
_MIDDLE, _HALF_AXES = (CENTRE[0], CENTRE[1], 8.0), (65.0, 83.0, 68.0)
_FOLD_RADIUS_MM, _FOLD_STEP_MM, _FOLD_POINTS = 75.0, 2.5, 72
_SUB_SLICES = 2
# (x, y, z) of the lateral ventricle of one side in mm, from the frontal to the occipital horn; the radius in parts.
_VENTRICLE = ((8, 30, 8, 0.9), (11, 8, 20, 1.0), (14, -20, 24, 1.0), (25, -44, 12, 1.3), (22, -66, 6, 0.5))
# Middle and half axes of the deep nuclei of one side: caudate, putamen and pallidum, thalamus.
_NUCLEI = (((13, 14, 10), (5, 10, 10)), ((25, 2, 3), (6, 17, 11)), ((11, -20, 8), (9, 14, 9)))


@dataclass(frozen=True)
class _Person:
    """What differs between subjects, beside fields: lengths in mm, and factors."""

    gap: float
    sulcus: float
    cortex: float
    wavelength: float
    depth: float
    ventricle: float
    egg: float
    nuclei: NDArray[np.float64]
    lesions: float
    lesion_radius: float


def _person(random: np.random.Generator) -> _Person:
    atrophy = random.beta(1.3, 2.0)
    return _Person(
        gap=0.4 + 3.0 * atrophy * random.uniform(0.5, 1.5),
        sulcus=0.6 + 3.0 * atrophy * random.uniform(0.5, 1.5),
        cortex=random.uniform(2.3, 3.9) - 0.5 * atrophy,
        wavelength=random.uniform(17, 30),
        depth=random.uniform(13, 26),
        ventricle=(2.2 + 7 * atrophy) * random.uniform(0.7, 1.4),
        egg=random.normal(0.10, 0.05),
        nuclei=np.exp(random.normal(0, 0.12, len(_NUCLEI))),
        lesions=float(random.choice([0, 2, 8, 20])),
        lesion_radius=random.uniform(3, 9),
    )


def synthetic_tissues(
    random: np.random.Generator, slice_mm: float, y: NDArray[np.float64], x: NDArray[np.float64]
) -> Mapping[str, Volume]:
    """Shares of every tissue (slices, y, x) in one new subject. The rest up to 1 is air.

    Args:
        random: the generator of the subject.
        slice_mm: thickness of a slice in mm; its tissues are the mean over two planes within it.
        y, x: positions in mm from the middle of the field of view, as for
            :func:`~fedrecon.sites.phantom.anatomy.subject_tissues`.
    """
    one = _person(random)
    middle = np.linspace(*SLICES_MM, N_SLICES) + random.uniform(-6, 6)
    planes = slice_mm * ((np.arange(_SUB_SLICES) + 0.5) / _SUB_SLICES - 0.5)
    axes = ((middle[:, None] + planes).ravel(), y, x)
    where = deform(random, *axes, spread=2.0, largest=0.08)  # a larger head leaves the field of view
    unit = (where - _column(_MIDDLE)) / _column(_HALF_AXES)
    unit[0] *= 1 + np.float32(one.egg) * unit[1]  # narrower in front
    radius = np.sqrt((unit**2).sum(axis=0))
    steep = np.sqrt(((unit / _column(_HALF_AXES)) ** 2).sum(axis=0))
    # The distance from an ellipsoid to first order, r (r - 1) / |grad r^2 / 2|, in mm.
    outside = radius * (radius - 1) / np.maximum(steep, np.float32(1e-6))
    thickness = np.exp(0.15 * smooth_field(random, axes, 60.0)[0] + random.normal(0, 0.15))
    distance = outside / np.clip(thickness, 0.7, 1.3)
    found = layers(distance, distance, temporal_muscle(where) * random.uniform(0.4, 1.1))

    below = -outside - np.float32(one.gap)  # depth under the surface of the brain
    fluid = np.minimum(below, _to_sulci(random, one, axes, unit, radius, below))
    fluid = np.minimum(fluid, _to_fissure(one, where))
    ventricle = _to_ventricles(random, one, where)
    thick = one.cortex * (1 + 0.12 * smooth_field(random, axes, 25.0)[0])
    brain = np.minimum(step(fluid), step(ventricle))
    grey = np.maximum(1 - step(fluid - thick), 1 - step(_to_nuclei(one, where)))
    shares = {**found, "grey": brain * grey, "white": brain * (1 - grey)}
    shares["csf"] = np.clip(found["csf"] - brain, 0, 1)
    tissues = {
        name: share.reshape(N_SLICES, _SUB_SLICES, *share.shape[1:]).mean(axis=1) for name, share in shares.items()
    }
    return with_lesions(random, tissues, (middle, y, x), one.lesions, (1.5, one.lesion_radius))


def _column(values: Sequence[float] | NDArray[np.float64]) -> Volume:
    return np.array(values, np.float32)[:, None, None, None]


def _to_sulci(
    random: np.random.Generator,
    one: _Person,
    axes: tuple[NDArray[np.float64], ...],
    unit: Volume,
    radius: Volume,
    below: Volume,
) -> Volume:
    """Distance in mm from the fluid of the sulci."""
    folds = _fold_field(random, one.wavelength)
    inside = below > -3
    # Almost the same point of the surface for all depths, so the sheets stand on the surface.
    point = unit[:, inside] / np.maximum(radius[inside], np.float32(0.05)) ** 0.7
    grid = point * np.float32(_FOLD_RADIUS_MM / _FOLD_STEP_MM) + np.float32(_FOLD_POINTS / 2)
    value = np.zeros_like(below)
    value[inside] = ndimage.map_coordinates(folds, grid, order=1, mode="wrap")
    pixel = axes[1][1] - axes[1][0]
    slope = np.hypot(*np.gradient(value, pixel, axis=(1, 2)))
    sheet = np.abs(value) / np.maximum(slope, np.float32(0.35 * 2 * np.pi / one.wavelength))
    depth = one.depth * (1 + 0.5 * smooth_field(random, axes, 18.0)[0])
    width = one.sulcus * np.exp(0.3 * smooth_field(random, axes, 22.0)[0]) / 2
    distance: Volume = np.hypot(sheet, np.maximum(below - depth, 0)) - width
    return distance


def _fold_field(random: np.random.Generator, wavelength_mm: float) -> Volume:
    """A periodic random field of unit variance on a cubic grid, with wavelengths about the given one."""
    noise = np.fft.rfftn(random.standard_normal((_FOLD_POINTS,) * 3).astype(np.float32))
    full, half = np.fft.fftfreq(_FOLD_POINTS, _FOLD_STEP_MM), np.fft.rfftfreq(_FOLD_POINTS, _FOLD_STEP_MM)
    frequency = np.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2)
    band = np.exp(-0.5 * ((frequency * wavelength_mm - 1) / 0.22) ** 2)
    field: Volume = np.fft.irfftn(noise * band, s=(_FOLD_POINTS,) * 3, axes=(0, 1, 2)).astype(np.float32)
    field /= field.std()
    return field


def _to_fissure(one: _Person, where: Volume) -> Volume:
    """Distance in mm from the fluid between the hemispheres. It ends above the corpus callosum."""
    bridge = np.hypot((where[1] + 10) / 48, (where[2] - 6) / 30)
    distance: Volume = np.hypot(where[0], np.maximum(1 - bridge, 0) * 35) - np.float32(0.4 + one.sulcus / 2)
    return distance


def _to_ventricles(random: np.random.Generator, one: _Person, where: Volume) -> Volume:
    """Distance in mm from the two lateral ventricles and the third. Tubes join the points of the lateral ones."""
    # The third: a flat ellipsoid in the middle.
    third = _ellipsoid(where, (0, -12, 2), (1.0 + 0.35 * one.ventricle, 14, 9))
    for side in (-1, 1):
        size = one.ventricle * random.uniform(0.8, 1.25)
        points = np.array(_VENTRICLE) * (side, 1, 1, size)
        points[:, :3] += random.normal(0, 2.0, (len(points), 3)) * (0.4, 1, 1)
        for (*start, first), (*end, last) in pairwise(points):
            along = np.subtract(end, start)
            offset = where - _column(start)
            part = np.clip(np.tensordot(along.astype(np.float32), offset, 1) / np.float32(along @ along), 0, 1)
            nearest = offset - part * _column(along)
            tube = np.sqrt((nearest**2).sum(axis=0)) - (first + (last - first) * part).astype(np.float32)
            third = np.minimum(third, tube)
    return third


def _to_nuclei(one: _Person, where: Volume) -> Volume:
    mirrored = np.stack([np.abs(where[0]), where[1], where[2]])
    found = [
        _ellipsoid(mirrored, middle, tuple(size * np.array(half)))
        for (middle, half), size in zip(_NUCLEI, one.nuclei, strict=True)
    ]
    nearest: Volume = np.minimum.reduce(found)
    return nearest


def _ellipsoid(where: Volume, middle: Sequence[float], half_axes: Sequence[float]) -> Volume:
    """Distance in mm from an ellipsoid, to first order."""
    unit = (where - _column(middle)) / _column(half_axes)
    radius = np.sqrt((unit**2).sum(axis=0))
    distance: Volume = (radius - 1) * np.float32(min(half_axes))
    return distance
