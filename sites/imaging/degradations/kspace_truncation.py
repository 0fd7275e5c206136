"""Removes the outer k-space lines along both axes, as a scan of lower resolution does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedrecon.sites.imaging.degradations.degradation import Degradation

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement


class KspaceTruncation(Degradation):
    """Keeps the central 1 / scale of k-space along both axes, fully sampled for every coil, without a window.

    The low-resolution coil images are combined by the means of the coil maps over the coarse pixels, scaled to unit
    length again.
    """

    in_kspace: ClassVar[bool] = True

    def measure(self, kspace: Tensor, maps: Tensor, reference: Tensor | None = None) -> Measurement:
        """The measurement of the centred box of k-space; see the base class."""
        from dataclasses import replace

        import torch

        from fedrecon.sites.imaging.masks.mask import centred
        from fedrecon.sites.imaging.measurement import combined_low, measure

        y, x = kspace.shape[-2:]
        rows, columns = self.calibration((y, x))
        mask = torch.zeros(len(kspace), 1, y, x, dtype=torch.bool, device=kspace.device)
        mask[..., centred(y, rows), centred(x, columns)] = True
        measured = measure(kspace, mask, maps, reference=reference)
        return replace(measured, low=combined_low(kspace, maps, self.scale))

    def given(self, low: Tensor) -> Measurement:
        """The measurement of low-resolution images as one coil, without added noise; see the base class."""
        import torch

        from fedrecon.sites.imaging.fourier import fft2c
        from fedrecon.sites.imaging.resampling import zero_padded

        kspace = fft2c(zero_padded(low, self.scale)).unsqueeze(1)
        return self.measure(kspace, torch.ones_like(kspace))
