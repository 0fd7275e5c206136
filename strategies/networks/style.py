"""Style-based adversarial prior of images, conditioned on the site: mapper, synthesizer, discriminator.

This is the network of FedGIMP: StyleGAN-1 with a learned code for each site. Its published form has 256 px, ``latent``
and ``channel_max`` 512, ``channel_base`` 16384, ``noise_to`` 1024 and no ``skips``; other sizes are ours.

A prior is not a reconstruction network: it has no ``forward(measurement)``. It draws images of ``size`` x ``size``
pixels: the smallest power of two, from 8 on, that holds the largest matrix. Smaller matrices are padded to this size,
and cut out of it. Images lie in [-1, 1]. A magnitude image has one channel, 2 |x| - 1. A complex image has two
channels, Re x and Im x.

Every tensor of the generator may have a leading axis for the slices of a batch (``torch.func.functional_call``). A
convolution then becomes a grouped convolution, and a whole batch of slices is adapted at the cost of one network.
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
"""Side of the learned constant, in pixels."""
GAIN = 2**0.5
MAPPER_RATE = 0.01
"""Learning-rate multiplier of the mapper (StyleGAN's)."""
AVERAGE = 0.995
"""Decay of the running mean of w."""
SLOPE = 0.2
FIRST = 0.2
"""Factor on the first weights of the convolutions that make the image, with ``skips``."""
GROUP = 4
"""Largest number of images over which the discriminator takes a standard deviation."""


class Network(nn.Module):
    """The generator and the discriminator for images of this kind.

    Args:
        latent: length of z, of a site's code, and of w.
        layers: number of dense layers of the mapper.
        channel_base, channel_max: limits of the number of channels: a layer with a side of n px has
            min(channel_base / n, channel_max).
        skips: whether the image is the sum of a 1x1 convolution of each size. If False, only the last layer makes it.
        noise_to: largest size in px of the layers that add noise; 0 adds none.
        truncation: factor on the distance of w from its mean in evaluation mode, in the first ``truncated`` layers.
        truncated: number of layers in which w is truncated.
        content: content of the images, ``magnitude`` or ``complex``.
    """

    paper: ClassVar[str] = """
        @inproceedings{karras2019stylegan,
            author = {Karras, Tero and Laine, Samuli and Aila, Timo},
            title = {A Style-Based Generator Architecture for Generative Adversarial Networks},
            booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
            year = {2019},
            doi = {10.1109/CVPR.2019.00453}
        }
    """

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
        """A network of the same shape with first weights, drawn from this seed."""
        made = initialise(self._made, seed).to(self.generator.average.device)
        assert isinstance(made, Network)
        return made.train(self.training)

    def label(self, site: str, count: int) -> Tensor:
        """The site's label, (count, n_sites): one-hot. A site that the network does not know gets the mean of all."""
        known = site in self.sites
        row = [float(not known or one == site) for one in self.sites]
        label = torch.tensor(row, device=self.generator.average.device) / sum(row)
        return label.expand(count, -1)

    def encoded(self, image: Tensor) -> Tensor:
        """Images (b, y, x) of peak 1, complex or magnitude, in the discriminator's form (b, channels, n, n).

        Raises:
            InputError: the matrix is larger than the images that the network draws.
        """
        self._check(image.shape[-2:])
        magnitude = self.content == "magnitude"
        planes = image.abs().unsqueeze(1) if magnitude else torch.view_as_real(image).movedim(-1, 1)
        planes = F.pad(planes, [m for n in image.shape[:0:-1] for m in _margins(n, self.size)])
        return 2 * planes - 1 if magnitude else planes

    def decoded(self, planes: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of :meth:`encoded`: images (b, y, x) complex64, where (y, x) are the last two of ``shape``.

        Raises:
            InputError: the matrix is larger than the images that the network draws.
        """
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
    """The numbers of zeros before and after, so that the centre length // 2 falls on size // 2."""
    before = size // 2 - length // 2
    return before, size - length - before


class Generator(nn.Module):
    """The generator: it makes images from latents and labels.

    Attributes:
        average: the running mean of w, (latent,). It is a buffer, and it is exchanged like a parameter.
    """

    average: Tensor

    def __init__(self, mapper: Mapper, synthesizer: Synthesizer, truncation: float, truncated: int) -> None:
        super().__init__()
        self.mapper, self.synthesizer = mapper, synthesizer
        self.truncation, self.truncated = truncation, truncated
        self.register_buffer("average", torch.zeros(mapper.latent))

    @property
    def n_layers(self) -> int:
        """The number of layers of the synthesizer; each takes a style."""
        return len(self.synthesizer.layers)

    @property
    def behind_w(self) -> frozenset[str]:
        """The names of the tensors before w. If w is given, they have no influence on the image."""
        return frozenset(["average", *(f"mapper.{name}" for name, _ in self.mapper.named_parameters())])

    def styles(self, latents: Tensor, label: Tensor) -> Tensor:
        """w for every layer, (b, layers, latent). In evaluation mode w is truncated towards its mean."""
        w: Tensor = self.mapper(latents, label).unsqueeze(1).expand(-1, self.n_layers, -1)
        if self.training:
            return w
        average = self.average.unsqueeze(-2) if self.average.dim() == 2 else self.average
        early = torch.arange(self.n_layers, device=w.device) < self.truncated
        factor = torch.where(early, self.truncation, 1.0)[:, None]
        truncated: Tensor = average + factor * (w - average)
        return truncated

    def forward(self, latents: Tensor, label: Tensor, noise: Sequence[Tensor], styles: Tensor | None = None) -> Tensor:
        """Images (b, channels, n, n).

        Args:
            latents: z, (b, latent).
            label: labels of the sites, (b, n_sites).
            noise: noise maps, see :meth:`noise`.
            styles: w for every layer, (b, layers, latent); if given, ``latents`` and ``label`` are not used.
        """
        image: Tensor = self.synthesizer(self.styles(latents, label) if styles is None else styles, noise)
        return image

    def noise(self, count: int, generator: torch.Generator, largest: int | None = None) -> list[Tensor]:
        """Noise maps (count, 1, n, n) for the layers that add noise, from a CPU generator; 0 above ``largest`` px."""
        device = self.average.device
        return [
            torch.randn(count, 1, n, n, generator=generator).to(device) * float(largest is None or n <= largest)
            for n in self.synthesizer.noise_sizes
        ]

    @torch.no_grad()
    def track(self, w: Tensor) -> None:
        """Moves the running mean of w towards the mean of this batch (b, latent)."""
        self.average.lerp_(w.mean(dim=0), 1 - AVERAGE)


class Mapper(nn.Module):
    """Maps z and the site's code to w: they are normalised together, and dense layers follow."""

    def __init__(self, n_sites: int, latent: int, layers: int) -> None:
        super().__init__()
        self.latent = latent
        self.codes = nn.Parameter(torch.randn(n_sites, latent))
        widths = [2 * latent] + [latent] * layers
        self.layers = nn.ModuleList(Dense(a, b, GAIN, MAPPER_RATE) for a, b in pairwise(widths))

    def forward(self, latents: Tensor, label: Tensor) -> Tensor:
        """w (b, latent) from z (b, latent) and labels (b, n_sites)."""
        code = matrix(label, self.codes.mT)
        x = torch.cat([latents, code], dim=1)
        x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return x


class Synthesizer(nn.Module):
    """Makes images from styles and noise."""

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
        if skips:  # the images are sums over the sizes: small weights keep the first ones in range
            with torch.no_grad():
                for one in self.to_image.values():
                    one.weight.mul_(FIRST)  # type: ignore[operator]

    def forward(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Images (b, channels, n, n) from styles (b, layers, latent) and a noise map for each layer that adds noise."""
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

    Bilinear upsampling before the convolution equals StyleGAN's upsampling (nearest, convolution, blur [1, 2, 1])
    except at the border. It takes one pass instead of two.
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
    """Has one logit for each site, and returns the logit of the image's own site."""

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
        """The logits (b,) of images (b, channels, n, n) under labels (b, n_sites)."""
        x = F.leaky_relu(self.from_image(images), SLOPE)
        for block in self.blocks:
            x = block(x)
        x = F.leaky_relu(self.last(torch.cat([x, _spread(x)], dim=1)), SLOPE)
        x = F.leaky_relu(self.dense(x.flatten(1)), SLOPE)
        logits: Tensor = (self.logits(x) * label).sum(dim=1)
        return logits


class Down(nn.Module):
    """A convolution, a blur by [1, 1] in both directions, and a strided convolution that halves the size.

    This is StyleGAN's fused downscaling. StyleGAN blurs by [1, 2, 1] before it. That blur is left out (ours, for
    speed).
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
    """The mean standard deviation over groups of images, as a further channel (b, 1, y, x)."""
    group = next(n for n in range(min(GROUP, len(x)), 0, -1) if len(x) % n == 0)
    grouped = x.view(group, -1, *x.shape[1:])
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3), keepdim=True)
    return deviation.repeat(group, 1, x.shape[2], x.shape[3])
