"""The work of the benchmark on synthetic images: a small U-Net to train, or 100 MB of weights to pass around.

Every column does this same work, and a number that follows from the final weights shows that it did.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon.sites.seeding import torch_generator
from fedrecon.sites.training.parameters import initialise
from fedrecon.strategies.networks.unet import UNet

IMAGES, SIDE, BATCH, LR = 128, 64, 8, 0.1
TENSORS, WIDTH = 25, 1000
HELD_OUT = 99
"""A site that trains nowhere: the check is the final weights' loss on its images."""


class Denoiser(nn.Module):
    """0.55 M parameters on 4 x 4 blocks of pixels as channels, so that a round takes seconds on one core."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(16, 16, channels=17, pools=3)

    def forward(self, image: Tensor) -> Tensor:
        """(b, 1, y, x) to the same: the image and a correction."""
        correction: Tensor = self.unet(F.pixel_unshuffle(image, 4))
        return image + F.pixel_shuffle(correction, 4)


class Weights(nn.Module):
    """25 matrices of 1000 x 1000: 25 M parameters that nothing is done to."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(TENSORS))


def build(variant: str) -> nn.Module:
    """The module of a variant with its first weights, the same in every process."""
    return initialise({"train": Denoiser, "comm": Weights}[variant], seed=1)


def site_data(site: int) -> tuple[Tensor, Tensor]:
    """A site's noisy images and the smooth ones beneath, (n, 1, y, x) each."""
    generator = torch_generator("bench", site)
    coarse = torch.randn(IMAGES, 1, 8, 8, generator=generator)
    smooth = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    return smooth + 0.5 * torch.randn(smooth.shape, generator=generator), smooth


@torch.no_grad()
def final_check(variant: str, model: nn.Module) -> float:
    """Loss on held-out images (``train``) or the mean magnitude of all weights (``comm``)."""
    if variant == "comm":
        magnitudes = [float(p.abs().double().sum()) for p in model.parameters()]
        return sum(magnitudes) / sum(p.numel() for p in model.parameters())
    noisy, smooth = site_data(HELD_OUT)
    model.eval()
    return float(F.mse_loss(model(noisy), smooth))
