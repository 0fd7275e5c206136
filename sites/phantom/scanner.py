"""The scanner: it turns tissues into noisy multi-coil k-space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy, root_sum_of_squares
from fedrecon.sites.phantom.anatomy import N_SLICES, subject_tissues, thick_atlas
from fedrecon.sites.phantom.contrast import TISSUES
from fedrecon.sites.phantom.fields import smooth_field
from fedrecon.sites.phantom.protocol import Protocol
from fedrecon.sites.phantom.synthesis import synthetic_tissues

Anatomy = Callable[
    [np.random.Generator, float, NDArray[np.float64], NDArray[np.float64]], Mapping[str, NDArray[np.float32]]
]
"""Draws a subject: (generator, slice thickness in mm, rows in mm, columns in mm) -> shares of tissues."""


def _from_atlas(
    random: np.random.Generator, slice_mm: float, y: NDArray[np.float64], x: NDArray[np.float64]
) -> Mapping[str, NDArray[np.float32]]:
    return subject_tissues(random, thick_atlas(slice_mm), y, x)


ANATOMIES: Mapping[str, Anatomy] = {"atlas": _from_atlas, "varied": synthetic_tissues}
_FINE_PIXELS = 240


@dataclass(frozen=True)
class Scan:
    """The scan of one subject.

    Attributes:
        kspace: fully sampled k-space, (slices, coils, y, x).
        reference: the root sum of squares over the coils of the fully sampled NOISY k-space, (slices, y, x), like
            the reference of fastMRI: a real hospital has no better reference.
        truth: the same of the k-space without noise, (slices, y, x). Only a phantom knows it.
        noise: standard deviation of the real and of the imaginary part of a sample.
    """

    kspace: NDArray[np.complex64]
    reference: NDArray[np.float32]
    truth: NDArray[np.float32]
    noise: float


def scan(
    random: np.random.Generator, protocol: Protocol, size: int, n_coils: int, anatomy: Anatomy = _from_atlas
) -> Scan:
    """Scans one new subject, with a matrix of ``size`` x ``size``."""
    # A real head has no pixels. So the head is drawn on a grid of about 1 mm, and its k-space is cut to the
    # matrix: small matrices then show partial volume and truncation, as with a real scanner.
    n_fine = size * -(-_FINE_PIXELS // size)
    position = (np.arange(n_fine, dtype=np.float64) - n_fine // 2) * (protocol.field_of_view_mm / n_fine)
    tissues = anatomy(random, protocol.slice_mm, position, position)
    image = _signal(random, protocol, tissues, position)
    brain = (tissues["white"] + tissues["grey"]) > 0.9
    noise = float(np.abs(image[brain]).mean() / protocol.snr)
    received = image * _shading_and_phase(random, protocol, position)
    coils = received[:, None] * coil_maps(random, n_coils, position)
    kspace = crop(fft2c_numpy(coils), size) * np.float32(size / n_fine)
    noisy = kspace + noise * _complex_normal(random, kspace.shape)
    truth, reference = map(root_sum_of_squares, (kspace, noisy))
    return Scan(noisy.astype(np.complex64, copy=False), reference, truth, noise)


def _signal(
    random: np.random.Generator,
    protocol: Protocol,
    tissues: Mapping[str, NDArray[np.float32]],
    position: NDArray[np.float64],
) -> NDArray[np.float32]:
    """The image (slices, y, x) of the tissue shares under the sequence. Relaxation differs between subjects."""
    image = np.zeros_like(tissues["white"])
    for name, share in tissues.items():
        healthy = TISSUES[protocol.field_strength_t][name]
        jitter = np.exp(random.normal(0, 0.03, 2))
        tissue = replace(healthy, t1=healthy.t1 * jitter[0], t2=healthy.t2 * jitter[1])
        kept = 1 - protocol.fat_suppression if name in ("fat", "marrow") else 1.0
        image += np.float32(kept * protocol.sequence.signal(tissue)) * share
    # No tissue is uniform: iron, myelin and perfusion cause slow changes of a few per cent.
    depth = np.linspace(0, 70, N_SLICES)
    image *= 1 + 0.025 * smooth_field(random, (depth, position, position), 9.0)[0]
    return image


def _shading_and_phase(
    random: np.random.Generator, protocol: Protocol, position: NDArray[np.float64]
) -> NDArray[np.complex64]:
    """The receive shading and the smooth phase (slices, y, x), as one complex factor."""
    depth = np.linspace(0, 70, N_SLICES)
    shading = smooth_field(random, (depth, position, position), 110.0)[0]
    phase = smooth_field(random, (depth, position, position), 80.0)[0]
    offset = random.uniform(-np.pi, np.pi)
    factor: NDArray[np.complex64] = np.exp(protocol.bias * shading + 1j * (protocol.phase * phase + offset)).astype(
        np.complex64
    )
    return factor


def coil_maps(random: np.random.Generator, n_coils: int, position: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Sensitivities (coils, y, x) of loops on a ring around the head, with unit sum of squares.

    The map of a single coil is 1 everywhere. The magnitude falls off like the field on the axis of a loop,
    ``(1 + r^2/a^2)^(-3/2)``. The phase is the direction to the loop. The effect of the loops on the brightness
    of the combined image belongs to the shading, not to the maps.
    """
    if n_coils == 1:
        return np.ones((1, position.size, position.size), np.complex64)
    angle = 2 * np.pi * (np.arange(n_coils) + random.uniform()) / n_coils
    radius = 0.55 * float(np.ptp(position))
    dy = position[None, :, None] - radius * np.sin(angle)[:, None, None]
    dx = position[None, None, :] - radius * np.cos(angle)[:, None, None]
    size = (1 + (dy**2 + dx**2) / (0.7 * radius) ** 2) ** -1.5
    unit = size / np.sqrt((size**2).sum(axis=0))
    maps: NDArray[np.complex64] = (unit * np.exp(1j * np.arctan2(dy, dx))).astype(np.complex64)
    return maps


def crop(kspace: NDArray[np.complex64], size: int) -> NDArray[np.complex64]:
    """The middle (..., size, size) of k-space, with DC at N//2 before and after."""
    start = kspace.shape[-1] // 2 - size // 2
    return kspace[..., start : start + size, start : start + size]


def _complex_normal(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    draw = random.standard_normal((*shape, 2), dtype=np.float32)
    return draw.view(np.complex64)[..., 0]
