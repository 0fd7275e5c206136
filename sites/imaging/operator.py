"""Linear measurement operators from an image to samples: Cartesian k-space, and an image on a coarser grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from fedrecon.sites.imaging.coils import combine, rss
from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.resampling import zero_padded


class LinearOperator(Protocol):
    """A linear operator A from an image to samples. Its largest singular value is at most 1."""

    @property
    def mask(self) -> Tensor:
        """True at measured samples, (b, 1, ..., ...) bool, the same for all coils."""
        ...

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (b, y, x) to samples; samples that are not measured are 0."""
        ...

    def adjoint(self, samples: Tensor) -> Tensor:
        """A^H s: samples to image (b, y, x)."""
        ...

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x, (b, y, x)."""
        ...

    def project(self, image: Tensor, samples: Tensor) -> Tensor:
        """Hard data consistency: changes the image (b, y, x) so that it agrees with the samples."""
        ...

    def zero_filled(self, samples: Tensor) -> Tensor:
        """The magnitude image (b, y, x) of k-space with zeros for the samples that were not measured."""
        ...

    def repeated(self, times: int) -> LinearOperator:
        """The operator of the whole batch, ``times`` times after each other."""
        ...


@dataclass(frozen=True)
class Cartesian:
    """A = M F S for a batch of slices: coil maps, Fourier transform, sampling mask.

    Attributes:
        mask: sampling mask M, True at measured samples, (b, 1, y, x) bool.
        maps: coil maps S, (b, c, y, x) complex64, with sum_c |S_c|^2 = 1 at every pixel.
    """

    mask: Tensor
    maps: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (b, y, x) to k-space (b, c, y, x); samples that are not measured are zero."""
        return self.mask * fft2c(self.maps * image.unsqueeze(1))

    def adjoint(self, samples: Tensor) -> Tensor:
        """A^H k: k-space (b, c, y, x) to image (b, y, x)."""
        return combine(ifft2c(self.mask * samples), self.maps)

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x, (b, y, x); its largest eigenvalue is at most 1."""
        return self.adjoint(self.forward(image))

    def project(self, image: Tensor, samples: Tensor) -> Tensor:
        """Hard data consistency: S^H F^H((1 - M) F S x + M k), (b, y, x).

        The measured samples replace the image's own samples. With one coil this is the orthogonal projection on
        {x: A x = k}. With several coils it is x - A^H(A x - k), a gradient step of length 1 on
        ||A x - k||^2 / 2: in general no single image agrees with the samples of all coils under these maps.
        """
        filled = self.mask * samples + ~self.mask * fft2c(self.maps * image.unsqueeze(1))
        return combine(ifft2c(filled), self.maps)

    def zero_filled(self, samples: Tensor) -> Tensor:
        """The root sum of squares over the coils, as in fastMRI, (b, y, x) float32."""
        return rss(ifft2c(samples))

    def repeated(self, times: int) -> Cartesian:
        """Masks and maps of the whole batch, ``times`` times after each other."""
        return Cartesian(*(one.repeat(times, 1, 1, 1) for one in (self.mask, self.maps)))


@dataclass(frozen=True)
class Resampling:
    """A x = c W_y x W_x^T: the image on a grid that is ``scale`` times coarser.

    The factor c makes the largest singular value 1.

    Attributes:
        rows: the matrix W_y, (y / scale, y), on the CPU.
        columns: the matrix W_x, (x / scale, x), on the CPU.
        count: the number b of slices in the batch.
        scale: how many times coarser the grid of the samples is.
        device: the device of the images.
    """

    rows: Tensor
    columns: Tensor
    count: int
    scale: int
    device: torch.device

    @property
    def gain(self) -> float:
        """The factor c."""
        return 1 / (_norm(self.rows) * _norm(self.columns))

    @property
    def mask(self) -> Tensor:
        """All True, (b, 1, y / scale, x / scale)."""
        shape = (self.count, 1, len(self.rows), len(self.columns))
        return torch.ones(shape, dtype=torch.bool, device=self.device)

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (b, y, x) to samples (b, 1, y / scale, x / scale) complex64."""
        return self.gain * (_like(self.rows, image) @ image @ _like(self.columns, image).mT).unsqueeze(1)

    def adjoint(self, samples: Tensor) -> Tensor:
        """A^H s: samples (b, 1, y / scale, x / scale) to image (b, y, x)."""
        return self.gain * (_like(self.rows, samples).mT @ samples[:, 0] @ _like(self.columns, samples))

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x, (b, y, x); its largest eigenvalue is 1."""
        return self.adjoint(self.forward(image))

    def project(self, image: Tensor, samples: Tensor) -> Tensor:
        """x - A^+ (A x - s): the orthogonal projection on {x: A x = s}, if A^+ is exact (see :func:`_inverse`)."""
        residual = (self.forward(image) - samples)[:, 0] / self.gain
        return image - _like(_inverse(self.rows), image) @ residual @ _like(_inverse(self.columns), image).mT

    def zero_filled(self, samples: Tensor) -> Tensor:
        """The magnitude image of the coarse image's zero-padded k-space, (b, y, x) float32."""
        return zero_padded(self.low(samples), self.scale).abs()

    def repeated(self, times: int) -> Resampling:
        """The same matrices for ``times`` as many slices."""
        return replace(self, count=times * self.count)

    def low(self, samples: Tensor) -> Tensor:
        """The coarse image itself, (b, y / scale, x / scale)."""
        return samples[:, 0] / self.gain


# The keys of these caches are the matrices themselves, which live as long as the process.


@lru_cache(maxsize=32)
def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.double(), ord=2))


@lru_cache(maxsize=32)
def _inverse(matrix: Tensor) -> Tensor:
    """The pseudo-inverse without singular values below 0.01 of the largest: these would amplify noise."""
    inverse: Tensor = torch.linalg.pinv(matrix.double(), rtol=0.01).float()
    return inverse


@lru_cache(maxsize=64)
def _moved(matrix: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return matrix.to(dtype=dtype, device=device)


def _like(matrix: Tensor, values: Tensor) -> Tensor:
    return _moved(matrix, values.dtype, values.device)
