"""Combines coil images, and estimates coil maps from the calibration region (docs/decisions/001-coil-maps.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrecon.sites.imaging.fourier import ifft2c
from fedrecon.sites.imaging.masks.mask import centred
from fedrecon.sites.imaging.numpy_fourier import ORDINARY

_LARGEST_CALIBRATION = 32
"""Largest number of samples of an axis that are used: maps and phase are smooth, so more would add noise and time."""
_LARGEST_KERNEL = 4
_THRESHOLD = 0.03
"""Singular values of the calibration matrix below this fraction of the largest value count as noise."""
_RANGE = (1e-12, 1e15)
"""Largest samples of a calibration box whose products, summed and a thousandth of them, are numbers of float32."""
_BAND = 2**22
"""Largest number of complex numbers of the operator (c, c, rows, x) in memory at a time: 32 MiB."""
_ITERATIONS = 5
"""Number of power iterations at each pixel. They start at the low-resolution coil images, which are close already."""


def rss(coil_images: Tensor) -> Tensor:
    """Root sum of squares over the coils: (..., c, y, x) to (..., y, x), real.

    Float32 cannot hold the squares of extreme values. Such images are scaled by a power of two first.
    """
    _, exponent = torch.frexp(coil_images.detach().abs().amax(dim=(-3, -2, -1), keepdim=True))
    if not bool((exponent.abs() > ORDINARY).any()):
        return torch.linalg.vector_norm(coil_images, dim=-3)  # type: ignore[no-any-return]
    exponent = torch.where(exponent.abs() > ORDINARY, exponent.clamp(-126, 126), 0)
    one = torch.ones_like(exponent, dtype=coil_images.real.dtype)
    length = torch.linalg.vector_norm(coil_images * torch.ldexp(one, -exponent), dim=-3)
    return length * torch.ldexp(one, exponent).squeeze(-3)  # type: ignore[no-any-return]


def combine(coil_images: Tensor, maps: Tensor) -> Tensor:
    """S^H x = sum_c conj(S_c) x_c: (..., c, y, x) to (..., y, x), complex."""
    return (maps.conj() * coil_images).sum(dim=-3)


def estimate_maps(kspace: Tensor, calibration: tuple[int, int], phase: bool = True) -> Tensor:
    """Estimates coil maps by ESPIRiT (Uecker et al., MRM 71:990, 2014): one set of maps, never cropped.

    At each pixel the map is the dominant eigenvector of the operator that projects every k-space patch on the
    row space of the calibration matrix and averages where patches overlap.

    Args:
        kspace: (b, c, y, x) complex64; only the calibration box is read.
        calibration: size (y, x) of the centred box in which every sample is measured.
        phase: whether the maps carry the low-resolution phase phi of the image, so that ``combine`` removes it.
            If False, their common phase is that of a virtual coil. For one coil the map is exp(i phi), or ones.

    Returns:
        (b, c, y, x) complex64 with sum_c |S_c|^2 = 1 at every pixel, the background included; no NaN.
    """
    box = (min(calibration[0], _LARGEST_CALIBRATION), min(calibration[1], _LARGEST_CALIBRATION))
    low = _low_resolution(kspace, box)
    maps = torch.stack([_dominant(one, start, box) for one, start in zip(kspace, low, strict=True)])
    reference = low if phase else _virtual_coil(low)
    return maps * _unit(combine(reference, maps)).unsqueeze(1)


def rephased(kspace: Tensor, maps: Tensor, calibration: tuple[int, int]) -> Tensor:
    """The maps with the low-resolution phase of another calibration box, as if they had been estimated from it.

    Only the common phase of the coils is exchanged. So ``combine`` leaves the residual phase of that box, and the maps
    need not be estimated again.

    Args:
        kspace: (b, c, y, x) complex64; only the calibration box is read.
        maps: (b, c, y, x) complex64 of :func:`estimate_maps`.
        calibration: size (y, x) of the box, see :func:`estimate_maps`.
    """
    box = (min(calibration[0], _LARGEST_CALIBRATION), min(calibration[1], _LARGEST_CALIBRATION))
    return maps * _unit(combine(_low_resolution(kspace, box), maps)).unsqueeze(1)


def _calibration_box(kspace: Tensor, size: tuple[int, int]) -> Tensor:
    """The centred box of k-space (..., y, x), a view."""
    return kspace[..., centred(kspace.shape[-2], size[0]), centred(kspace.shape[-1], size[1])]


def _low_resolution(kspace: Tensor, size: tuple[int, int]) -> Tensor:
    """Coil images of the calibration box under a Hann window, each slice scaled to a maximum of 1."""
    rows, columns = (torch.hann_window(n + 2, periodic=False, device=kspace.device)[1:-1] for n in size)
    kept = torch.zeros_like(kspace)
    _calibration_box(kept, size)[:] = _calibration_box(kspace, size) * torch.outer(rows, columns)
    images = ifft2c(kept)
    peak = images.abs().amax(dim=(-3, -2, -1), keepdim=True)
    return images / torch.where(peak > 0, peak, torch.ones_like(peak))


def _dominant(kspace: Tensor, start: Tensor, size: tuple[int, int]) -> Tensor:
    """The unit eigenvector at each pixel, (c, y, x), from one slice's k-space (c, y, x)."""
    n_coils, size_y, size_x = kspace.shape
    if n_coils == 1:
        return torch.ones_like(start)
    kernel = max(1, min(_LARGEST_KERNEL, (min(size) + 1) // 3))
    lags = _lags(_projector(_calibration_box(kspace, size), kernel))
    waves_y, waves_x = _waves(size_y, kernel, lags), _waves(size_x, kernel, lags)
    n_rows = max(1, _BAND // (n_coils**2 * size_x))
    bands = zip(torch.split(start, n_rows, dim=1), torch.split(waves_y, n_rows), strict=True)
    return torch.cat([_power(rows @ lags @ waves_x.mT, band) for band, rows in bands], dim=1)


def _waves(length: int, kernel: int, like: Tensor) -> Tensor:
    """exp(2 pi i r l / length) at pixels r for lags l = 1 - kernel ... kernel - 1: (length, 2k - 1)."""
    pixels = torch.arange(length, dtype=torch.float64) - length // 2
    lags = torch.arange(1 - kernel, kernel, dtype=torch.float64)
    angles = 2 * torch.pi / length * torch.outer(pixels, lags)
    return torch.polar(torch.ones_like(angles), angles).to(like)


def _power(operator: Tensor, start: Tensor) -> Tensor:
    """Power iterations at each pixel, (c, y, x), from the operator (c, c, y, x) and the start (c, y, x)."""
    vector = _normalised(start)
    for _ in range(_ITERATIONS):
        vector = _normalised(torch.einsum("cdyx,dyx->cyx", operator, vector))
    return vector


def _projector(box: Tensor, kernel: int) -> Tensor:
    """The projection on the space of k-space patches: calibration data (c, y, x) to (c, k, k, c, k, k)."""
    patches = _in_range(box).unfold(-2, kernel, 1).unfold(-2, kernel, 1).permute(1, 2, 0, 3, 4)
    matrix = patches.flatten(2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix.conj())
    kept = vectors * (values > _THRESHOLD**2 * values[-1])
    projector: Tensor = kept @ kept.mH
    return projector.view(2 * (len(box), kernel, kernel))


def _in_range(box: Tensor) -> Tensor:
    """Samples whose products float32 can hold: a projection has no scale. Usual samples keep their bits."""
    peak = box.abs().amax()
    lowest, highest = _RANGE
    extreme = ((peak < lowest) | (peak > highest)) & (peak > 0)
    scale = torch.where(extreme, torch.exp2(-torch.log2(peak).round().clamp(-126, 126)), torch.ones_like(peak))
    return torch.view_as_complex((torch.view_as_real(box) * scale).contiguous())


def _lags(projector: Tensor) -> Tensor:
    """Averages over the patches that hold a sample: (c, k, k, c, k, k) to (c, c, 2k - 1, 2k - 1)."""
    n_coils, kernel = projector.shape[:2]
    lags = projector.new_zeros(n_coils, n_coils, 2 * kernel - 1, 2 * kernel - 1)
    for i in range(kernel):
        for j in range(kernel):
            # the sample at (i, j) of a patch depends on the sample at (u, v): lag (i - u, j - v), zero in the middle
            lags[..., i : i + kernel, j : j + kernel] += projector[:, i, j].flip(-1, -2)
    return lags


def _virtual_coil(images: Tensor) -> Tensor:
    """The unit combination of coils that holds most of the energy, (b, c, 1, 1)."""
    flat = images.flatten(-2)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    return vectors[..., -1][..., None, None]  # type: ignore[no-any-return]


def _normalised(images: Tensor) -> Tensor:
    """Scales to unit length over the coils. At a pixel without signal, all coils get the same value."""
    length = torch.linalg.vector_norm(images, dim=-3, keepdim=True)
    even = torch.full_like(images, images.shape[-3] ** -0.5)
    return torch.where(length > 1e-30, images / length.clamp_min(1e-30), even)


def _unit(values: Tensor) -> Tensor:
    """The phase factors of complex values; the factor of zero is 1."""
    length = values.abs()
    return torch.where(length > 1e-30, values / length.clamp_min(1e-30), torch.ones_like(values))
