"""Reads a shard's file: opens it, then reads and checks its labels without its data."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.data.shard_writer import FORMAT, SCHEMA_VERSION, TRUTH, reference_key
from fedrecon.sites.data.volume import SPLITS, Volume, check_crop, check_layout
from fedrecon.sites.errors import InputError

ROOT = ("format", "schema_version", "site", "contrast", "simulated", "phase", "content_hash")
OPTIONAL = ("field_strength_t", "voxel_mm", "attributes_hash")
_LABELS = ("max", "patient_id", "split", "noise")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Opens the HDF5 file ``path`` for reading.

    Raises:
        InputError: the file is missing, is not HDF5 or is truncated, or the body cannot read it.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    try:
        if path.stat().st_size == 0 or not h5py.is_hdf5(path):
            raise InputError(f"{path}: is not an HDF5 file.")
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        kind = "is truncated" if "truncated" in str(error) else "cannot be read"
        raise InputError(f"{path}: {kind}: {error}") from None


def is_shard(path: Path) -> bool:
    """Whether the file says that it is a shard of fedrecon. A file that cannot be read says nothing."""
    try:
        if not path.is_file() or not h5py.is_hdf5(path):
            return False
        with h5py.File(path, "r", locking=False) as file:
            return bool(file.attrs.get("format") == FORMAT)
    except (OSError, RuntimeError):
        return False


def check_root(path: Path, root: dict[str, Any]) -> None:
    """Refuse root attributes that do not belong to a shard, or to a shard of a version that fedrecon can read.

    Raises:
        InputError: the file is not a shard, has a newer schema, or lacks a root attribute.
    """
    if root.get("format") != FORMAT:
        raise InputError(
            f"{path}: is an HDF5 file, but no shard of fedrecon. "
            f"For a fastMRI file: fedrecon data import fastmri {path.name} ..."
        )
    version = int(root.get("schema_version", 0))
    if not 1 <= version <= SCHEMA_VERSION:
        raise InputError(
            f"{path}: has the schema version {version}; "
            f"this version of fedrecon reads up to {SCHEMA_VERSION}. Update fedrecon."
        )
    for key in ROOT:
        if key not in root:
            raise InputError(f"{path}: the attribute '{key}' is missing.")


def read_volumes(path: Path, file: h5py.File) -> tuple[Volume, ...]:
    """The labels of all volumes, sorted by name. Shapes and dtypes are checked; no data are read.

    Raises:
        InputError: there is no volume, a volume is not valid, or a subject is in two splits.
    """
    volumes = tuple(_volume(path, name, file[name]) for name in sorted(file))
    if not volumes:
        raise InputError(f"{path}: holds no volume.")
    splits = {(volume.subject, volume.split) for volume in volumes}
    for subject, count in Counter(subject for subject, _ in splits).items():
        if count > 1:
            raise InputError(f"{path}: the subject '{subject}' is in {count} splits; subjects are split as a whole.")
    return volumes


def _volume(path: Path, name: str, group: h5py.Group) -> Volume:
    where = f"{path}: volume '{name}'"
    if not isinstance(group, h5py.Group) or "kspace" not in group:
        raise InputError(f"{where}: the dataset 'kspace' is missing.")
    label = dict(group.attrs)  # each is read once: HDF5 takes long to read one
    for key in _LABELS:
        if key not in label:
            raise InputError(f"{where}: the attribute '{key}' is missing.")
    kspace = _Layout.of(group["kspace"])
    n_coils = kspace.shape[1] if len(kspace.shape) == 4 else 1
    reference = group.get(reference_key(n_coils))
    check_layout(where, kspace, reference)
    truth = group.get(TRUTH)
    if truth is not None:
        check_layout(f"{where}, {TRUTH}", kspace, truth)
    if label["split"] not in SPLITS:
        raise InputError(f"{where}: split '{label['split']}' is none of {', '.join(SPLITS)}.")
    slices, _, ny, nx = kspace.shape
    noise = float(label["noise"])  # NaN: unknown
    return Volume(
        name,
        str(label["patient_id"]),
        str(label["split"]),
        slices,
        n_coils,
        (ny, nx),
        None if np.isnan(noise) else noise,
        float(label["max"]),
        reference is not None,
        read_voxel(label),
        None if truth is None else float(label["truth_max"]),
        _crop(where, label, kspace.shape),
        float(label.get("norm", 0.0)),
    )


def _crop(where: str, label: Any, shape: tuple[int, ...]) -> tuple[int, int] | None:
    if "crop" not in label:
        return None
    y, x = (int(value) for value in label["crop"])
    check_crop(where, (y, x), shape)
    return y, x


@dataclass(frozen=True)
class _Layout:
    """Shape and dtype of a k-space dataset; the coil axis that a single-coil file leaves out is added."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> _Layout:
        shape = tuple(dataset.shape)
        return cls((shape[0], 1, *shape[1:]) if len(shape) == 3 else shape, dataset.dtype)


def read_voxel(attributes: dict[str, Any]) -> tuple[float, float, float] | None:
    """The attribute ``voxel_mm``: voxel size (slice, y, x) in mm, or None where it is missing."""
    if "voxel_mm" not in attributes:
        return None
    first, second, third = (float(value) for value in attributes["voxel_mm"])
    return first, second, third


@dataclass(frozen=True)
class StoredArray:
    """An uncompressed array that is read from its file when it is indexed: one row (a slice), or a range of rows.

    It is not memory-mapped: the system kills a process that reads mapped bytes of a file which was cut meanwhile
    (SIGBUS). A read of such a file is short instead, and is refused. Processes still share one copy of the file, in the
    system's cache.

    Attributes:
        path: the file. dtype: type of the values. shape: shape of the array. offset: its first byte in the file.
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> NDArray[Any]:
        """The rows, READ-ONLY.

        Raises:
            InputError: the file is gone, cannot be read, or ends before the rows do.
        """
        rows = range(len(self))[index]
        return self._read(rows, 1)[0] if isinstance(rows, int) else self._read(rows.start, len(rows))

    def _read(self, start: int, count: int) -> NDArray[Any]:
        size = math.prod(self.shape[1:])
        first = self.offset + start * size * self.dtype.itemsize
        try:
            values = np.fromfile(self.path, self.dtype, count * size, offset=first)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}.") from None
        if len(values) < count * size:
            raise InputError(
                f"{self.path}: is truncated: it ends before byte {first + count * size * self.dtype.itemsize}."
            )
        values.flags.writeable = False
        return values.reshape(count, *self.shape[1:])


def plain_offset(dataset: h5py.Dataset) -> int | None:
    """The byte at which the dataset begins in the file.

    None if its bytes are not the values in their order: they are compressed, chunked, external or in the other byte
    order.
    """
    plain = dataset.chunks is None and dataset.dtype.isnative and not dataset.external
    return dataset.id.get_offset() if plain else None
