"""Heads: MNI152 tissue maps inside layers of skull and scalp, deformed anew for every subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedrecon.sites.phantom.fields import smooth_field

Volume = NDArray[np.float32]
# Positions in MNI space, in mm: the middle of the head (x, y), and the lowest and the highest slice (z).
CENTRE = (0.0, -17.0)
SLICES_MM = (-12.0, 58.0)
N_SLICES = 6
# The inner table of the skull follows the brain only into wide gaps; the scalp follows it into hardly any gap.
_INNER_CLOSING_MM, _OUTER_CLOSING_MM = 14.0, 36.0
_COARSE, _MARGIN_MM = 3, 42
# The part of the brain that tilted and deformed slices can reach: two corners (x, y, z) in mm.
_BRAIN_BOX_MM = (-80, -114, -46), (80, 80, 96)


@dataclass(frozen=True)
class Atlas:
    """The templates (x, y, z) on the 1 mm MNI152 grid, and distances on a coarser and wider grid.

    Attributes:
        white, grey: shares of white and grey matter in each voxel. They are sharpened, because the templates are
            the mean of 152 people, and no single person is so blurred.
        inner, outer: distances in mm from the closed brain, positive outside. ``inner`` is for the layers within
            the skull, ``outer`` for the layers on it.
        origin: the position in mm of voxel 0 of the templates.
        coarse_origin: the position in mm of voxel 0 of the distances.
    """

    white: Volume
    grey: Volume
    inner: Volume
    outer: Volume
    origin: NDArray[np.float32]
    coarse_origin: NDArray[np.float32]


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """The atlas from the files in the installed nilearn package, without a download. About 2 s, once per process.

    All callers share it, so it must not be changed.
    """
    # Imported here: it loads pandas and scikit-learn, which no other part of fedrecon needs.
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template

    image = load_mni152_gm_template(resolution=1)
    corner = image.affine[:3, 3].astype(np.float32)
    start, stop = ((np.array(end) - corner).astype(int) for end in _BRAIN_BOX_MM)
    box = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
    grey = np.clip(image.get_fdata(dtype=np.float32)[box], 0, 1)
    white = np.clip(load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)[box], 0, 1)
    mask = load_mni152_brain_mask(resolution=1).get_fdata(dtype=np.float32) > 0
    brain = np.pad(mask[::_COARSE, ::_COARSE, ::_COARSE], _MARGIN_MM // _COARSE)
    inner, outer = (_distance(brain, closing) for closing in (_INNER_CLOSING_MM, _OUTER_CLOSING_MM))
    padding = np.float32(_MARGIN_MM // _COARSE * _COARSE)
    return Atlas(*_sharpen(white, grey), inner, outer, corner + start.astype(np.float32), corner - padding)


def _sharpen(white: Volume, grey: Volume) -> tuple[Volume, Volume]:
    # The mean over people blurs thin sulci most, so CSF gets a higher weight first.
    fluid = 1.7 * np.clip(1 - white - grey, 0, 1)
    white, grey, fluid = white**3, grey**3, fluid**3
    total = np.maximum(white + grey + fluid, np.float32(1e-6))
    return white / total, grey / total


def _distance(brain: NDArray[np.bool_], closing_mm: float) -> Volume:
    """Distance in mm from the brain after a closing: the brain is dilated, and the distance from its surface taken."""
    dilated = ndimage.distance_transform_edt(~brain, sampling=_COARSE) < closing_mm
    outside = ndimage.distance_transform_edt(~dilated, sampling=_COARSE)
    inside = ndimage.distance_transform_edt(dilated, sampling=_COARSE)
    signed = (closing_mm + outside - inside).astype(np.float32)
    smooth: Volume = ndimage.gaussian_filter(signed, 0.8)
    return smooth


@lru_cache(maxsize=8)
def thick_atlas(slice_mm: float) -> Atlas:
    """The atlas for slices of this thickness: the tissue shares are averaged along z."""
    atlas = load_atlas()
    white, grey = (ndimage.uniform_filter1d(a, round(slice_mm), axis=2) for a in (atlas.white, atlas.grey))
    return replace(atlas, white=white, grey=grey)


def subject_tissues(
    random: np.random.Generator, atlas: Atlas, y: NDArray[np.float64], x: NDArray[np.float64]
) -> Mapping[str, Volume]:
    """Shares of every tissue (slices, y, x) in one new subject. The rest up to 1 is air.

    Args:
        random: the generator of the subject.
        atlas: the templates.
        y: positions of the rows in mm from the middle of the field of view; the first is anterior.
        x: positions of the columns in mm; the first column is the patient's right.
    """
    low, high = SLICES_MM
    z = np.linspace(low, high, N_SLICES) + random.uniform(-4, 4)
    where = deform(random, z, y, x)
    voxel = where - atlas.origin[:, None, None, None]
    coarse = (where - atlas.coarse_origin[:, None, None, None]) / np.float32(_COARSE)
    inner = ndimage.map_coordinates(atlas.inner, coarse, order=1, mode="nearest")
    outer = ndimage.map_coordinates(atlas.outer, coarse, order=1, mode="nearest")
    inside = inner < 6
    white, grey = np.zeros_like(inner), np.zeros_like(inner)
    white[inside] = ndimage.map_coordinates(atlas.white, voxel[:, inside], order=1)
    grey[inside] = ndimage.map_coordinates(atlas.grey, voxel[:, inside], order=1)
    thickness = np.exp(0.08 * smooth_field(random, (z, y, x), 60.0)[0] + random.normal(0, 0.10))
    shells = layers(inner / thickness, outer / thickness, temporal_muscle(where) * random.uniform(0.6, 1.1))
    tissues = {**shells, "white": white, "grey": grey}
    tissues["csf"] = np.clip(shells["csf"] - white - grey, 0, 1)
    return with_lesions(random, tissues, (z, y, x))


def deform(
    random: np.random.Generator,
    z: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    spread: float = 1.0,
    largest: float = np.inf,
) -> Volume:
    """The MNI positions of the subject's pixels in mm, (3, slices, y, x), in the order x, y, z.

    ``spread`` multiplies how far tilt, turn, size and shape of subjects differ. ``largest`` is the logarithm of the
    largest size along an axis.
    """
    tilt, turn = np.radians(random.normal(0, 2.0 * spread)), np.radians(random.normal(0, 3.0 * spread))
    shape = np.exp(np.maximum(random.normal(0, 0.03 * spread, 3), -largest))
    shift = random.normal(0, 2.0, 2)
    px = (x[None, :] - shift[0]) * np.cos(turn) - (y[:, None] - shift[1]) * np.sin(turn)
    py = (x[None, :] - shift[0]) * np.sin(turn) + (y[:, None] - shift[1]) * np.cos(turn)
    where = np.empty((3, z.size, y.size, x.size), np.float32)
    # The first row is anterior, and the first column is the patient's right: both run against MNI's axes.
    where[0] = CENTRE[0] - px * shape[0]
    where[1] = CENTRE[1] - py * shape[1]
    where[2] = z[:, None, None] * shape[2] - np.tan(tilt) * py
    where += 3.0 * smooth_field(random, (z, y, x), 45.0, n_fields=3)
    where += 1.1 * smooth_field(random, (z, y, x), 16.0, n_fields=3)
    return where


def temporal_muscle(where: Volume) -> Volume:
    """Thickness in mm of the muscle between skull and scalp. It lies over the temples and becomes thinner upwards."""
    side = np.exp(-(((where[1] - 8) / 34) ** 2)) * np.clip((np.abs(where[0]) - 35) / 35, 0, 1)
    faded: Volume = 8 * side * np.clip((40 - where[2]) / 45, 0, 1)
    return faded


def layers(inner: Volume, outer: Volume, muscle_mm: Volume) -> dict[str, Volume]:
    """Shares of the layers, from inside to outside: fluid, inner table, marrow, outer table, muscle, fat and skin."""
    fluid, table = step(inner - 0.9), step(inner - 2.6)
    # Bone fills the space between the two surfaces: no layer ends deeper than the layer inside it.
    outer = np.maximum(outer, inner - 12)
    marrow = np.minimum(table, step(outer - 5.4))
    skull = np.minimum(marrow, step(outer - 7.0))
    muscle = step(outer - 7.0 - muscle_mm)
    fat = step(outer - 10.4 - muscle_mm)
    skin = step(outer - 12.0 - muscle_mm)
    muscle, fat, skin = (np.minimum(skull, edge) for edge in (muscle, fat, skin))
    return {
        "csf": 1 - fluid,
        "bone": fluid - table + marrow - skull,
        "marrow": table - marrow,
        "muscle": skull - muscle + fat - skin,
        "fat": muscle - fat,
    }


def step(distance_mm: Volume) -> Volume:
    """0 inside and 1 outside, with a linear transition over a millimetre."""
    step: Volume = np.clip(distance_mm + 0.5, 0, 1)
    return step


def with_lesions(
    random: np.random.Generator,
    tissues: dict[str, Volume],
    axes: tuple[NDArray[np.float64], ...],
    mean: float = 5,
    radii_mm: tuple[float, float] = (1.8, 4.5),
) -> Mapping[str, Volume]:
    """Adds ``mean`` lesions, on average, to about half of the subjects. The lesions replace white matter."""
    count = int(random.poisson(mean)) if random.random() < 0.5 else 0
    field = np.zeros_like(tissues["white"])
    candidates = np.argwhere(tissues["white"] > 0.9)
    for _ in range(count if len(candidates) else 0):
        slice_, row, column = candidates[random.integers(len(candidates))]
        radius = random.uniform(*radii_mm, 2)
        y = (axes[1] - axes[1][row]) / radius[0]
        x = (axes[2] - axes[2][column]) / radius[1]
        blob = np.clip(1.2 * np.exp(-(y[:, None] ** 2) - x**2), 0, 1)
        field[slice_] = np.maximum(field[slice_], blob)
    field[field < 0.05] = 0
    lesion = field * tissues["white"]
    return {**tissues, "white": tissues["white"] - lesion, "lesion": lesion}
