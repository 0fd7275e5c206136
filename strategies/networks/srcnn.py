"""SRCNN: three convolutions on the interpolated image, the first super-resolution network.

Dong et al., ECCV 2014 / TPAMI 2016: kernels 9-1-5 (or 9-5-5), 64 and 32 features, ReLU, on bicubic interpolation.
Ours: zero padding at the border, and the input and output of all super-resolution networks here (``enlarging.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from fedrecon.sites.imaging.resampling import bicubic_upsampled
from fedrecon.strategies.networks.enlarging import Enlarging

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images


class Network(Enlarging):
    """Patch extraction (9 x 9) and non-linear mapping are the trunk; reconstruction (5 x 5) is the last convolution.

    The network works on the high-resolution grid from the start, so the tail is empty.

    Args:
        channels: number of features after the first layer; the second layer has half as many.
        kernel: side of the second layer's kernel, in pixels.
    """

    paper: ClassVar[str] = """
        @article{dong2016srcnn,
            author = {Dong, Chao and Loy, Chen Change and He, Kaiming and Tang, Xiaoou},
            title = {Image Super-Resolution Using Deep Convolutional Networks},
            journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
            volume = {38},
            number = {2},
            pages = {295--307},
            year = {2016},
            doi = {10.1109/TPAMI.2015.2439281}
        }
    """

    def __init__(self, images: Images, *, channels: int = 64, kernel: int = 1) -> None:
        super().__init__(images)
        half = max(channels // 2, 1)
        self.trunk = nn.Sequential(
            nn.Conv2d(self.n, channels, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, half, kernel, padding=kernel // 2),
            nn.ReLU(inplace=True),
        )
        self.last = nn.Conv2d(half, self.n, 5, padding=2)
        self.begin_small()

    def correction(self, low: Tensor) -> Tensor:
        """The correction, (b, n, y, x), from the bicubic interpolation of ``low`` (b, n, y / scale, x / scale)."""
        return super().correction(bicubic_upsampled(low, self.scale))
