"""The families of sampling masks, one file each. To add one, add a file and a line in ``MASKS``. Loads no torch."""

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
        InputError: the name or a parameter is unknown, the acceleration is below 1, or another value is refused (a
            center_fraction outside (0, 1]).
    """
    return choose("mask", MASKS, name, parameters)
