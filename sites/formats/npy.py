"""Raw Cartesian k-space as a NumPy array: (y, x), (coils, y, x) or (slices, coils, y, x), complex.

DC sits at N//2. The reference is the root sum of squares over the coils of the fully sampled image. Undersampled
k-space (zero where nothing was measured) has no reference: it can be reconstructed, but not scored.
"""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedrecon.sites.data.volume import VolumeData, check_layout
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.format import Format, Label, fully_sampled, root_sum_of_squares
from fedrecon.sites.formats.summary import Notes

_LEADING = {2: (1, 1), 3: (1,), 4: ()}  # by number of axes: the axes of length 1 to put in front


class Npy(Format):
    """K-space arrays, one in each file."""

    suffixes: ClassVar = (".npy",)
    summary: ClassVar = "raw k-space (y, x), (coils, y, x) or (slices, coils, y, x), complex, DC at N//2"

    def volume(self, source: Path, label: Label, notes: Notes) -> VolumeData:
        """The volume in one file.

        Raises:
            InputError: the file is not a NumPy array, or the array has a wrong shape or dtype.
        """
        try:
            array = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError, tokenize.TokenError) as error:
            raise InputError(f"{source}: cannot be read as a NumPy array (truncated?): {error}") from None
        if not isinstance(array, np.ndarray) or array.ndim not in _LEADING:
            shape = getattr(array, "shape", "several arrays")
            raise InputError(
                f"{source}: has the shape {shape}; expected (y, x), (coils, y, x) or (slices, coils, y, x)."
            )
        if array.dtype.kind != "c":
            raise InputError(f"{source}: is {array.dtype}; expected complex k-space.")
        kspace = array.reshape(*_LEADING[array.ndim], *array.shape).astype(np.complex64)
        check_layout(str(source), kspace, None)
        notes.facts["coils"] = str(kspace.shape[1])
        reference = root_sum_of_squares(kspace) if fully_sampled(kspace) else None
        return VolumeData(label.name, label.subject, label.split, kspace, reference, self.noise(kspace))
