"""FastMRI HDF5 files, single- and multi-coil (Zbontar et al., fastMRI: an open dataset and benchmarks, 2018).

K-space is kept whole, with its readout oversampling; scores are of the reconstructed matrix, as the official one is.
The reference is computed from the k-space, so that it fits it: the modulus (one coil) or the root sum of squares of the
full image. The stored ``reconstruction_*`` are crops of that image; they are compared with it. Samples decide, not
words: whether there is a reference follows from the samples, slice by slice. What ``mask`` and header say about them is
compared, and what differs is noted. No sample is changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.data.fitting import COMPLETE
from fedrecon.sites.data.volume import SMALLEST, Complex, Real, VolumeData, check_layout
from fedrecon.sites.errors import FileError
from fedrecon.sites.formats.fastmri_header import Header, read_header, scanner_of
from fedrecon.sites.formats.format import Label, text_of
from fedrecon.sites.formats.hdf5_file import opened
from fedrecon.sites.formats.kspace import Measured, as_complex, peakedness, reference_of
from fedrecon.sites.formats.magnitude import centre
from fedrecon.sites.formats.record import FileRecord

_REFERENCES = ("reconstruction_rss", "reconstruction_esc")
_DIFFERENT = 0.05  # stored and computed image differ if this part of the power differs, after scaling


class FastMRI(Measured):
    """Files of the fastMRI layout, one volume in each file."""

    suffixes: ClassVar = (".h5", ".hdf5", ".mat")
    summary: ClassVar = "fastMRI HDF5 files (also MATLAB 7.3), single- and multi-coil, with or without ISMRMRD header"

    def person(self, source: Path) -> str | None:
        """The attribute ``patient_id``."""
        try:
            with h5py.File(source, "r", locking=False) as file:
                return text_of(file.attrs["patient_id"]) if "patient_id" in file.attrs else None
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise FileError(source, f"cannot be read: {error}") from None

    def scanner(self, source: Path) -> str | None:
        """The scanner of the header."""
        with opened(source, "fastmri") as file:
            if "ismrmrd_header" not in file:
                return None
            return scanner_of(read_header(source, "ismrmrd_header", file))

    def load(self, source: Path, label: Label, record: FileRecord) -> VolumeData:
        """The volume in one file.

        Raises:
            InputError: see :func:`fedrecon.sites.formats.hdf5_file.opened`, or its k-space, references or header are
                wrong.
        """
        with opened(source, "fastmri") as file:
            return _volume(source, file, label, record, self)


def _volume(source: Path, file: h5py.File, label: Label, record: FileRecord, reader: FastMRI) -> VolumeData:
    kspace = reader.compressed(_kspace(source, file, record), record)
    ny, nx = kspace.shape[-2:]
    record.slices = len(kspace)
    header = Header.parse(source, file, (ny, nx), record)
    if header.encoded is not None:
        left, right = header.encoded
        extra = sorted({*range(nx)} - {*range(left, right)})
        if extra and kspace[..., extra].any():
            record.note(
                "header-contradicts-samples", f"the header encodes columns {left} to {right - 1}: others are kept"
            )
    reference = reference_of(kspace, record)
    if "mask" in file:
        _compare_mask(file["mask"][()], kspace, record)
    if reference is not None:
        for key in _REFERENCES:
            if key in file:
                _compare_reference(key, file[key][()], reference, record)
    crop = _scored(file, header.crop, (ny, nx), record)
    if header.voxel_mm is not None:
        record.field_of_view_mm = (ny * header.voxel_mm[1], nx * header.voxel_mm[2])
    return VolumeData(
        label.name,
        label.subject,
        label.split,
        kspace,
        reference,
        reader.noise(kspace),
        header.voxel_mm,
        text_of(file.attrs.get("acquisition", "")),
        header.field_strength_t,
        crop=crop,
    )


def _scored(
    file: h5py.File, said: tuple[int, int] | None, shape: tuple[int, int], record: FileRecord
) -> tuple[int, int] | None:
    """The part (y, x) that the official score compares: the stored image's matrix, else the header's reconstructed one.

    A part that is higher than wide is cut to a square, as fastMRI's ``evaluate.py`` does with narrow volumes.
    None if it is the whole matrix.
    """
    stored = next((file[key].shape[-2:] for key in _REFERENCES if key in file), None)
    found = said if stored is None else (min(stored[0], shape[0]), min(stored[1], shape[1]))
    if stored is not None and said is not None and found != said:
        record.note("header-contradicts-image", f"the stored image is {stored[0]} x {stored[1]}: it is what is scored")
    found = found and (min(found), found[1])
    if found is not None and min(found) < SMALLEST:
        record.note("header-implausible", f"the reconstructed matrix {found[0]} x {found[1]} is too small to score")
        found = None
    if found is None and shape[0] > 1.5 * shape[1]:
        record.note("oversampling-scored", "neither header nor stored image says which part of the view is scored")
    return None if found in (None, shape) else found


def _kspace(source: Path, file: h5py.File, record: FileRecord) -> Complex:
    dataset = file["kspace"]
    if not isinstance(dataset, h5py.Dataset):
        raise FileError(source, "'kspace' is not a dataset.")
    kspace = as_complex(np.asarray(dataset[()]), "'kspace'")
    if "MATLAB_class" in dataset.attrs and kspace.ndim in (3, 4):
        kspace = _in_order(source, kspace, record)
    if kspace.ndim not in (3, 4):
        raise FileError(
            source, f"'kspace' has the shape {dataset.shape}; expected (slices, coils, y, x) or (slices, y, x)."
        )
    if kspace.ndim == 3 and "reconstruction_esc" not in file:  # that image says that there is one coil
        record.note("three-axes", f"the shape {kspace.shape} is read as (slices, y, x): one coil")
    kspace = kspace if kspace.ndim == 4 else kspace[:, None]
    check_layout("its 'kspace'", kspace, None)
    for key in _REFERENCES:
        if key not in file:
            continue
        stored = file[key]
        if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "iuf":
            raise FileError(source, f"'{key}' holds no real image.")
        if stored.ndim != 3 or stored.shape[0] != len(kspace):
            raise FileError(source, f"'{key}' of shape {stored.shape} does not fit the k-space of {kspace.shape}.")
    return kspace


def _in_order(source: Path, kspace: Complex, record: FileRecord) -> Complex:
    """K-space that MATLAB stored, as (slices, ..., y, x).

    MATLAB stores its axes in reverse, so a file may hold (x, y, ..., slices) or what a person wrote down in the order
    of Python. The samples say which: the energy of k-space lies in the middle of its own axes, and that of slices is
    spread.

    Raises:
        FileError: the samples do not say.
    """
    ends = [peakedness(kspace, axis) for axis in (0, -1)]
    if max(ends) < 2 * min(ends):
        raise FileError(
            source,
            f"MATLAB stored 'kspace' of the shape {kspace.shape}, and its samples do not say which of its ends are the "
            "slices: save it with h5py, or as .npy, as (slices, coils, y, x).",
        )
    if ends[0] < ends[1]:
        record.note("matlab-axes", f"MATLAB's axes {kspace.shape[::-1]} are read in reverse: {kspace.shape}")
        return kspace
    turned = np.ascontiguousarray(kspace.transpose())
    record.note("matlab-axes", f"MATLAB's axes {turned.shape} are read as they stand")
    return turned


def _compare_mask(mask: Any, kspace: Complex, record: FileRecord) -> None:
    """Notes where the mask says something else than the samples of each slice."""
    said, samples = np.asarray(mask), (kspace != 0).any(axis=1)
    marked: NDArray[np.bool_] = said != 0
    slices, ny, nx = samples.shape
    # A mask of the columns (as in fastMRI, also with axes of length one), of each slice's columns, or of the samples.
    fitting = [shape for shape in ((1, 1, nx), (1, ny, nx), (slices, 1, nx), (slices, ny, nx)) if _as(marked, shape)]
    if said.dtype.kind not in "biuf" or not fitting:
        record.note(
            "mask-contradicts-samples", f"a mask of the shape {said.shape} does not fit the {ny} x {nx} samples"
        )
        return
    marked = marked.reshape(fitting[0])
    if marked.shape[1] == 1:
        samples = samples.any(axis=1, keepdims=True)
    what = "columns" if marked.shape[1] == 1 else "samples"
    missing, more = int((marked & ~samples).any(axis=0).sum()), int((~marked & samples).any(axis=0).sum())
    if record.sampled is not None and record.sampled >= COMPLETE and more:
        record.note("mask-contradicts-samples", f"the mask marks {marked.mean():.0%} of the {what}, all were measured")
    elif more or missing:
        record.note(
            "mask-contradicts-samples", f"{missing} {what} of the mask were not measured, {more} beside it were"
        )


def _as(mask: NDArray[Any], shape: tuple[int, int, int]) -> bool:
    """Whether the mask has the shape, but for axes of length one."""
    return [n for n in mask.shape if n != 1] == [n for n in shape if n != 1]


def _compare_reference(key: str, stored: Any, computed: Real, record: FileRecord) -> None:
    """Notes where a stored image is another than the one of the k-space; both are cut to their common centre."""
    size = min(stored.shape[1], computed.shape[1]), min(stored.shape[2], computed.shape[2])
    one, other = centre(np.asarray(stored, np.float64), size), centre(computed.astype(np.float64), size)
    power = float((one**2).sum() * (other**2).sum())
    apart = 1 - float((one * other).sum()) ** 2 / power if power else 1.0
    if not apart <= _DIFFERENT:
        record.note("reference-differs", f"'{key}' differs from the image of the k-space ({apart:.0%} of its power)")
