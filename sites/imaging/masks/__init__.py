"""Sampling masks, one file a family: add a file and a line in ``MASKS``."""

from __future__ import annotations

from typing import Any

from fedrecon.sites.imaging.masks.equispaced_fraction import EquispacedFraction
from fedrecon.sites.imaging.masks.gaussian2d import Gaussian2d
from fedrecon.sites.imaging.masks.mask import Mask, centred, measured_acceleration
from fedrecon.sites.imaging.masks.poisson2d import Poisson2d
from fedrecon.sites.imaging.masks.radial import Radial
from fedrecon.sites.imaging.masks.random import Random
from fedrecon.sites.imaging.masks.uniform2d import Uniform2d
from fedrecon.sites.plugin import choose

__all__ = ["MASKS", "Mask", "centred", "make_mask", "measured_acceleration"]

MASKS: dict[str, type[Mask]] = {
    "random": Random,
    "equispaced_fraction": EquispacedFraction,
    "gaussian2d": Gaussian2d,
    "poisson2d": Poisson2d,
    "uniform2d": Uniform2d,
    "radial": Radial,
}


def make_mask(name: str, **parameters: Any) -> Mask:
    """The mask family ``name`` with these parameters.

    Raises:
        InputError: an unknown name or parameter, an acceleration below 1 or a center_fraction outside (0, 1].
    """
    return choose("mask", MASKS, name, parameters)
