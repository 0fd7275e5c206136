"""Opens HDF5 files of formats that share the suffix: a file of another format is refused by that format's name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from fedrecon.sites.data.self_contained import check_self_contained
from fedrecon.sites.errors import FileError

KINDS = {"fastmri": "kspace", "ismrmrd": "dataset/xml"}
"""What the files of a format hold, by the format's name in the registry."""


def kind_of(file: h5py.File) -> str | None:
    """The name of the format whose content the file has, or None."""
    return next((kind for kind, key in KINDS.items() if key in file), None)


@contextlib.contextmanager
def opened(source: Path, kind: str) -> Iterator[h5py.File]:
    """The open file, which holds what ``kind`` promises.

    Raises:
        FileError: the file is not HDF5, is truncated or cannot be read, is of another kind, takes values from elsewhere
            (:func:`fedrecon.sites.data.self_contained.check_self_contained`), or the body cannot read it.
    """
    if not h5py.is_hdf5(source):
        older = " (MATLAB writes HDF5 with save -v7.3)" if source.suffix.lower() == ".mat" else ""
        raise FileError(source, f"is not an HDF5 file{older}.")
    try:
        with h5py.File(source, "r", locking=False) as file:
            check_self_contained(source, file)
            if KINDS[kind] not in file:
                other = kind_of(file)
                right = f"; it is a file of the format '{other}': fedrecon data import {other}" if other else ""
                there = ", ".join(sorted(file)) or "nothing"
                raise FileError(source, f"the dataset '{KINDS[kind]}' is missing (found: {there}){right}.")
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        cut = "is truncated" if "truncated" in str(error) else "cannot be read"
        raise FileError(source, f"{cut}: {error}") from None
