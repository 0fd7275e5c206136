"""EDSR: residual blocks without normalisation, then sub-pixel convolutions.

Lim et al., CVPR workshops 2017. The default is their baseline: 16 blocks of 64 features, no residual scaling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

from fedrecon.strategies.networks.enlarging import Enlarging, Skipped

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images


class Network(Enlarging):
    """A convolution, blocks of conv - ReLU - conv with a skip, a convolution with a long skip; then the tail.

    Args:
        channels: number of features.
        blocks: number of residual blocks.
    """

    paper: ClassVar[str] = """
        @inproceedings{lim2017edsr,
            author = {Lim, Bee and Son, Sanghyun and Kim, Heewon and Nah, Seungjun and Lee, Kyoung Mu},
            title = {Enhanced Deep Residual Networks for Single Image Super-Resolution},
            booktitle = {IEEE Conference on Computer Vision and Pattern Recognition Workshops (CVPRW)},
            year = {2017},
            doi = {10.1109/CVPRW.2017.151}
        }
    """

    def __init__(self, images: Images, *, channels: int = 64, blocks: int = 16) -> None:
        super().__init__(images)
        body = [
            Skipped(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(blocks)
        ]
        self.assemble(channels, body)
