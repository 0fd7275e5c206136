"""The base class of the formats, which read files into volumes. A format is one file here and one registry line."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrecon.sites.data.volume import Complex, Real, VolumeData, check_volume
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.summary import Notes
from fedrecon.sites.plugin import Plugin


@dataclass(frozen=True)
class Label:
    """The labels that follow from a file's name: the volume's name, its subject and the subject's split."""

    name: str
    subject: str
    split: str


class Format(Plugin):
    """A file format. Its fields are the options of its import.

    Attributes:
        noise_sigma: the known noise level of the shard's k-space (:attr:`Volume.noise`); None estimates it.

    Class attributes:
        suffixes: endings of the file names.
        simulated: True if the import computes the k-space from magnitude images.
        summary: one line for ``fedrecon list formats``.
    """

    suffixes: ClassVar[tuple[str, ...]]
    simulated: ClassVar[bool] = False
    summary: ClassVar[str]

    noise_sigma: float | None = Field(None, gt=0, le=1e12, allow_inf_nan=False)

    @property
    def phase_kind(self) -> str:
        """The origin of the image phase: ``none``, ``smooth`` or ``measured``."""
        return "measured"

    def read(self, sources: Sequence[Path], label: Callable[[Path], Label]) -> Iterator[VolumeData]:
        """The volumes in ``sources``, read and checked one at a time.

        Raises:
            InputError: a file is refused; the message begins with its path.
        """
        for source in sources:
            try:
                data = self.volume(source, label(source), Notes())
                check_volume(data)
            except InputError as error:
                text = str(error)
                raise InputError(text if text.startswith(str(source)) else f"{source}: {error}") from None
            yield data

    def stem(self, path: Path) -> str:
        """The file's name without the format's suffix (the longest that fits: ``.nii.gz`` is one)."""
        fitting = [suffix for suffix in self.suffixes if path.name.lower().endswith(suffix)]
        return path.name[: -max(map(len, fitting))] if fitting else path.stem

    def noise(self, kspace: Complex) -> float | None:
        """The noise level of k-space (slices, coils, y, x): the given one, else an estimate; None if it cannot tell."""
        from fedrecon.sites.imaging.noise import estimate_noise  # it loads torch; listing formats must not

        return estimate_noise(kspace) if self.noise_sigma is None else self.noise_sigma

    @abstractmethod
    def volume(self, source: Path, label: Label, notes: Notes) -> VolumeData:
        """The volume in one file; ``notes`` gets what was found in it and done with it."""


def root_sum_of_squares(kspace: Complex) -> Real:
    """Root sum of squares (slices, y, x) of the coil images of k-space (slices, coils, y, x); modulus for one coil."""
    from fedrecon.sites.imaging.fourier import ifft2c_numpy  # it loads torch; listing formats must not

    image = np.empty((len(kspace), *kspace.shape[-2:]), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are named by check_volume
        for number, one in enumerate(kspace):
            image[number] = np.sqrt((np.abs(ifft2c_numpy(one)) ** 2).sum(axis=0))
    return image


def fully_sampled(kspace: Complex) -> bool:
    """Whether at most 1 % of the samples within the measured box are exactly zero (in all slices and coils).

    The measured box is the smallest box around all samples that are not zero. Zeros around it come from an acquisition
    of lower resolution or from a partial acquisition, and count as part of the truth. An elliptical acquisition has
    zeros in the corners of the box. It counts as undersampled, because a doubtful reference is worse than none.
    """
    measured = (kspace != 0).any(axis=(0, 1))
    rows, columns = np.flatnonzero(measured.any(axis=1)), np.flatnonzero(measured.any(axis=0))
    if not rows.size:
        return False
    box = measured[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return float(box.mean()) >= 0.99
