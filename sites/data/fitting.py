"""Compares the reference of a volume with its k-space: a score says nothing where they are two images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.numpy_fourier import root_sum_of_squares

APART = 0.02
"""Largest difference between reference and image of the k-space, as a part of the larger maximum of the two in that
slice. What fedrecon imports and simulates agrees within 1e-5."""
COMPLETE = 0.99
"""A slice is fully sampled if it has at least this share of the samples within the measured box."""
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
        samples = np.asarray(kspace[number])[None]
        if sampled_share(samples) < COMPLETE:
            continue
        image = root_sum_of_squares(samples)[0]
        stored = np.asarray(reference[number], np.float64)
        apart = float(np.abs(stored - image).max() / max(stored.max(), image.max()))
        if apart > APART:
            raise InputError(
                f"{where}: slice {number}: the reference is not the image of the k-space: they differ by {apart:.0%} "
                f"of the maximum (allowed: {APART:.0%}); the reference reaches {stored.max():.4g}, and the root sum of "
                f"squares of the k-space's orthonormal inverse transform {image.max():.4g}."
            )


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 to count - 1, evenly spaced, with both ends."""
    return [int(one) for one in np.linspace(0, count - 1, min(count, most)).round()]


def sampled_share(kspace: NDArray[np.complex64]) -> float:
    """The smallest share of samples that a slice has within the measured box; a sample of any coil counts.

    The measured box is the smallest box around all samples of the volume that are not zero. Zeros around it come from
    an acquisition of lower resolution or from a partial acquisition, and count as part of the truth. Each slice is
    judged by itself: the union of slices that were undersampled in different ways would look complete. An elliptical
    acquisition has zeros in the corners of the box. It counts as undersampled, because a doubtful reference is worse
    than none.
    """
    measured: NDArray[np.bool_] = np.any(kspace != 0, axis=1)
    rows, columns = measured_box(measured)
    return float(measured[:, rows, columns].mean(axis=(1, 2)).min()) if measured.any() else 0.0


def measured_box(measured: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The rows and the columns of the smallest box around the measured samples (slices, y, x); empty if there is none.

    Args:
        measured: True where a slice has a sample.
    """
    anywhere = np.asarray(measured.any(axis=0))
    lines = [np.flatnonzero(anywhere.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(int(one[0]), int(one[-1]) + 1) if one.size else slice(0) for one in lines)
    return rows, columns
