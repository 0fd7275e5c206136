"""RCAN: residual groups of blocks with channel attention.

Zhang et al., ECCV 2018. They have 10 groups of 20 blocks with 64 features (15.6 million parameters). The default here
is smaller, for machines without a GPU. Channel attention: the mean over the image, two 1 x 1 convolutions with
``reduction`` times fewer features between them, and a sigmoid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from fedrecon.strategies.networks.enlarging import Enlarging, Skipped, check_reduction

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images

REDUCTION = 8
"""The default of ``reduction``."""


class Network(Enlarging):
    """A convolution, groups with a skip each and a long skip over all of them; then the tail.

    Args:
        channels: number of features.
        groups: number of residual groups.
        blocks: number of blocks in each group.
        reduction: factor by which the channel attention reduces the number of features. At least one is left, so a
            network of few features has the same for several factors.

    Raises:
        InputError: ``reduction`` is not its default, and leaves no feature.
    """

    paper: ClassVar[str] = """
        @inproceedings{zhang2018rcan,
            author = {Zhang, Yulun and Li, Kunpeng and Li, Kai and Wang, Lichen and Zhong, Bineng and Fu, Yun},
            title = {Image Super-Resolution Using Very Deep Residual Channel Attention Networks},
            booktitle = {European Conference on Computer Vision (ECCV)},
            year = {2018}
        }
    """

    def __init__(
        self, images: Images, *, channels: int = 32, groups: int = 4, blocks: int = 4, reduction: int = REDUCTION
    ) -> None:
        super().__init__(images)
        check_reduction(reduction, REDUCTION, channels, 1)

        def convolution() -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, padding=1)

        def block() -> nn.Module:
            return Skipped(convolution(), nn.ReLU(inplace=True), convolution(), ChannelAttention(channels, reduction))

        self.assemble(channels, [Skipped(*(block() for _ in range(blocks)), convolution()) for _ in range(groups)])


class ChannelAttention(nn.Module):
    """Multiplies each feature map by a number in (0, 1), which follows from the means of all feature maps."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.weigh = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True), nn.Conv2d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, y, x) to (b, c, y, x)."""
        # a mean over axes: the gradient of adaptive pooling is not deterministic on a GPU
        weighted: Tensor = features * self.weigh(features.mean(dim=(-2, -1), keepdim=True))
        return weighted
