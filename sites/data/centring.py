"""Refuses k-space whose centre is not at N//2 along an axis, and values that are an image along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.data.fitting import evenly
from fedrecon.sites.errors import InputError

LOOKED_AT = 8
"""Most slices that are transformed to see whether they are k-space, evenly spaced."""
STRONGER = 2.0
"""An axis is refused if a window elsewhere holds more than this times the energy of the window around N//2. Scans and
phantoms have at most 1.01."""
NARROWER = 2.0
"""An axis is that of an image if its transform has this times the share of its energy in a window around N//2. K-space
of scans and phantoms has at most 0.4, images 3 and more."""
FLAT = 1.2
"""Noise, and an image of one point, have no centre: their energy along an axis is flat within this factor."""


def check_centred(where: str, kspace: Any, power: NDArray[np.float64]) -> None:
    """Refuse k-space that is not centred along one of its axes, or is no k-space along it.

    Each axis is judged by its energy, summed over all else, so by the strongest lines and not by one sample. Where DC
    lies exactly nobody knows: the receive phase, and an echo that comes early or late, move the maximum by some
    samples. So a window of 1/16 of the matrix (two samples, if that is more) on each side of N//2 is compared with a
    window as wide elsewhere. A partial acquisition and zeros on one side do not move the energy. If no line of the
    window was measured, it is widened to the nearest one that was.

    Args:
        where: the volume, for the message.
        kspace: (slices, coils, y, x) complex64, an array or one that is read by its index.
        power: the squared modulus of the k-space, summed over slices and coils, (y, x).

    Raises:
        InputError: see above. The message names the axis, and where its centre is.
    """
    images, looked = _transformed(kspace)
    for axis, name in enumerate("yx"):
        lines, n = looked.sum(axis=1 - axis), power.shape[axis]
        width = _width(lines)
        before, after = (_window(one, width)[n // 2] for one in (lines, images[axis]))
        if lines.max() > FLAT * lines.mean() and after > NARROWER * _window(lines, width).max():
            raise InputError(
                f"{where}: along {name} the values are those of an image, not of k-space: their transform along {name} "
                f"has {after / lines.sum():.0%} of its energy within {width} samples of its centre, they have "
                f"{before / lines.sum():.0%}. It takes k-space (y, x) with DC at N//2."
            )
    found = [_centre(power.sum(axis=1 - axis)) for axis in (0, 1)]
    away = [(name, at, n) for name, at, n in zip("yx", found, power.shape, strict=True) if at is not None]
    if away:
        named = " and ".join(f"sample {at} of {n} along {name} (expected: {n // 2})" for name, at, n in away)
        raise InputError(
            f"{where}: the energy of the k-space lies around {named}: it is not centred, DC is not at N//2. Apply "
            "numpy.fft.fftshift to an axis that begins with DC; fill up an axis that was cut on one side by zeros."
        )


def _centre(lines: NDArray[np.float64]) -> int | None:
    """The strongest line of the axis's strongest window, or None if that is no other than the window around N//2."""
    n = len(lines)
    width = _width(lines)
    windows = _window(lines, width)
    best = int(windows.argmax())
    flat = FLAT * (2 * width + 1) / n * lines.sum()
    if windows[best] <= max(flat, STRONGER * windows[n // 2]):
        return None
    inside = (best + np.arange(-width, width + 1)) % n
    return int(inside[lines[inside].argmax()])


def _width(lines: NDArray[np.float64]) -> int:
    """How many samples on each side of N//2 the window has."""
    n = len(lines)
    return max(2, n // 16, int(np.abs(np.flatnonzero(lines) - n // 2).min()))


def _window(lines: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The sum over each window of lines, around each sample. It goes on at the other end."""
    if 2 * width + 1 >= len(lines):
        return np.full(len(lines), lines.sum())
    return sum((np.roll(lines, shift) for shift in range(-width, width + 1)), start=np.zeros(len(lines)))


def _transformed(kspace: Any) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Of some slices: the energy of the lines of y and of x, transformed along that axis, and the energy (y, x)."""
    y, x = kspace.shape[-2:]
    lines, power = [np.zeros(y), np.zeros(x)], np.zeros((y, x))
    for number in evenly(len(kspace), LOOKED_AT):
        one = np.asarray(kspace[number], np.complex128)
        power += (np.abs(one) ** 2).sum(axis=0)
        for axis in (1, 2):
            turned = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(one, axes=axis), axis=axis, norm="ortho"), axes=axis)
            lines[axis - 1] += (np.abs(turned) ** 2).sum(axis=(0, 3 - axis))
    return lines, power
