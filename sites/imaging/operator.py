"""The Cartesian measurement operator A = M F S: coil maps, Fourier transform, sampling mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedrecon.sites.imaging.coils import combine
from fedrecon.sites.imaging.fourier import fft2c, ifft2c


@dataclass(frozen=True)
class Cartesian:
    """A = M F S for a batch of slices.

    Attributes:
        mask: True where a sample is measured, (b, 1, y, x) bool.
        maps: coil maps S, (b, c, y, x) complex64, with sum_c |S_c|^2 = 1 at every pixel.
    """

    mask: Tensor
    maps: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (b, y, x) to k-space (b, c, y, x), zero where not measured."""
        return self.mask * fft2c(self.maps * image.unsqueeze(1))

    def adjoint(self, kspace: Tensor) -> Tensor:
        """A^H k: k-space (b, c, y, x) to image (b, y, x)."""
        return combine(ifft2c(self.mask * kspace), self.maps)

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x, (b, y, x); its largest eigenvalue is at most 1."""
        return self.adjoint(self.forward(image))

    def project(self, image: Tensor, kspace: Tensor) -> Tensor:
        """Hard data consistency: S^H F^H((1 - M) F S x + M k), (b, y, x).

        The image's own samples are replaced by the measured ones. With one coil this is the orthogonal
        projection on {x: A x = k}. With several it is x - A^H(A x - k), a gradient step of length 1 on
        ||A x - k||^2 / 2: one image under these maps cannot in general meet the samples of all coils.
        """
        samples = self.mask * kspace + ~self.mask * fft2c(self.maps * image.unsqueeze(1))
        return combine(ifft2c(samples), self.maps)
