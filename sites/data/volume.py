"""A volume: one scan of one subject, with or without its data. Formats yield volumes, and shards hold them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.data.centring import check_centred
from fedrecon.sites.data.fitting import check_fit
from fedrecon.sites.errors import InputError

Complex = NDArray[np.complex64]
Real = NDArray[np.float32]

SPLITS = ("train", "validation", "test")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
LABELS = {
    "mean": "the mean over all sites",
    "global": "the network that all sites share",
    "average": "the average of the private parts",
    "all": "all sites in publish_private",
    "pooled": "the one member of the strategy pooled",
}
"""Names with a meaning of their own, and what they stand for. A site of such a name would be taken for it."""
MAX_TEXT = 200
SMALLEST = 7
"""Shortest side in pixels of a part that is scored: the window of SSIM."""


@dataclass(frozen=True)
class Volume:
    """The labels of a volume. They are known without reading its data.

    Attributes:
        name: name of the volume, unique within the shard.
        subject: id of the scanned person; the same id is the same person at every site.
        split: ``train``, ``validation`` or ``test``; all volumes of a subject are in the same split.
        n_slices: number of slices.
        n_coils: number of receive coils.
        shape: matrix (y, x).
        noise: standard deviation of the noise in the real and in the imaginary part of a k-space sample, for
            the orthonormal FFT, in the units of the k-space; None where nobody knows it.
        maximum: maximum of the reference, in the (arbitrary) units of the image; 0 if there is no reference.
        has_reference: False for a prospectively undersampled scan: it can be reconstructed, but not scored.
        voxel_mm: voxel size (slice, y, x) in mm, or None where unknown.
        truth_maximum: maximum of the noise-free truth; None if there is no truth, as in every scan of a person.
        crop: the central part (y, x) of the images that is scored; None scores all of it. The maxima are of this part.
        norm: Euclidean norm of the reference, as the file says; 0 if it does not, or there is no reference.
    """

    name: str
    subject: str
    split: str
    n_slices: int
    n_coils: int
    shape: tuple[int, int]
    noise: float | None
    maximum: float
    has_reference: bool
    voxel_mm: tuple[float, float, float] | None = None
    truth_maximum: float | None = None
    crop: tuple[int, int] | None = None
    norm: float = 0.0


def used_slices(volumes: Sequence[Volume], limit: int | None) -> list[tuple[Volume, int]]:
    """The slices of some volumes that are used, each as its volume and its index.

    Args:
        limit: the largest number of slices, evenly spaced over all of them; None takes all.
    """
    found = [(volume, index) for volume in volumes for index in range(volume.n_slices)]
    if limit is None or len(found) <= limit:
        return found
    picks = np.unique(np.linspace(0, len(found) - 1, limit).round().astype(int))
    return [found[i] for i in picks]


@dataclass(frozen=True, eq=False)
class VolumeData:
    """A volume with its data.

    Attributes:
        name, subject, split, noise, voxel_mm: the labels of :class:`Volume`.
        kspace: k-space (slices, coils, y, x) complex64, DC at N//2, orthonormal; zero where not measured.
        reference: magnitude (slices, y, x) float32 of the fully sampled image, or None.
        acquisition: sequence or contrast, as fastMRI files name it; a shard's contrast in data from a shard.
        field_strength_t: field strength in tesla, or None where unknown.
        truth: magnitude (slices, y, x) float32 that the reference would be without noise; None where nobody knows it.
        crop: the central part (y, x) that is scored, see :class:`Volume`.
    """

    name: str
    subject: str
    split: str
    kspace: Complex
    reference: Real | None
    noise: float | None
    voxel_mm: tuple[float, float, float] | None = None
    acquisition: str = ""
    field_strength_t: float | None = None
    truth: Real | None = None
    crop: tuple[int, int] | None = None

    def about(self) -> Volume:
        """The labels of the volume, without its data."""
        slices, coils, ny, nx = self.kspace.shape
        maximum = 0.0 if self.reference is None else self._maximum(self.reference)
        has_reference = self.reference is not None
        return Volume(
            self.name,
            self.subject,
            self.split,
            slices,
            coils,
            (ny, nx),
            _level(self.noise),
            maximum,
            has_reference,
            self.voxel_mm,
            None if self.truth is None else self._maximum(self.truth),
            self.crop,
        )

    def _maximum(self, images: Real) -> float:
        return float(np.max([central(one, self.crop).max() for one in images]))

    def digest(self) -> str:
        """SHA-256 of all values that can change a result: labels, noise level and data, but not the file's layout."""
        label = [self.name, self.subject, self.split, _level(self.noise), list(self.kspace.shape)]
        label += [] if self.crop is None else [list(self.crop)]  # shards without crop keep their hash
        summary = hashlib.sha256(json.dumps([*label, self.reference is not None]).encode())
        for array in (self.kspace, self.reference, self.truth):
            for one in () if array is None else array:  # a slice at a time: a volume may be gigabytes
                little_endian = np.ascontiguousarray(one, dtype=one.dtype.newbyteorder("<"))
                summary.update(little_endian.reshape(-1).view(np.uint8).data)
        return summary.hexdigest()


def central(image: Any, crop: tuple[int, int] | None) -> Any:
    """The central part (..., y, x) of images, an array, a tensor or None; all for no crop. The centre is at N//2."""
    if crop is None or image is None:
        return image
    (y, x), (ny, nx) = (n // 2 - size // 2 for n, size in zip(image.shape[-2:], crop, strict=True)), crop
    return image[..., y : y + ny, x : x + nx]


def usable_for(volumes: Collection[Volume]) -> list[str]:
    """What these volumes can be used for: ``reconstruct``, and ``test`` or ``train`` if that split has references.

    If a training volume has none, it is ``train with ssdu``: that loss needs no reference.
    """
    uses = ["reconstruct"]
    for split, without in (("test", ""), ("train", "train with ssdu")):
        own = [volume.has_reference for volume in volumes if volume.split == split]
        uses += [one for one in (split if all(own) else without,) if own and one]
    return uses


def without_reference(split: str) -> str:
    """What a volume without reference in this split can be used for, as the end of a sentence."""
    return f"can {'train with loss: ssdu or' if split == 'train' else 'only'} be reconstructed"


def split_summary(volumes: Collection[Volume]) -> dict[str, Any]:
    """The subjects of these volumes, and the numbers of volumes and slices."""
    subjects = sorted({volume.subject for volume in volumes})
    return {
        "subjects": subjects,
        "n_volumes": len(volumes),
        "n_slices": sum(volume.n_slices for volume in volumes),
    }


def _level(noise: float | None) -> float | None:
    return None if noise is None else float(noise)


def check_name(kind: str, name: str) -> None:
    """Refuse a name that cannot be a file name, an HDF5 group and a part of a metric's name.

    Raises:
        InputError: the message begins with ``kind`` and says which characters a name may hold, or that a site is named
            as one of :data:`LABELS`.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{kind} '{name}': a name is made of letters, digits, '_', '-', '+' and '.', "
            "and starts with a letter or digit."
        )
    if kind == "site" and name in LABELS:
        raise InputError(f"site '{name}': a site may not have the name of {LABELS[name]}.")


def check_text(kind: str, text: str) -> None:
    """Refuse a text that is shown to people, such as a contrast, if it could be a path or break a line.

    Raises:
        InputError: the message begins with ``kind`` and says what is allowed.
    """
    if not 1 <= len(text) <= MAX_TEXT or not text.isprintable() or text.startswith(".") or {"/", "\\"} & {*text}:
        raise InputError(
            f"{kind} {text[:MAX_TEXT]!r}: allowed: one line of 1 to {MAX_TEXT} characters without '/' and '\\', "
            "and with no '.' at its start."
        )


def check_volume(data: VolumeData, shown: str | None = None, *, sealed: bool = False) -> None:
    """Refuse a volume whose labels, shapes or values cannot be right.

    Args:
        data: the volume.
        shown: the name for the message, where the volume has a pseudonym.
        sealed: whether it comes from a sealed shard. Whether k-space is centred and is that of its reference was then
            asked at the import, and runs use what an earlier version let pass.

    The checks run in this order: names and split, shapes and dtypes, k-space, noise level, reference, and whether the
    reference is the image of the k-space (:func:`fedrecon.sites.data.fitting.check_fit`).

    Raises:
        InputError: a name, split, rank, dtype or axis order is wrong, there are no slices, there is NaN or infinity, a
            slice is all zero, an axis is not centred or is that of an image, the noise level is negative, or the
            reference does not fit, holds negative values or is another image than that of the k-space.
    """
    where = f"volume '{shown or data.name}'"
    check_name("volume", data.name)
    check_name("subject", data.subject)
    if data.split not in SPLITS:
        raise InputError(f"{where}: split '{data.split}' is none of {', '.join(SPLITS)}.")
    check_layout(where, data.kspace, data.reference)
    _check_kspace(where, data.kspace, sealed)
    if data.noise is not None and not (np.isfinite(data.noise) and data.noise >= 0):
        raise InputError(f"{where}: the noise level is {data.noise}; it is a finite number >= 0, or None (unknown).")
    check_crop(where, data.crop, data.kspace.shape)
    if data.reference is not None:
        _check_reference(where, data.reference)
        if not data.about().maximum > 0:
            raise InputError(f"{where}: the part of {data.crop} that is scored is an all-zero image.")
        if not sealed:
            check_fit(where, data.kspace, data.reference)
    if data.truth is not None:
        if data.reference is None:
            raise InputError(f"{where}: it has a truth and no reference.")
        check_layout(f"{where}, truth", data.kspace, data.truth)
        _check_reference(f"{where}, truth", data.truth)


def check_crop(where: str, crop: tuple[int, int] | None, shape: tuple[int, ...]) -> None:
    """Refuse a part to score that is larger than the matrix of k-space of this shape, or too small for SSIM.

    Raises:
        InputError: see above.
    """
    if crop is not None and not all(SMALLEST <= part <= whole for part, whole in zip(crop, shape[-2:], strict=True)):
        raise InputError(
            f"{where}: the part {crop[0]} x {crop[1]} that is scored does not fit the matrix {shape[-2]} x {shape[-1]} "
            f"(each side has at least {SMALLEST} pixels)."
        )


def check_scored_size(where: str, volumes: Collection[Volume]) -> None:
    """Refuse volumes of which a part is scored that is too small for SSIM.

    Raises:
        InputError: see above. The message begins with ``where`` and names them.
    """
    if small := [volume.name for volume in volumes if min(volume.crop or volume.shape) < SMALLEST]:
        raise InputError(f"{where}: {', '.join(small[:3])} cannot be scored: SSIM needs {SMALLEST} pixels a side.")


def check_layout(where: str, kspace: Any, reference: Any | None) -> None:
    """Refuse arrays or HDF5 datasets with a wrong rank, dtype, size or axis order. Their data are not read.

    Args:
        where: the file or volume, for the message.

    Raises:
        InputError: see above.
    """
    if len(kspace.shape) != 4:
        raise InputError(f"{where}: k-space has shape {kspace.shape}; expected (slices, coils, y, x).")
    if kspace.dtype != np.complex64:
        raise InputError(f"{where}: k-space is {kspace.dtype}; expected complex64.")
    slices, coils, ny, nx = kspace.shape
    if slices == 0:
        raise InputError(f"{where}: has zero slices.")
    if 0 in kspace.shape:
        raise InputError(f"{where}: k-space of shape {kspace.shape} is empty.")
    if coils > min(ny, nx):
        raise InputError(
            f"{where}: k-space of shape {kspace.shape} would have {coils} coils and a matrix of {ny} x {nx}: "
            "the axes look out of order; expected (slices, coils, y, x)."
        )
    if reference is None:
        return
    if reference.dtype != np.float32:
        raise InputError(f"{where}: the reference is {reference.dtype}; expected float32.")
    if tuple(reference.shape) != (slices, ny, nx):
        raise InputError(
            f"{where}: the reference has shape {tuple(reference.shape)} and the k-space {kspace.shape}; "
            f"expected a reference of (slices, y, x) = {(slices, ny, nx)}."
        )


def _check_kspace(where: str, kspace: Complex, sealed: bool) -> None:
    power = np.zeros(kspace.shape[-2:])
    for number, one in enumerate(kspace):  # a slice at a time: a volume may be gigabytes
        values = one.real.astype(np.float64) ** 2 + one.imag.astype(np.float64) ** 2
        if not np.isfinite(values).all():
            raise InputError(f"{where}: slice {number} of the k-space holds NaN or infinity.")
        if not values.any():
            raise InputError(f"{where}: slice {number} of the k-space is all zero.")
        power += values.sum(axis=0)
    if not sealed:
        check_centred(where, kspace, power)


def _check_reference(where: str, reference: Real) -> None:
    for number, one in enumerate(reference):
        if not np.isfinite(one).all():
            raise InputError(f"{where}: slice {number} of the reference holds NaN or infinity.")
        if one.min() < 0:
            raise InputError(f"{where}: slice {number} of the reference holds negative values; it is a magnitude.")
        if not one.any():
            raise InputError(f"{where}: slice {number} of the reference is an all-zero image.")
