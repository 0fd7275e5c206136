"""The base of the degradations that act on the image, with one matrix for each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrecon.sites.imaging.degradations.degradation import Degradation

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.imaging.operator import Resampling


class Resampled(Degradation):
    """Resamples the coil-combined complex image to a coarser grid.

    Coils, k-space and noise act before this step, so the samples have one channel and no k-space.
    """

    def matrix(self, length: int) -> Tensor:
        """The matrix that resamples an axis, (length / scale, length) float32; each row sums to 1."""
        raise NotImplementedError

    def measure(self, kspace: Tensor, maps: Tensor, reference: Tensor | None = None) -> Measurement:
        """The measurement of the coarse image; see the base class."""
        from fedrecon.sites.imaging.coils import combine
        from fedrecon.sites.imaging.fourier import ifft2c

        image = combine(ifft2c(kspace), maps)
        operator = self._operator(image, (image.shape[-2], image.shape[-1]))
        return self._measurement(operator, operator.forward(image), reference)

    def given(self, low: Tensor) -> Measurement:
        """The measurement whose samples are the images themselves; see the base class."""
        operator = self._operator(low, (low.shape[-2] * self.scale, low.shape[-1] * self.scale))
        return self._measurement(operator, operator.gain * low.unsqueeze(1), None)

    def _operator(self, images: Tensor, shape: tuple[int, int]) -> Resampling:
        from fedrecon.sites.imaging.operator import Resampling

        rows, columns = (self.matrix(n) for n in shape)
        return Resampling(rows, columns, len(images), self.scale, images.device)

    def _measurement(self, operator: Resampling, samples: Tensor, reference: Tensor | None) -> Measurement:
        from fedrecon.sites.imaging.measurement import Measurement, peak
        from fedrecon.sites.imaging.resampling import zero_padded

        low = operator.low(samples)
        padded = zero_padded(low, self.scale)
        return Measurement(samples, operator, padded, peak(padded), reference=reference, low=low)
