"""The base of the super-resolution networks: input, output, and the tail that enlarges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedrecon.sites.errors import InputError
from fedrecon.strategies.networks.unet import as_channels, as_image

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images, Measurement


GAIN = 4.0
"""Factor on the images inside a network. In an image of a head, the standard deviation is about a quarter of the
brightest pixel; with this factor it is about 1."""


def check_reduction(reduction: int, default: int, channels: int, fewest: int) -> None:
    """Refuses a reduction, other than the default, that leaves fewer features than an attention has at least.

    Raises:
        InputError: the message gives the largest reduction.
    """
    if reduction != default and channels // reduction < fewest:
        allowed = f"at most {channels // fewest}, or its default {default}" if channels >= fewest else f"{default}"
        raise InputError(
            f"network.reduction: {reduction} leaves fewer than {fewest} of {channels} features, and the attention has "
            f"at least {fewest}; allowed: {allowed}"
        )


class Enlarging(nn.Module):
    """A trunk on the coarse grid, a tail that enlarges, and a last convolution. They correct a sinc interpolation.

    Ours, for all these networks: the output is the image of zero-padded k-space plus the network's correction. The
    correction is small at first, so that training starts at the measured image. Images are divided only by the scale of
    their slice, so a patch enters with the same values as within its slice. Magnitude data has one channel, complex
    data has two.
    """

    def __init__(self, images: Images) -> None:
        super().__init__()
        if images.scale < 2:
            raise ValueError("a super-resolution network needs low-resolution images: task super-resolution")
        self.complex_valued, self.scale = images.complex_valued, images.scale
        self.n = 2 if images.complex_valued else 1
        self.trunk: nn.Module = nn.Identity()
        self.tail: nn.Module = nn.Identity()
        self.last: nn.Module = nn.Identity()

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """``encoder`` is the trunk, ``decoder`` the tail, ``head`` the last convolution. A part may be empty."""
        owners = {"encoder": self.trunk, "decoder": self.tail, "head": self.last}
        prefixes = {"encoder": ("trunk.",), "decoder": ("tail.",), "head": ("last.",)}
        held = {part: prefixes[part] if any(True for _ in one.parameters()) else () for part, one in owners.items()}
        return {**held, "norm": ()}

    def assemble(self, channels: int, body: Sequence[nn.Module]) -> None:
        """Builds the layers. The trunk is a convolution, then ``body`` and a convolution under a long skip.

        Args:
            channels: number of features.
            body: modules on (b, channels, y, x) features.
        """

        def convolution(n_in: int, n_out: int) -> nn.Conv2d:
            return nn.Conv2d(n_in, n_out, 3, padding=1)

        self.trunk = nn.Sequential(convolution(self.n, channels), Skipped(*body, convolution(channels, channels)))
        self.tail = shuffled(channels, self.scale)
        self.last = convolution(channels, self.n)
        self.begin_small()

    def begin_small(self) -> None:
        """Makes the first corrections small: the last layer starts with a tenth of its weights."""
        with torch.no_grad():
            for one in self.last.parameters():
                one.mul_(0.1)

    def correction(self, low: Tensor) -> Tensor:
        """(b, n, y / scale, x / scale) to (b, n, y, x), both divided by the slice's scale and multiplied by GAIN."""
        enlarged: Tensor = self.last(self.tail(self.trunk(low)))
        return enlarged

    def forward(self, measurement: Measurement) -> Tensor:
        """The high-resolution image, (b, y, x) complex64, at the scale of the data.

        Raises:
            ValueError: the measurement has no low-resolution image, or one of another scale.
        """
        if measurement.low is None or measurement.factor != self.scale:
            raise ValueError(
                f"this network enlarges by {self.scale}, but these images need a factor of {measurement.factor}"
            )
        unit = measurement.scale[:, None, None]
        low, padded = (self._channels(image / unit) for image in (measurement.low, measurement.zero_filled))
        return as_image(padded + self.correction(GAIN * low) / GAIN) * unit

    def _channels(self, image: Tensor) -> Tensor:
        return as_channels(image if self.complex_valued else image.abs())


def shuffled(channels: int, scale: int) -> nn.Sequential:
    """Sub-pixel convolutions (Shi et al., CVPR 2016): one for a scale of 2 or 3, two of scale 2 for a scale of 4."""
    layers: list[nn.Module] = []
    for factor in (2, 2) if scale == 4 else (scale,):
        layers += [nn.Conv2d(channels, channels * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers)


class Skipped(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, of the same shape as ``x``; the layers must keep the shape."""
        result: Tensor = x + self.layers(x)
        return result
