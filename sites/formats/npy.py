"""Raw Cartesian k-space as a NumPy array: (y, x), (coils, y, x) or (slices, coils, y, x), complex.

Complex numbers may also be records of two real fields, or a last axis of length 2 (real, imaginary). DC sits at N//2.
The reference is the root sum of squares over the coils of the fully sampled image. Undersampled
k-space (zero where nothing was measured) has no reference: it can be reconstructed, but not scored.
"""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedrecon.sites.data.volume import VolumeData, check_layout
from fedrecon.sites.errors import FileError
from fedrecon.sites.formats.format import Label
from fedrecon.sites.formats.kspace import Measured, as_complex, reference_of
from fedrecon.sites.formats.record import FileRecord

_LEADING = {2: (1, 1), 3: (1,), 4: ()}  # by number of axes: the axes of length 1 to put in front


class Npy(Measured):
    """K-space arrays, one in each file."""

    suffixes: ClassVar = (".npy",)
    summary: ClassVar = "raw k-space (y, x), (coils, y, x) or (slices, coils, y, x), complex, DC at N//2"

    def load(self, source: Path, label: Label, record: FileRecord) -> VolumeData:
        """The volume in one file.

        Raises:
            InputError: the file is not a NumPy array, or the array has a wrong shape or dtype.
        """
        try:
            stored = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError, tokenize.TokenError) as error:
            raise FileError(source, f"cannot be read as a NumPy array (truncated?): {error}") from None
        if not isinstance(stored, np.ndarray):
            raise FileError(source, "holds several arrays; expected one.")
        array = as_complex(stored, "the array")
        if array.ndim not in _LEADING:
            raise FileError(
                source, f"has the shape {stored.shape}; expected (y, x), (coils, y, x) or (slices, coils, y, x)."
            )
        kspace = array.reshape(*_LEADING[array.ndim], *array.shape)
        if array.ndim == 3:
            record.note("three-axes", f"the shape {array.shape} is read as (coils, y, x): one slice")
        check_layout("the array", kspace, None)
        record.slices = len(kspace)
        kspace = self.compressed(kspace, record)
        reference = reference_of(kspace, record)
        return VolumeData(label.name, label.subject, label.split, kspace, reference, self.noise(kspace))
