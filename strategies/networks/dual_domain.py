"""A network in two domains: a U-Net fills in k-space, data consistency follows, and a second U-Net corrects the image.

These are the frequency and the image space of FedMRI (Feng et al., IEEE TMI 2023). FedMRI's code names a network of two
U-Nets: one with two input channels (k-space), one with one input channel (image). But no commit of its repository holds
the file that joins them. So we took from that code: the two U-Nets, their input channels, and that the encoders of both
are shared. OURS is everything between the U-Nets:

- K-space is the transform of the coil-combined zero-filled image, so that any number of coils fits. It is in units of
  each slice's standard deviation.
- After the first U-Net the measured samples are put back: exactly for one coil; for several see ``Cartesian.project``.
- The second U-Net gets the magnitude, or for complex data the real and the imaginary part.
- Both U-Nets have a residual connection. With ``residual=False`` the first U-Net predicts k-space itself, and the
  second an image around the mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.papers import FEDMRI
from fedrecon.strategies.networks.unet import UNet, as_channels, as_image, correction, damp, unet_parts

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images, Measurement


class Network(nn.Module):
    """k-space U-Net, hard data consistency, inverse FFT, image U-Net.

    For magnitude data the second U-Net gets the magnitude of the first one's image, one channel as published. For
    complex data it gets two channels.
    """

    paper: ClassVar[str] = FEDMRI

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
        self.kspace = UNet(2, 2, channels, pools, dropout, norm)
        self.image = UNet(n, n, channels, pools, dropout, norm)
        if residual:
            damp(self.kspace)
            damp(self.image)
        self.parts = unet_parts(self, ("kspace.", "image."))

    def forward(self, measurement: Measurement) -> Tensor:
        """The reconstruction, (b, y, x) complex64, at the scale of the data."""
        scale = measurement.scale[:, None, None]
        samples = as_channels(fft2c(measurement.zero_filled / scale))
        filled = correction(self.kspace, samples)
        image = ifft2c(as_image(samples + filled if self.residual else filled))
        image = measurement.operator.project(image, measurement.kspace / scale[:, None])
        channels = as_channels(image if self.complex_valued else image.abs())
        start = channels if self.residual else channels.mean(dim=(-2, -1), keepdim=True)
        return as_image(start + correction(self.image, channels)) * scale
