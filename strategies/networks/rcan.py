"""RCAN: residual groups of blocks with channel attention.

Zhang et al., ECCV 2018, who have 10 groups of 20 blocks of 64 features (15.6 million parameters); the default here is
scaled down for machines without a GPU. Channel attention: mean over the image, two 1 x 1 convolutions with
``reduction`` times fewer features between them, sigmoid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from fedrecon.strategies.networks.enlarging import Enlarging, Skipped

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images


class Network(Enlarging):
    """conv, groups with a skip each and a long one over all of them; then the tail.

    Args:
        channels: features. groups: residual groups. blocks: in each group. reduction: of the attention.
    """

    paper: ClassVar[str] = (
        "Zhang Y, Li K, Li K, Wang L, Zhong B, Fu Y. Image super-resolution using very deep residual channel attention "
        "networks. ECCV 2018."
    )

    def __init__(
        self, images: Images, *, channels: int = 32, groups: int = 4, blocks: int = 4, reduction: int = 8
    ) -> None:
        super().__init__(images)

        def convolution() -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, padding=1)

        def block() -> nn.Module:
            return Skipped(convolution(), nn.ReLU(inplace=True), convolution(), ChannelAttention(channels, reduction))

        self.assemble(channels, [Skipped(*(block() for _ in range(blocks)), convolution()) for _ in range(groups)])


class ChannelAttention(nn.Module):
    """Each feature map times a number in (0, 1) that follows from the means of all of them."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.weigh = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True), nn.Conv2d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, y, x), the same shape back."""
        # a mean over axes instead of adaptive pooling, whose gradient is not deterministic on a GPU
        weighted: Tensor = features * self.weigh(features.mean(dim=(-2, -1), keepdim=True))
        return weighted
