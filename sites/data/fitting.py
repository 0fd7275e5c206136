"""Compares the reference of a volume with its k-space: a score says nothing where they are two images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.errors import InputError

APART = 0.02
"""Largest difference between reference and image of the k-space, as a part of the larger maximum of the two in that
slice. What fedrecon imports and simulates agrees within 1e-5."""
COMPLETE = 0.99
"""A slice is compared if it has at least this share of the samples within the box around its samples."""
COMPARED = 32
"""Most slices that are compared, evenly spaced: a transform takes longer than reading a slice."""


def check_fit(where: str, kspace: Any, reference: Any) -> None:
    """Refuse a reference that is not the root sum of squares over the coils of the image of the k-space.

    At most :data:`COMPARED` slices are compared, the first and the last among them. The whole matrix is compared, also
    where a part of it is scored. A slice that was undersampled has another image than its reference, and is not
    compared.

    Args:
        where: the volume, for the message.
        kspace: (slices, coils, y, x) complex64, an array or one that is read by its index.
        reference: (slices, y, x) float32, likewise.

    Raises:
        InputError: see above. The message says the slice and both maxima.
    """
    for number in evenly(len(kspace), COMPARED):
        samples = kspace[number]
        if _share(np.any(samples != 0, axis=0)) < COMPLETE:
            continue
        image = np.sqrt((np.abs(_coil_images(samples)) ** 2).sum(axis=0))
        stored = np.asarray(reference[number], np.float64)
        apart = float(np.abs(stored - image).max() / max(stored.max(), image.max()))
        if apart > APART:
            raise InputError(
                f"{where}: slice {number}: the reference is not the image of the k-space: they differ by {apart:.0%} "
                f"of the maximum (allowed: {APART:.0%}); the reference reaches {stored.max():.4g}, and the root sum of "
                f"squares of the k-space's orthonormal inverse transform {image.max():.4g}."
            )


def _coil_images(kspace: Any) -> NDArray[np.complex128]:
    """The images of k-space (coils, y, x), DC at N//2: NumPy alone, because inspecting a shard needs no torch."""
    centred = np.fft.ifftshift(np.asarray(kspace, np.complex128), axes=(-2, -1))
    return np.fft.fftshift(np.fft.ifft2(centred, norm="ortho"), axes=(-2, -1))


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 to count - 1, evenly spaced, with both ends."""
    return [int(one) for one in np.linspace(0, count - 1, min(count, most)).round()]


def _share(measured: NDArray[np.bool_]) -> float:
    """The share of samples (y, x) that were measured within the smallest box around them."""
    rows, columns = (np.flatnonzero(measured.any(axis=axis)) for axis in (1, 0))
    return float(measured[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean())
