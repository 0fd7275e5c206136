"""FastMRI HDF5 files, single- and multi-coil (Zbontar et al., fastMRI: an open dataset and benchmarks, 2018).

K-space is kept whole, with its readout oversampling. The reference is computed from it, so that it fits the k-space:
the modulus (one coil) or the root sum of squares of the full image. The stored ``reconstruction_*`` are centre crops of
that image; only their shape is checked. The header says which columns were never encoded (partial Fourier, padding).
They are set to zero, as in fastMRI's own loader. A test file (with ``mask``) and other undersampled k-space have no
reference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import h5py
import numpy as np

from fedrecon.sites.data.self_contained import check_self_contained
from fedrecon.sites.data.volume import Complex, VolumeData, check_layout
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.format import Format, Label, fully_sampled, root_sum_of_squares
from fedrecon.sites.formats.summary import Notes

_REFERENCES = ("reconstruction_rss", "reconstruction_esc")


class FastMRI(Format):
    """Files of the fastMRI layout, one volume in each file."""

    suffixes: ClassVar = (".h5", ".hdf5")
    summary: ClassVar = "fastMRI HDF5 files, single- and multi-coil, with or without their ISMRMRD header"

    def volume(self, source: Path, label: Label, notes: Notes) -> VolumeData:
        """The volume in one file.

        Raises:
            InputError: the file is not HDF5, is truncated or cannot be read, takes values from elsewhere
                (:func:`fedrecon.sites.data.self_contained.check_self_contained`), or its k-space, references or header
                are wrong.
        """
        if not h5py.is_hdf5(source):
            raise InputError(f"{source}: is not an HDF5 file.")
        try:
            with h5py.File(source, "r", locking=False) as file:
                check_self_contained(source, file)
                return _volume(source, file, label, notes, self.noise)
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            kind = "is truncated" if "truncated" in str(error) else "cannot be read"
            raise InputError(f"{source}: {kind}: {error}") from None


def _volume(
    source: Path, file: h5py.File, label: Label, notes: Notes, noise: Callable[[Complex], float | None]
) -> VolumeData:
    kspace = _kspace(source, file)
    notes.facts["coils"] = str(kspace.shape[1])
    header = Header.parse(source, file)
    if header.encoded is not None:
        left, right = header.encoded
        kspace[..., :left] = 0
        kspace[..., right:] = 0
    complete = "mask" not in file and fully_sampled(kspace)
    return VolumeData(
        label.name,
        label.subject,
        label.split,
        kspace,
        root_sum_of_squares(kspace) if complete else None,
        noise(kspace),
        header.voxel_mm,
        str(file.attrs.get("acquisition", "")),
        header.field_strength_t,
    )


def _kspace(source: Path, file: h5py.File) -> Complex:
    if "kspace" not in file:
        raise InputError(f"{source}: the dataset 'kspace' is missing (found: {', '.join(sorted(file)) or 'nothing'}).")
    dataset = file["kspace"]
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{source}: 'kspace' is not a dataset.")
    if dataset.dtype.kind != "c":
        raise InputError(f"{source}: 'kspace' is {dataset.dtype}; expected complex.")
    if dataset.ndim not in (3, 4):
        raise InputError(
            f"{source}: 'kspace' has the shape {dataset.shape}; expected (slices, coils, y, x) or (slices, y, x)."
        )
    kspace: Complex = dataset[()].astype(np.complex64, copy=False)
    kspace = kspace if kspace.ndim == 4 else kspace[:, None]
    check_layout(str(source), kspace, None)
    for key in _REFERENCES:
        if key in file:
            _check_fit(source, key, file[key].shape, kspace.shape)
    return kspace


def _check_fit(source: Path, key: str, shape: tuple[int, ...], kspace: tuple[int, ...]) -> None:
    fits = len(shape) == 3 and shape[0] == kspace[0]
    if not fits or shape[1] > kspace[2] or shape[2] > kspace[3]:
        raise InputError(f"{source}: '{key}' of shape {shape} does not fit the k-space of shape {kspace}.")


class Header:
    """The used values of the ISMRMRD header. All are None if the file has no header.

    Attributes:
        encoded: first phase-encoded column (x) of the k-space, and one past the last.
        voxel_mm: voxel size (slice, y, x) of the encoded matrix in mm.
        field_strength_t: field strength in tesla.
    """

    def __init__(self, root: ElementTree.Element | None, n_columns: int) -> None:
        self._root = root
        self.encoded = self._encoded(n_columns)
        self.field_strength_t = self._number("acquisitionSystemInformation/systemFieldStrength_T")
        self.voxel_mm = self._voxel()

    @classmethod
    def parse(cls, source: Path, file: h5py.File) -> Header:
        """The header of an open file.

        Raises:
            InputError: the header exists but is not XML, or one of its numbers is not a number.
        """
        if "ismrmrd_header" not in file:
            return cls(None, 0)
        text = file["ismrmrd_header"][()]
        try:
            return cls(ElementTree.fromstring(text), file["kspace"].shape[-1])
        except (ElementTree.ParseError, ValueError, TypeError) as error:
            raise InputError(f"{source}: its 'ismrmrd_header' cannot be read: {error}") from None

    def _encoded(self, n_columns: int) -> tuple[int, int] | None:
        size = self._number("encoding/encodedSpace/matrixSize/y")
        centre = self._number("encoding/encodingLimits/kspace_encoding_step_1/center")
        last = self._number("encoding/encodingLimits/kspace_encoding_step_1/maximum")
        if size is None or centre is None or last is None:
            return None
        left = int(size) // 2 - int(centre)
        right = left + int(last) + 1
        return (max(0, left), min(n_columns, right)) if left < right else None

    def _voxel(self) -> tuple[float, float, float] | None:
        """The voxel size. The header's x is the readout, our y; the header's y is the phase encoding, our x."""
        values: list[Any] = []
        for axis in ("z", "x", "y"):
            field = self._number(f"encoding/encodedSpace/fieldOfView_mm/{axis}")
            count = self._number(f"encoding/encodedSpace/matrixSize/{axis}")
            values.append(field / count if field and count else None)
        return None if None in values else (values[0], values[1], values[2])

    def _number(self, path: str) -> float | None:
        if self._root is None:
            return None
        found = self._root.find("/".join(f"{{*}}{part}" for part in path.split("/")))
        return None if found is None or not found.text else float(found.text)
