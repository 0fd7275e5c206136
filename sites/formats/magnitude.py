"""Magnitude volumes: which slices are kept, the square field of view, the crop of k-space, and a simulated phase."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites import seeding
from fedrecon.sites.data.volume import Complex, Real
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy, ifft2c_numpy

FOREGROUND = 0.1  # a voxel is anatomy if it is above this part of the volume's 99th percentile
SPIKE = 3.0  # a slice is a spike if it is more than this times as bright as nine tenths of the slices
ANATOMY_SHARE = 0.5  # a slice is an end slice if its foreground is below this part of the best slice's foreground
END = "end slices (little anatomy)"
EMPTY = "empty slices"


def kept_slices(magnitude: Real, every: bool) -> tuple[NDArray[np.intp], dict[str, list[int]]]:
    """The numbers of the slices to keep, and of those to leave out by the rule that leaves them out.

    End slices go, from each end of the volume until the first slice with anatomy; so a slice with a signal dropout
    between good ones stays. A slice has anatomy when its foreground (voxels above a tenth of the volume's 99th
    percentile) is at least half of the foreground of the best slice. A few slices that are far brighter than all
    others (a spike) do not decide what foreground is. Empty slices (all zero) always go.

    Args:
        magnitude: images (slices, y, x).
        every: keep end slices too.
    """
    filled = magnitude.any(axis=(1, 2))
    kept = np.flatnonzero(filled)
    dropped = {EMPTY: np.flatnonzero(~filled).tolist()}
    if not every:
        foreground = magnitude > FOREGROUND * _brightness(magnitude)
        area = foreground.mean(axis=(1, 2))
        good = np.flatnonzero(area >= ANATOMY_SHARE * area.max())
        inner = (kept >= good[0]) & (kept <= good[-1])
        dropped[END] = kept[~inner].tolist()
        kept = kept[inner]
    return kept, {rule: numbers for rule, numbers in dropped.items() if numbers}


def _brightness(magnitude: Real) -> float:
    """The 99th percentile of the volume; if a tenth of the slices alone makes it, that of the brightest other slice."""
    whole = float(np.quantile(magnitude, 0.99))
    alone = np.quantile(magnitude, 0.99, axis=(1, 2))
    others = float(np.quantile(alone, 0.9, method="lower"))
    return others if 0 < SPIKE * others < whole else whole


def low_pass(
    magnitude: Real, voxel_mm: tuple[float, float, float], size: int | None
) -> tuple[Real, tuple[float, float, float]]:
    """The magnitude image (slices, N, N) of the central k-space, over the square field of view, and its voxel size.

    Args:
        magnitude: images (slices, y, x).
        voxel_mm: their voxel size (slice, y, x) in mm.
        size: matrix size N; None keeps the native voxels.

    Raises:
        InputError: ``size`` is larger than the native matrix.
    """
    ny, nx = magnitude.shape[1:]
    square = _square((ny, nx), voxel_mm)
    padded = centre(magnitude, square)
    if size is None:
        return padded, voxel_mm
    if size > min(square):
        raise InputError(f"--size {size} is more than the {min(square)} pixels of the image's shorter side.")
    image = ifft2c_numpy(centre(fft2c_numpy(padded), (size, size)))
    field = max(ny * voxel_mm[1], nx * voxel_mm[2])
    gain = np.float32(noise_gain((ny, nx), voxel_mm, size))  # two FFT sizes, both orthonormal: keeps intensities
    return np.abs(image) * gain, (voxel_mm[0], field / size, field / size)


def noise_gain(shape: tuple[int, int], voxel_mm: tuple[float, float, float], size: int | None) -> float:
    """By what :func:`low_pass` multiplies white noise: it keeps intensities, and takes a part of the samples.

    Args:
        shape: of the images (y, x).
        voxel_mm, size: see :func:`low_pass`.
    """
    ny, nx = _square(shape, voxel_mm)
    return 1.0 if size is None else float(size / np.sqrt(ny * nx))


def _square(shape: tuple[int, int], voxel_mm: tuple[float, float, float]) -> tuple[int, int]:
    """The matrix (y, x) of the square field of view."""
    (ny, nx), (_, dy, dx) = shape, voxel_mm
    field = max(ny * dy, nx * dx)
    return max(ny, round(field / dy)), max(nx, round(field / dx))


def centre(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Crops the last two axes, or pads them by zeros, so that the sample at N//2 stays at N//2."""
    for axis, n in zip((-2, -1), shape, strict=True):
        before = n // 2 - array.shape[axis] // 2
        if before > 0 or n > array.shape[axis]:
            width = [(0, 0)] * array.ndim
            width[axis] = (before, n - array.shape[axis] - before)
            array = np.pad(array, width)
        else:
            array = array.take(np.arange(-before, n - before), axis)
    return array


def smooth_phase(shape: tuple[int, ...], seed: int, volume: str) -> Complex:
    """Unit phasors (slices, y, x) whose angle is a random product of low-order polynomials in y, x and slice.

    Angles have a standard deviation of 1 rad around a random offset. This is like the phase from the receive coil and
    from susceptibility in a head: about one to two turns across the field of view.
    """
    rng = seeding.generator(seed, "phase", volume)
    axes = [np.polynomial.legendre.legvander(np.linspace(-1, 1, n) if n > 1 else np.zeros(1), 3) for n in shape]
    weights = rng.normal(size=(2, 4, 4))  # order 1 along the slices, 3 within them
    z, y, x = np.indices(weights.shape)
    weights[(y + x > 3) | (z + y + x == 0)] = 0
    angle = np.einsum("zyx,az,by,cx->abc", weights / (1 + y + x), axes[0][:, :2], axes[1], axes[2])
    angle *= 1 / max(float(angle.std()), 1e-6)
    phasor: Complex = np.exp(1j * (angle + rng.uniform(-np.pi, np.pi))).astype(np.complex64)
    return phasor


def interpolated(magnitude: Real) -> tuple[float, float] | None:
    """The share (y, x) of k-space that was measured, where the scanner filled the rest with zeros; else None.

    Zero-filling leaves a knee in the power of the image's k-space: it falls steeply where the samples end, be it at
    once or along a scanner's filter, and beyond it hardly falls any more. An experiment on such images is easier than
    on measured k-space (Shimron et al., Implicit data crimes, PNAS 2022).

    Args:
        magnitude: images (slices, y, x) of the native size.
    """
    middle = magnitude[len(magnitude) // 4 : len(magnitude) - len(magnitude) // 4].astype(np.float64)
    shares = []
    for axis in (1, 2):
        power = (np.abs(np.fft.fft(middle, axis=axis)) ** 2).mean(axis=(0, 3 - axis))
        shares.append(_edge(power[: magnitude.shape[axis] // 2]))
    return None if shares == [1.0, 1.0] else (shares[0], shares[1])


KNEE = 2.8
"""The fall of the power over a tenth of the axis, divided by its fall over the next tenth. 24 volumes of which the
protocol says that nothing was filled have at most 2.4, those filled from half of the lines 2.9 and more."""

INNER = 0.4
LEAST = 64  # pixels of an axis, for a fall that noise does not hide


def _edge(power: NDArray[Any]) -> float:
    """Where the power (DC first, up to the highest frequency) has its knee, as a share of its length; else 1."""
    n = len(power)
    if 2 * n < LEAST:
        return 1.0
    width = max(3, n // 10)
    logs = np.log(power + 1e-12 * power.max() + np.finfo(np.float64).tiny)
    smooth = np.median([logs[:-2], logs[1:-1], logs[2:]], axis=0)  # one disturbed line is no edge
    start = np.arange(int(INNER * n) - width // 2, len(smooth) - 2 * width)
    fall = smooth[start] - smooth[start + width]
    knee = fall - np.maximum(smooth[start + width] - smooth[start + 2 * width], 0)
    if not knee.max() > np.log(KNEE):
        return 1.0
    first = int(start[knee.argmax()])
    return (first + int(np.argmax(-np.diff(smooth[first : first + width + 1]))) + 2) / n
