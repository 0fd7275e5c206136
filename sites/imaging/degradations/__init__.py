"""The degradations of super-resolution, one file each. To add one, add a file and a line in ``DEGRADATIONS``.

Importing this package loads no torch.
"""

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
