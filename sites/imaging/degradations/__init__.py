"""Ways to lose resolution, one file each: add a file and a line in ``DEGRADATIONS``; loads no torch."""

from __future__ import annotations

from fedrecon.sites.imaging.degradations.bicubic import Bicubic
from fedrecon.sites.imaging.degradations.blur_downsample import BlurDownsample
from fedrecon.sites.imaging.degradations.degradation import Degradation
from fedrecon.sites.imaging.degradations.kspace_truncation import KspaceTruncation

DEGRADATIONS: dict[str, type[Degradation]] = {
    "kspace-truncation": KspaceTruncation,
    "bicubic": Bicubic,
    "blur-downsample": BlurDownsample,
}

__all__ = ["DEGRADATIONS", "Degradation"]
