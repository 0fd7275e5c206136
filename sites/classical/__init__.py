"""The classical reconstructors: they need no training, and every method should beat them.

Each reconstructor is one file and one line in ``RECONSTRUCTORS``. Importing this package loads no torch.
"""

from __future__ import annotations

from typing import Any

from fedrecon.sites.classical.bicubic import Bicubic
from fedrecon.sites.classical.cg_sense import CgSense
from fedrecon.sites.classical.grappa import Grappa
from fedrecon.sites.classical.low_rank import LowRank
from fedrecon.sites.classical.reconstructor import Reconstructor
from fedrecon.sites.classical.tv import TotalVariation
from fedrecon.sites.classical.wavelet import Wavelet
from fedrecon.sites.classical.zero_filled import ZeroFilled
from fedrecon.sites.extension.registry import name_of
from fedrecon.sites.plugin import choose

RECONSTRUCTORS: dict[str, type[Reconstructor]] = {
    "zero_filled": ZeroFilled,
    "cg_sense": CgSense,
    "tv": TotalVariation,
    "wavelet": Wavelet,
    "grappa": Grappa,
    "low_rank": LowRank,
    "bicubic": Bicubic,
}


def make_reconstructor(name: str, **parameters: Any) -> Reconstructor:
    """The reconstructor with this name and these parameters.

    Raises:
        InputError: the name or a parameter is unknown (the message gives the nearest right one), or a value is refused.
    """
    return choose("reconstructor", RECONSTRUCTORS, name, parameters)


def reconstructor_name(reconstructor: Reconstructor) -> str:
    """The name under which the reconstructor stands in the registry."""
    return name_of("reconstructors", RECONSTRUCTORS, type(reconstructor))


__all__ = ["RECONSTRUCTORS", "Reconstructor", "make_reconstructor", "reconstructor_name"]
