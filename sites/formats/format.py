"""The base class of the formats, which read files into volumes. A format is one file here and one registry line."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

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

    Class attributes:
        suffixes: endings of the file names.
        simulated: True if the import computes the k-space from magnitude images.
        summary: one line for ``fedrecon list formats``.
    """

    suffixes: ClassVar[tuple[str, ...]]
    simulated: ClassVar[bool] = False
    summary: ClassVar[str]

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


def estimate_noise(kspace: Complex) -> float:
    """Standard deviation of the noise in the real and in the imaginary part of a k-space sample: an upper estimate.

    The modulus of complex Gaussian noise has the median sqrt(2 ln 2) sigma. For each slice the median is taken over
    the outermost twentieth of the measured samples (the corners of a full matrix), where anatomy has least energy. The
    result is the lower quartile over the slices, to leave out slices whose anatomy reaches these samples. In k-space
    that was cut to a small matrix, anatomy reaches them in all slices, and the noise is overestimated.
    """
    ny, nx = kspace.shape[-2:]
    y, x = np.mgrid[:ny, :nx]
    radius = np.hypot((y - ny // 2) / ny, (x - nx // 2) / nx)
    measured = (kspace != 0).any(axis=(0, 1))
    if not measured.any():
        return 0.0
    outer = measured & (radius >= np.quantile(radius[measured], 0.95))
    samples: NDArray[np.float32] = np.abs(kspace[:, :, outer]).reshape(len(kspace), -1)
    with np.errstate(invalid="ignore"):  # infinity is named by check_volume
        return float(np.quantile(np.median(samples, axis=1), 0.25) / np.sqrt(2 * np.log(2)))
