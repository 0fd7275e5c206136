"""MSCAN: a multi-scale channel attention network for super-resolution.

Liu, Jiang and Chen, Multimedia Systems 2024 (doi 10.1007/s00530-024-01415-8). Only the abstract of the paper is public.
It says: multi-scale feature blocks (MSFB) extract features at several scales; attention among the features of different
scales weighs them; a spatial gradient profile loss adds texture; FedAvg trains the network across institutions.
Everything else here is OUR READING:

- Scales are receptive fields: parallel 3 x 3 convolutions of dilation 1, 2, 3 see 3, 5 and 7 pixels.
- Attention among the scales: the mean over the image of every feature of every scale, two 1 x 1 convolutions, and a
  softmax over the scales for each feature, as in selective kernels (Li et al., CVPR 2019). The scales are summed with
  these weights.
- Blocks in residual groups and a long skip as in RCAN, and sub-pixel convolutions at the end.
- The numbers of groups, blocks, features and scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fedrecon.sites.errors import InputError
from fedrecon.strategies.networks.enlarging import Enlarging, Skipped, check_reduction

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images

REDUCTION = 4
"""The default of ``reduction``."""
FEWEST = 4
"""The smallest number of features between the two convolutions of the attention."""


class Network(Enlarging):
    """A convolution, groups of multi-scale feature blocks with a skip each and a long skip over all; then the tail.

    Args:
        channels: number of features.
        groups: number of residual groups.
        blocks: number of MSFB in each group.
        scales: number of receptive fields of a block (3, 5, 7, ... pixels); with 1 there are no multi-scale features.
        attention: whether attention weighs the scales. False weighs all scales equally; a single scale stays unchanged.
        reduction: factor by which the attention reduces the number of features between its two convolutions. They are
            at least 4, so a network of few features has the same for several factors.

    Raises:
        InputError: ``reduction`` is not its default, and acts on nothing.
    """

    paper: ClassVar[str] = """
        @article{liu2024mscan,
            author = {Liu, Feiqiang and Jiang, Aiwen and Chen, Lihui},
            title = {A Multi-Scale Channel Attention Network with Federated Learning for Magnetic Resonance Image
                Super-Resolution},
            journal = {Multimedia Systems},
            year = {2024},
            doi = {10.1007/s00530-024-01415-8}
        }
    """

    def __init__(
        self,
        images: Images,
        *,
        channels: int = 20,
        groups: int = 3,
        blocks: int = 2,
        scales: int = 3,
        attention: bool = True,
        reduction: int = REDUCTION,
    ) -> None:
        super().__init__(images)
        if not attention and reduction != REDUCTION:
            raise InputError(
                f"network.reduction: {reduction} would change nothing: network.attention is false; "
                f"leave it at {REDUCTION}"
            )
        check_reduction(reduction, REDUCTION, channels, FEWEST)
        body = [
            Skipped(
                *(MultiScaleBlock(channels, scales, attention, reduction) for _ in range(blocks)),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(groups)
        ]
        self.assemble(channels, body)


class MultiScaleBlock(nn.Module):
    """MSFB: conv - ReLU, parallel receptive fields - ReLU, their weighted sum, a 1 x 1 convolution, and a skip."""

    def __init__(self, channels: int, scales: int, attention: bool, reduction: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True))
        self.fields = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=size, dilation=size), nn.ReLU(inplace=True))
            for size in range(1, scales + 1)
        )
        self.attention = CrossScaleAttention(channels, scales, reduction) if attention else None
        self.fuse = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, y, x) to (b, c, y, x)."""
        entered = self.enter(features)
        seen = torch.stack([field(entered) for field in self.fields], dim=1)
        weighed = seen.mean(dim=1) if self.attention is None else (seen * self.attention(seen)).sum(dim=1)
        result: Tensor = features + self.fuse(weighed)
        return result


class CrossScaleAttention(nn.Module):
    """Weights of the scales for each feature, from the means of all features of all scales.

    The weights sum to 1 over the scales. With a single scale, the weight is in (0, 1): plain channel attention, as in
    RCAN.
    """

    def __init__(self, channels: int, scales: int, reduction: int) -> None:
        super().__init__()
        self.shape = (scales, channels)
        inner = max(channels // reduction, FEWEST)
        self.weigh = nn.Sequential(
            nn.Conv2d(scales * channels, inner, 1), nn.ReLU(inplace=True), nn.Conv2d(inner, scales * channels, 1)
        )

    def forward(self, seen: Tensor) -> Tensor:
        """Features (b, scales, c, y, x) to weights (b, scales, c, 1, 1)."""
        means = seen.mean(dim=(-2, -1)).flatten(1)[..., None, None]
        logits = self.weigh(means).view(len(seen), *self.shape, 1, 1)
        weights: Tensor = logits.softmax(dim=1) if self.shape[0] > 1 else logits.sigmoid()
        return weights
