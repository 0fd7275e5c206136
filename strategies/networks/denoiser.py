"""A denoiser of MR images at every noise level: the network of a diffusion prior.

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)          (Karras et al., NeurIPS 2022, table 1, "EDM")

    c_skip = s^2 / (sigma^2 + s^2)     c_out = sigma s / sqrt(sigma^2 + s^2)
    c_in = 1 / sqrt(sigma^2 + s^2)     c_noise = ln(sigma) / 4        s = sigma_data

F is a small U-Net of residual blocks without normalisation. The noise level, and the code of the site, scale and shift
the features of each block. A normalisation over the image would remove a constant channel with the noise level, and
its statistics would differ between patches and whole images.

A denoiser is not a reconstruction network: it has no ``forward(measurement)``. It works on planes (b, channels, y, x):
Re x and Im x of a complex image, or |x|, in units of the peak of the image. ``sigma`` has the same unit; it is the
standard deviation of the noise in each plane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon.sites.training.parameters import initialise

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images

OCTAVES = 6
"""Number of frequencies, one octave apart, that describe the noise level."""
DAMPED = 0.1
"""Factor on the first weights of the last convolution of each block and of the network."""


class Network(nn.Module):
    """The denoiser for images of this kind.

    Args:
        channels: number of features at the largest size; the smaller sizes have twice as many.
        pools: number of times that the size is halved.
        hidden: length of the code that describes noise level and site.
        shuffle: side of the squares of pixels that the first layer takes together (a pixel unshuffle, as in FFDNet):
            2 makes a denoiser of 64 px four times cheaper; 1 keeps every pixel.
        position: whether the position of each pixel is an input. Patches need it.
        sigma_data: the standard deviation s of the images' planes.
        content: content of the planes: ``complex`` or ``magnitude``.
    """

    paper: ClassVar[str] = """
        @inproceedings{karras2022edm,
            author = {Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
            title = {Elucidating the Design Space of Diffusion-Based Generative Models},
            booktitle = {Advances in Neural Information Processing Systems},
            volume = {35},
            year = {2022}
        }
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sites": ("codes",),
        "embedding": ("embedding.",),
        "encoder": ("first.", "down.", "middle."),
        "decoder": ("up.",),
        "head": ("last.",),
    }

    def __init__(
        self,
        images: Images,
        *,
        channels: int = 32,
        pools: int = 2,
        hidden: int = 64,
        shuffle: int = 2,
        position: bool = True,
        sigma_data: float = 0.25,
        content: str = "complex",
    ) -> None:
        super().__init__()
        self._made = partial(
            type(self),
            images,
            channels=channels,
            pools=pools,
            hidden=hidden,
            shuffle=shuffle,
            position=position,
            sigma_data=sigma_data,
            content=content,
        )
        self.sites, self.size = images.sites, images.size
        self.content, self.sigma_data = content, sigma_data
        self.position, self.shuffle, self.multiple = position, shuffle, shuffle << pools
        self.n_planes = 1 if content == "magnitude" else 2
        widths = [channels, *([2 * channels] * pools)]
        self.codes = nn.Parameter(torch.zeros(len(images.sites), hidden))
        self.embedding = nn.Sequential(nn.Linear(2 * OCTAVES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.first = nn.Conv2d((self.n_planes + 2 * position) * shuffle**2, channels, 3, padding=1)
        self.down = nn.ModuleList(
            Block(above, width, hidden) for above, width in zip([channels, *widths], widths[:-1], strict=False)
        )
        self.middle = Block(widths[-2] if pools else channels, widths[-1], hidden)
        self.up = nn.ModuleList(
            Block(below + width, width, hidden)
            for below, width in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True)
        )
        self.last = nn.Conv2d(channels, self.n_planes * shuffle**2, 3, padding=1)
        with torch.no_grad():
            self.last.weight.mul_(DAMPED)
            self.last.bias.zero_()  # type: ignore[union-attr]

    def untrained(self, seed: int) -> Network:
        """A network of the same shape with first weights, drawn from this seed."""
        made = initialise(self._made, seed).to(self.codes.device)
        assert isinstance(made, Network)
        return made.train(self.training)

    def label(self, site: str, count: int) -> Tensor:
        """The site's label, (count, n_sites): one-hot. A site that the network does not know has no code: zeros."""
        row = [float(one == site) for one in self.sites]
        return torch.tensor(row, device=self.codes.device).expand(count, -1)

    def encoded(self, image: Tensor) -> Tensor:
        """The planes (b, channels, y, x) float32 of images (b, y, x)."""
        if self.content == "magnitude":
            return image.abs().unsqueeze(1)
        return torch.view_as_real(image).movedim(-1, 1).contiguous()

    def decoded(self, planes: Tensor) -> Tensor:
        """The inverse of :meth:`encoded`: images (b, y, x) complex64."""
        imaginary = planes[:, 1] if self.n_planes == 2 else torch.zeros_like(planes[:, 0])
        return torch.complex(planes[:, 0], imaginary)

    def forward(self, noisy: Tensor, sigma: Tensor, label: Tensor, position: Tensor | None = None) -> Tensor:
        """D(noisy; sigma): the mean of the images that could have given these noisy planes.

        Args:
            noisy: planes with noise, (b, channels, y, x).
            sigma: standard deviation of the noise of each image, (b,), above 0.
            label: labels of the sites, (b, n_sites); a row of zeros has no site.
            position: the position of each pixel, (b, 2, y, x); None: the planes are whole images.
        """
        c_skip, c_out, c_in, c_noise = preconditioning(sigma, self.sigma_data)
        code = self.embedding(_waves(c_noise)) + label @ self.codes
        inputs = c_in[:, None, None, None] * noisy
        if self.position:
            where = positions(noisy.shape[-2], noisy.shape[-1], noisy.device) if position is None else position
            inputs = torch.cat([inputs, where.expand(len(noisy), -1, -1, -1)], dim=1)
        raw = self._raw(inputs, code).float()
        return c_skip[:, None, None, None] * noisy + c_out[:, None, None, None] * raw

    def _raw(self, inputs: Tensor, code: Tensor) -> Tensor:
        y, x = inputs.shape[-2:]
        features = F.pad(inputs, (0, -x % self.multiple, 0, -y % self.multiple))
        features = self.first(F.pixel_unshuffle(features, self.shuffle))
        kept = []
        for block in self.down:
            features = block(features, code)
            kept.append(features)
            features = F.avg_pool2d(features, 2)
        features = self.middle(features, code)
        for block in self.up:
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([features, kept.pop()], dim=1), code)
        planes = F.pixel_shuffle(self.last(F.silu(features)), self.shuffle)
        return planes[..., :y, :x]


class Block(nn.Module):
    """Two convolutions beside a skip. Between them, the code scales and shifts the features (FiLM)."""

    def __init__(self, given: int, width: int, hidden: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(given, width, 3, padding=1)
        self.film = nn.Linear(hidden, 2 * width)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if given == width else nn.Conv2d(given, width, 1)
        with torch.no_grad():
            self.two.weight.mul_(DAMPED)

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        """(b, given, y, x) and (b, hidden) to (b, width, y, x)."""
        scale, shift = self.film(F.silu(code))[..., None, None].chunk(2, dim=1)
        changed = self.one(F.silu(features)) * (1 + scale) + shift
        image: Tensor = self.skip(features) + self.two(F.silu(changed))
        return image


def preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in and c_noise at these noise levels (Karras et al. 2022, table 1), each shaped like sigma."""
    total = sigma.square() + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), total.rsqrt(), sigma.log() / 4


def positions(y: int, x: int, device: torch.device) -> Tensor:
    """(1, 2, y, x): the row and the column of each pixel, from -1 to 1."""
    axes = [torch.linspace(-1, 1, n, device=device) for n in (y, x)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _waves(c_noise: Tensor) -> Tensor:
    """(b, 2 OCTAVES): cosines and sines of the noise level."""
    angles = c_noise[:, None] * (math.pi * 2.0 ** torch.arange(OCTAVES, device=c_noise.device) / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
