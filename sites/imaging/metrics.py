"""Metrics as fastMRI defines them (Zbontar et al., arXiv:1811.08839, section 5.8; fastmri/evaluate.py).

They compare magnitude images of a VOLUME (slices, y, x). The data range is the maximum of the reference
volume. No image is rescaled. Sums are in float64. The torch functions score slices; the scores of a volume
follow exactly from theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WINDOW = 7
"""Side of the uniform SSIM window, in pixels."""
_K1, _K2 = 0.01, 0.03
_SAMPLE = WINDOW**2 / (WINDOW**2 - 1)  # for the sample covariance instead of the population covariance


def nmse(reference: NDArray[Any], image: NDArray[Any]) -> float:
    """||reference - image||^2 / ||reference||^2 over the volume (slices, y, x).

    Raises:
        ValueError: the arrays are not two real volumes of the same shape.
    """
    reference, image = _pair(reference, image)
    return float(np.sum((reference - image) ** 2) / np.sum(reference**2))


def psnr(reference: NDArray[Any], image: NDArray[Any], maximum: float | None = None) -> float:
    """10 log10(maximum^2 / MSE) in dB over the volume (slices, y, x).

    Args:
        maximum: the data range; by default the maximum of the reference.

    Raises:
        ValueError: the arrays are not two real volumes of the same shape.
    """
    reference, image = _pair(reference, image)
    peak = reference.max() if maximum is None else maximum
    return _decibel(float(peak), float(np.mean((reference - image) ** 2)))


def ssim(reference: NDArray[Any], image: NDArray[Any], maximum: float | None = None) -> float:
    """Mean over the slices of the structural similarity (Wang et al., IEEE TIP 13:600, 2004).

    7 x 7 uniform window, K1 = 0.01, K2 = 0.03, sample covariance; a border of 3 pixels is dropped.

    Args:
        maximum: the data range of all slices; by default the maximum of the reference volume (slices, y, x).

    Raises:
        ValueError: the arrays are not two real volumes of the same shape, or their slices are smaller than the window.
    """
    reference, image = _pair(reference, image)
    peak = float(reference.max() if maximum is None else maximum)
    return float(np.mean([_ssim_slice(a, b, peak) for a, b in zip(reference, image, strict=True)]))


def volume_scores(
    squared_error: NDArray[Any],
    squared_norm: NDArray[Any],
    ssim: NDArray[Any],
    maximum: float,
    n_pixels: int,
) -> dict[str, float]:
    """NMSE, PSNR (dB) and SSIM of a volume from the scores of its slices.

    Args:
        squared_error: sum of squared differences of each slice, (slices,).
        squared_norm: sum of squares of the reference of each slice, (slices,).
        ssim: SSIM of each slice with the volume's data range, (slices,).
        maximum: maximum of the reference volume.
        n_pixels: number of pixels of ONE slice.
    """
    error = float(np.sum(squared_error, dtype=np.float64))
    return {
        "psnr": _decibel(float(maximum), error / (n_pixels * len(squared_error))),
        "ssim": float(np.mean(ssim, dtype=np.float64)),
        "nmse": error / float(np.sum(squared_norm, dtype=np.float64)),
    }


def squared_error(reference: Tensor, image: Tensor) -> Tensor:
    """Sum of squared differences of each slice: two images (b, y, x) to (b,) float64."""
    return (reference.double() - image.double()).square().sum(dim=(-2, -1))


def squared_norm(reference: Tensor) -> Tensor:
    """Sum of squares of each slice: (b, y, x) to (b,) float64."""
    return reference.double().square().sum(dim=(-2, -1))


def ssim_slices(reference: Tensor, image: Tensor, maximum: Tensor) -> Tensor:
    """:func:`ssim` of each slice: two images (b, y, x) and the data range (b,) to (b,) float64. Differentiable."""
    a, b = reference.double().unsqueeze(1), image.double().unsqueeze(1)
    mean_a, mean_b, square_a, square_b, product = (
        torch.nn.functional.avg_pool2d(x, WINDOW, stride=1) for x in (a, b, a * a, b * b, a * b)
    )
    peak = maximum.double().view(-1, 1, 1, 1)
    similarity = _similarity(mean_a, mean_b, square_a, square_b, product, peak)
    return similarity.mean(dim=(-3, -2, -1))  # type: ignore[no-any-return]


def _ssim_slice(reference: NDArray[np.float64], image: NDArray[np.float64], peak: float) -> float:
    a, b, border = reference, image, WINDOW // 2
    if min(a.shape) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, got {a.shape}")
    from scipy.ndimage import uniform_filter  # a site scores with torch, and its process loads no scipy

    mean_a, mean_b, square_a, square_b, product = (uniform_filter(x, WINDOW) for x in (a, b, a * a, b * b, a * b))
    inside = (slice(border, -border), slice(border, -border))
    similarity = _similarity(mean_a, mean_b, square_a, square_b, product, peak)
    return float(similarity[inside].mean())


def _similarity(mean_a: Any, mean_b: Any, square_a: Any, square_b: Any, product: Any, peak: Any) -> Any:
    """The SSIM map from local means, for numpy and for torch."""
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    variances = _SAMPLE * (square_a - mean_a**2 + square_b - mean_b**2)
    covariance = _SAMPLE * (product - mean_a * mean_b)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _decibel(peak: float, mean_squared_error: float) -> float:
    return float("inf") if mean_squared_error == 0 else float(10 * np.log10(peak**2 / mean_squared_error))


def _pair(reference: NDArray[Any], image: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if reference.ndim != 3 or reference.shape != image.shape:
        raise ValueError(f"scores need two volumes (slices, y, x), got {reference.shape} and {image.shape}")
    if np.iscomplexobj(image) or np.iscomplexobj(reference):
        raise ValueError("scores compare magnitude images; take the absolute value first")
    return reference.astype(np.float64), image.astype(np.float64)
