"""Style-based adversarial prior of images, conditioned on the site: mapper, synthesizer, discriminator.

The network of FedGIMP: StyleGAN-1 with a learned code for each site. Its published form is 256 px, ``latent`` and
``channel_max`` 512, ``channel_base`` 16384, ``noise_to`` 1024 and no ``skips``; the other sizes are ours.

A prior is no reconstruction network: it has no ``forward(measurement)``. It draws images of ``size`` (the next power of
two of the largest matrix), to which smaller matrices are padded and from which they are cut. Images lie in [-1, 1]:
magnitude, one channel, 2 |x| - 1; complex, two channels, Re x and Im x.

Every tensor of the generator may have a leading axis of its own for each slice (``torch.func.functional_call``): a
convolution then becomes a grouped one, and a whole batch of slices is adapted at the cost of one network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon.sites.errors import InputError
from fedrecon.sites.training.parameters import initialise
from fedrecon.strategies.networks.equalised import Convolution, Dense, channelwise, doubled, matrix

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images

SMALLEST = 4
"""Pixels a side of the learned constant."""
GAIN = 2**0.5
MAPPER_RATE = 0.01
"""Learning-rate multiplier of the mapper (StyleGAN's)."""
AVERAGE = 0.995
"""Decay of the running mean of w."""
SLOPE = 0.2
FIRST = 0.2
"""First weights towards the image, with skips."""
GROUP = 4
"""Images over which the discriminator takes a standard deviation."""


class Network(nn.Module):
    """``generator`` and ``discriminator`` for images of this kind.

    Args:
        latent: length of z, of a site's code, and of w.
        layers: dense layers of the mapper.
        channel_base, channel_max: a layer of n px a side has min(channel_base / n, channel_max) channels.
        skips: the image is the sum over the sizes of a 1x1 convolution each, and not one of the last layer alone.
        noise_to: noise is added in layers up to this size; 0 adds none.
        truncation: w is drawn to its mean by this factor where nothing is trained, in the first ``truncated`` layers.
        content: ``magnitude`` or ``complex``.
    """

    paper: ClassVar[str] = (
        "@inproceedings{karras2019stylegan, author={Karras, Tero and Laine, Samuli and Aila, Timo}, title={A Style-"
        "Based Generator Architecture for Generative Adversarial Networks}, booktitle={CVPR}, year={2019}}"
    )

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "generator": ("generator",),
        "discriminator": ("discriminator",),
    }

    def __init__(
        self,
        images: Images,
        *,
        latent: int = 512,
        layers: int = 8,
        channel_base: int = 16384,
        channel_max: int = 512,
        skips: bool = False,
        noise_to: int = 1024,
        truncation: float = 0.7,
        truncated: int = 8,
        content: str = "magnitude",
    ) -> None:
        super().__init__()
        self._made = partial(
            type(self),
            images,
            latent=latent,
            layers=layers,
            channel_base=channel_base,
            channel_max=channel_max,
            skips=skips,
            noise_to=noise_to,
            truncation=truncation,
            truncated=truncated,
            content=content,
        )
        self.size = max(2 * SMALLEST, 1 << (max(images.size) - 1).bit_length())
        self.sites, self.content = images.sites, content
        n_channels = 1 if content == "magnitude" else 2
        sizes = [SMALLEST << k for k in range(int(math.log2(self.size // SMALLEST)) + 1)]
        channels = {size: max(1, min(channel_base // size, channel_max)) for size in sizes}
        mapper = Mapper(len(images.sites), latent, layers)
        synthesizer = Synthesizer(channels, n_channels, latent, skips, noise_to)
        self.generator = Generator(mapper, synthesizer, truncation, truncated)
        self.discriminator = Discriminator(channels, n_channels, len(images.sites), channel_max)

    def untrained(self, seed: int) -> Network:
        """The same network with its first weights, drawn from this seed."""
        made = initialise(self._made, seed).to(self.generator.average.device)
        assert isinstance(made, Network)
        return made.train(self.training)

    def label(self, site: str, count: int) -> Tensor:
        """(count, n_sites): one-hot; the mean of all sites for one that the network does not know."""
        known = site in self.sites
        row = [float(not known or one == site) for one in self.sites]
        label = torch.tensor(row, device=self.generator.average.device) / sum(row)
        return label.expand(count, -1)

    def encoded(self, image: Tensor) -> Tensor:
        """Images (b, y, x) of peak 1 (complex, or magnitude) as the discriminator sees them, (b, channels, n, n)."""
        self._check(image.shape[-2:])
        magnitude = self.content == "magnitude"
        planes = image.abs().unsqueeze(1) if magnitude else torch.view_as_real(image).movedim(-1, 1)
        planes = F.pad(planes, [m for n in image.shape[:0:-1] for m in _margins(n, self.size)])
        return 2 * planes - 1 if magnitude else planes

    def decoded(self, planes: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of :meth:`encoded`: (b, y, x) complex64 of the last two of ``shape``."""
        self._check(shape[-2:])
        below_y, below_x = (_margins(n, self.size)[0] for n in shape[-2:])
        planes = planes[..., below_y : below_y + shape[-2], below_x : below_x + shape[-1]]
        if self.content == "magnitude":
            image = (planes[:, 0] + 1) / 2
            return torch.complex(image, torch.zeros_like(image))
        return torch.complex(planes[:, 0], planes[:, 1])

    def _check(self, shape: Sequence[int]) -> None:
        if max(shape) > self.size:
            raise InputError(
                f"this prior draws {self.size} x {self.size} pixels: too few for a matrix of {tuple(shape)}"
            )


def _margins(length: int, size: int) -> tuple[int, int]:
    """Zeros before and after, so that the centre length // 2 falls on size // 2."""
    before = size // 2 - length // 2
    return before, size - length - before


class Generator(nn.Module):
    """From latents and labels to images.

    Attributes:
        average: the running mean of w, (latent,); a buffer, exchanged like a parameter.
    """

    average: Tensor

    def __init__(self, mapper: Mapper, synthesizer: Synthesizer, truncation: float, truncated: int) -> None:
        super().__init__()
        self.mapper, self.synthesizer = mapper, synthesizer
        self.truncation, self.truncated = truncation, truncated
        self.register_buffer("average", torch.zeros(mapper.latent))

    @property
    def n_layers(self) -> int:
        """Layers of the synthesizer that take a style."""
        return len(self.synthesizer.layers)

    @property
    def behind_w(self) -> frozenset[str]:
        """Names of the tensors that w hides: where w is given, they have no say."""
        return frozenset(["average", *(f"mapper.{name}" for name, _ in self.mapper.named_parameters())])

    def styles(self, latents: Tensor, label: Tensor) -> Tensor:
        """(b, layers, latent): w for every layer; truncated towards its mean where nothing is trained."""
        w: Tensor = self.mapper(latents, label).unsqueeze(1).expand(-1, self.n_layers, -1)
        if self.training:
            return w
        average = self.average.unsqueeze(-2) if self.average.dim() == 2 else self.average
        early = torch.arange(self.n_layers, device=w.device) < self.truncated
        factor = torch.where(early, self.truncation, 1.0)[:, None]
        truncated: Tensor = average + factor * (w - average)
        return truncated

    def forward(self, latents: Tensor, label: Tensor, noise: Sequence[Tensor], styles: Tensor | None = None) -> Tensor:
        """(b, channels, n, n) images from z (b, latent), labels (b, n_sites), :meth:`noise`; ``styles`` replace z."""
        image: Tensor = self.synthesizer(self.styles(latents, label) if styles is None else styles, noise)
        return image

    def noise(self, count: int, generator: torch.Generator, largest: int | None = None) -> list[Tensor]:
        """Noise maps (count, 1, n, n) of the layers that take one, by a CPU generator; zeros above ``largest`` px."""
        device = self.average.device
        return [
            torch.randn(count, 1, n, n, generator=generator).to(device) * float(largest is None or n <= largest)
            for n in self.synthesizer.noise_sizes
        ]

    @torch.no_grad()
    def track(self, w: Tensor) -> None:
        """Moves the running mean of w towards that of this batch (b, latent)."""
        self.average.lerp_(w.mean(dim=0), 1 - AVERAGE)


class Mapper(nn.Module):
    """z and the site's code, normalised together, through dense layers to w."""

    def __init__(self, n_sites: int, latent: int, layers: int) -> None:
        super().__init__()
        self.latent = latent
        self.codes = nn.Parameter(torch.randn(n_sites, latent))
        widths = [2 * latent] + [latent] * layers
        self.layers = nn.ModuleList(Dense(a, b, GAIN, MAPPER_RATE) for a, b in pairwise(widths))

    def forward(self, latents: Tensor, label: Tensor) -> Tensor:
        """(b, latent) from z (b, latent) and labels (b, n_sites)."""
        code = matrix(label, self.codes.mT)
        x = torch.cat([latents, code], dim=1)
        x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return x


class Synthesizer(nn.Module):
    """From styles and noise to images."""

    def __init__(self, channels: Mapping[int, int], n_channels: int, latent: int, skips: bool, noise_to: int) -> None:
        super().__init__()
        sizes = list(channels)
        self.constant = nn.Parameter(torch.ones(channels[SMALLEST], SMALLEST, SMALLEST))
        layers: list[Layer] = []
        for size in sizes:
            before = channels[max(size // 2, SMALLEST)]
            noisy = size <= noise_to
            layers += [
                Layer(None if size == SMALLEST else before, channels[size], size, latent, noisy),
                Layer(channels[size], channels[size], size, latent, noisy),
            ]
        self.layers = nn.ModuleList(layers)
        self.noise_sizes = [layer.size for layer in layers if layer.noisy]
        shown = sizes if skips else sizes[-1:]
        self.to_image = nn.ModuleDict({str(n): Convolution(channels[n], n_channels, 1, 1.0, bias=True) for n in shown})
        if skips:  # the first images lie in range, though they are sums over the sizes
            with torch.no_grad():
                for one in self.to_image.values():
                    one.weight.mul_(FIRST)  # type: ignore[operator]

    def forward(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """(b, channels, n, n) from styles (b, layers, latent) and one noise map for each layer that takes one."""
        maps = iter(noise)
        x = self.constant.expand(len(styles), -1, -1, -1)
        image: Tensor | None = None
        for k, layer in enumerate(self.layers):
            x = layer(x, styles[:, k], next(maps) if layer.noisy else None)
            if k % 2 and (name := str(layer.size)) in self.to_image:
                shown = self.to_image[name](x)
                image = shown if image is None else shown + doubled(image)
        assert image is not None
        return image


class Layer(nn.Module):
    """[upsampling] convolution, noise, bias, leaky ReLU, instance normalisation, style: x (s + 1) + t.

    Upsampling by bilinear interpolation before the convolution equals StyleGAN's (nearest, convolution, blur [1, 2, 1])
    but at the border, and is one pass instead of two.
    """

    def __init__(self, n_in: int | None, n_out: int, size: int, latent: int, noisy: bool) -> None:
        super().__init__()
        self.size, self.noisy = size, noisy
        self.convolution = None if n_in is None else Convolution(n_in, n_out, 3, GAIN, bias=False)
        self.noise_gain = nn.Parameter(torch.zeros(n_out)) if noisy else None
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.style = Dense(latent, 2 * n_out, 1.0)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """(b, n_out, size, size)."""
        if self.convolution is not None:
            x = self.convolution(x if x.shape[-1] == self.size else doubled(x))
        if noise is not None and self.noise_gain is not None:
            x = x + channelwise(self.noise_gain) * noise
        x = F.leaky_relu(x + channelwise(self.bias), SLOPE)
        x = F.instance_norm(x, eps=1e-8)
        scale, shift = self.style(w)[..., None, None].chunk(2, dim=1)
        styled: Tensor = x * (scale + 1) + shift
        return styled


class Discriminator(nn.Module):
    """One logit for each site; that of the image's own site counts."""

    def __init__(self, channels: Mapping[int, int], n_channels: int, n_sites: int, widest: int) -> None:
        super().__init__()
        sizes = sorted(channels, reverse=True)
        self.from_image = Convolution(n_channels, channels[sizes[0]], 1, GAIN, bias=True)
        self.blocks = nn.ModuleList(Down(channels[n], channels[n // 2]) for n in sizes[:-1])
        last = channels[SMALLEST]
        self.last = Convolution(last + 1, last, 3, GAIN, bias=True)
        self.dense = Dense(last * SMALLEST**2, widest, GAIN)
        self.logits = Dense(widest, n_sites, 1.0)

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        """(b,) logits of images (b, channels, n, n) at the sites of the labels (b, n_sites)."""
        x = F.leaky_relu(self.from_image(images), SLOPE)
        for block in self.blocks:
            x = block(x)
        x = F.leaky_relu(self.last(torch.cat([x, _spread(x)], dim=1)), SLOPE)
        x = F.leaky_relu(self.dense(x.flatten(1)), SLOPE)
        logits: Tensor = (self.logits(x) * label).sum(dim=1)
        return logits


class Down(nn.Module):
    """Convolution, then a strided one that halves the size, blurred by [1, 1] in both directions.

    That is StyleGAN's fused downscaling; its further blur [1, 2, 1] before it is left out (ours, for speed).
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = Convolution(n_in, n_in, 3, GAIN, bias=True)
        self.second = Convolution(n_in, n_out, 3, GAIN, bias=True, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n_out, n/2, n/2)."""
        x = F.leaky_relu(self.first(x), SLOPE)
        blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 2, stride=1)
        return F.leaky_relu(self.second(blurred, padding=0), SLOPE)


def _spread(x: Tensor) -> Tensor:
    """The mean standard deviation over groups of images, as one more channel (b, 1, y, x)."""
    group = next(n for n in range(min(GROUP, len(x)), 0, -1) if len(x) % n == 0)
    grouped = x.view(group, -1, *x.shape[1:])
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3), keepdim=True)
    return deviation.repeat(group, 1, x.shape[2], x.shape[3])
