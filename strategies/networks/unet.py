"""The U-Net of fastMRI: it turns the zero-filled image into an image without aliasing.

Ronneberger et al. (MICCAI 2015) in the form of Zbontar et al. (arXiv 1811.08839, section 5.2): two 3x3
convolutions per level, instance normalisation, leaky ReLU, average pooling, transposed convolutions. Ours:
the residual connection (the network predicts a correction of its input). It is on by default;
``residual=False`` is the published network.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon.sites.papers import FASTMRI

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images, Measurement

Parts = dict[str, tuple[str, ...]]

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "instance_affine": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "batch": nn.BatchNorm2d,
}
_AFFINE = (nn.InstanceNorm2d, nn.BatchNorm2d)


class Encoder(nn.Module):
    """The way down, bottleneck included. It returns the features of every level, finest first."""

    def __init__(self, n_in: int, channels: int, pools: int, dropout: float, norm: str) -> None:
        super().__init__()
        widths = [n_in, *(channels * 2**level for level in range(pools + 1))]
        self.levels = nn.ModuleList(conv_block(a, b, dropout, norm) for a, b in pairwise(widths))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(b, n_in, y, x) -> one tensor per level l, (b, channels 2^l, y / 2^l, x / 2^l)."""
        features: list[Tensor] = []
        for level in self.levels:
            image = level(F.avg_pool2d(image, 2) if features else image)
            features.append(image)
        return features


class Decoder(nn.Module):
    """The way up. It joins the features of each level with the upsampled features of the coarser level."""

    def __init__(self, channels: int, pools: int, dropout: float, norm: str) -> None:
        super().__init__()
        widths = [channels * 2**level for level in reversed(range(pools))]
        self.up = nn.ModuleList(up_block(2 * width, width, norm) for width in widths)
        self.levels = nn.ModuleList(conv_block(2 * width, width, dropout, norm) for width in widths)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's features, finest first -> (b, channels, y, x)."""
        image = features[-1]
        for up, level, skip in zip(self.up, self.levels, reversed(features[:-1]), strict=True):
            image = level(torch.cat([up(image), skip], dim=1))
        return image


class UNet(nn.Module):
    """(b, n_in, y, x) -> (b, n_out, y, x) for any size. Inside, the image is padded to a multiple of 2^pools."""

    def __init__(
        self, n_in: int, n_out: int, channels: int, pools: int, dropout: float = 0.0, norm: str = "instance"
    ) -> None:
        super().__init__()
        self.encoder = Encoder(n_in, channels, pools, dropout, norm)
        self.decoder = Decoder(channels, pools, dropout, norm)
        self.head = nn.Conv2d(channels, n_out, kernel_size=1)
        self.stride = 2**pools

    def forward(self, image: Tensor) -> Tensor:
        """A real image from a real image. The U-Net does not normalise its input; see :func:`correction`."""
        y, x = image.shape[-2:]
        # padded with zeros, the mean of a normalised image: replication has no deterministic gradient on a GPU
        padded = F.pad(image, (*self._margins(x), *self._margins(y)))
        top, left = self._margins(y)[0], self._margins(x)[0]
        result: Tensor = self.head(self.decoder(self.encoder(padded)))
        return result[..., top : top + y, left : left + x]

    def _margins(self, size: int) -> tuple[int, int]:
        # at least two pixels at the bottleneck: instance normalisation of a single pixel has no meaning
        missing = max(-(-size // self.stride), 2) * self.stride - size
        return missing // 2, missing - missing // 2


class Network(nn.Module):
    """The U-Net on the zero-filled image.

    Magnitude data has one channel: ``|zero-filled|`` is the input and a real image the output. Complex data has
    two channels (real and imaginary part). The coil maps carry its low-resolution phase, so this phase is
    already removed. The input is normalised by each slice's own mean and standard deviation. At the end the
    normalisation is undone, as in fastMRI.
    """

    paper: ClassVar[str] = (
        """
        @inproceedings{ronneberger2015unet,
            author = {Ronneberger, Olaf and Fischer, Philipp and Brox, Thomas},
            title = {{U-Net}: Convolutional Networks for Biomedical Image Segmentation},
            booktitle = {Medical Image Computing and Computer-Assisted Intervention (MICCAI)},
            pages = {234--241},
            year = {2015}
        }
        """
        + FASTMRI
    )

    def __init__(
        self,
        images: Images,
        *,
        channels: int = 32,
        pools: int = 4,
        dropout: float = 0.0,
        residual: bool = True,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        self.complex_valued, self.residual = images.complex_valued, residual
        n = 2 if images.complex_valued else 1
        self.unet = UNet(n, n, channels, pools, dropout, norm)
        if residual:
            damp(self.unet)
        self.parts = unet_parts(self, ("unet.",))

    def forward(self, measurement: Measurement) -> Tensor:
        """The reconstruction, (b, y, x) complex64, at the scale of the data."""
        scale = measurement.scale[:, None, None]
        zero_filled = measurement.zero_filled / scale
        channels = as_channels(zero_filled if self.complex_valued else zero_filled.abs())
        start = channels if self.residual else channels.mean(dim=(-2, -1), keepdim=True)
        return as_image(start + correction(self.unet, channels)) * scale


def as_channels(image: Tensor) -> Tensor:
    """A complex image (b, y, x) as two channels (real, imaginary), a real image as one: (b, 1 or 2, y, x)."""
    return torch.view_as_real(image).permute(0, 3, 1, 2) if image.is_complex() else image[:, None]


def as_image(channels: Tensor) -> Tensor:
    """The inverse of :func:`as_channels`, always complex64."""
    real = channels[:, 0].float()
    return torch.complex(real, channels[:, 1].float() if channels.shape[1] == 2 else torch.zeros_like(real))


def correction(network: nn.Module, image: Tensor) -> Tensor:
    """``std * network((image - mean) / std)``: the network sees each slice in that slice's own units."""
    std, mean = torch.std_mean(image, dim=(-2, -1), keepdim=True)
    unit = std.mean(dim=1, keepdim=True).clamp_min(1e-6)  # one unit for real and imaginary part
    scaled = (image - mean) / unit
    if scaled.is_cuda:  # cuDNN's fast layout; the weights keep the layout of the exchange, and cuDNN reorders them
        scaled = scaled.contiguous(memory_format=torch.channels_last)
    output: Tensor = network(scaled)
    return unit * output


def damp(unet: UNet, factor: float = 0.1) -> None:
    """Makes the weights of the first corrections small, so that training starts nearer to the input.

    The bias of the head stays as it was drawn. On a smooth image of 32 x 32 pixels at acceleration 2 (mean of 5 seeds)
    a U-Net of 32 channels changes its input by 6 %, one of 8 channels by 9 %; with a damped bias it would be 2 %.

    Ours. Tests with 150 updates on validation subjects: +0.3 dB for the unrolled network, no clear difference for the
    U-Net (-0.26 and +0.08 dB, one seed each).
    """
    with torch.no_grad():
        unet.head.weight.mul_(factor)


def conv_block(n_in: int, n_out: int, dropout: float, norm: str) -> nn.Sequential:
    """Twice: 3x3 convolution without bias, normalisation, leaky ReLU (0.2), dropout of whole channels."""
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.Conv2d(n, n_out, kernel_size=3, padding=1, bias=False), _NORMS[norm](n_out)]
        layers += [nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(dropout)]
    return nn.Sequential(*layers)


def up_block(n_in: int, n_out: int, norm: str) -> nn.Sequential:
    """Transposed 2x2 convolution of stride 2 without bias, normalisation, leaky ReLU (0.2)."""
    convolution = nn.ConvTranspose2d(n_in, n_out, kernel_size=2, stride=2, bias=False)
    return nn.Sequential(convolution, _NORMS[norm](n_out), nn.LeakyReLU(0.2, inplace=True))


def unet_parts(network: nn.Module, unets: tuple[str, ...]) -> Parts:
    """The parts of a network that holds a :class:`UNet` under each of these prefixes, for its ``parts``."""
    parts = {part: tuple(f"{unet}{part}." for unet in unets) for part in ("encoder", "decoder", "head")}
    norms = tuple(f"{name}." for name, m in network.named_modules() if isinstance(m, _AFFINE) and m.affine)
    return {**parts, "norm": norms}
