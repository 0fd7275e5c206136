"""Refuses an HDF5 file that takes values from elsewhere, or declares more than it holds. No data are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from fedrecon.sites.errors import FileError

MAX_RATIO = 100
"""How many times smaller a compressed dataset may be stored; k-space with 15 of 16 samples missing needs about 20."""

SMALL = 2**24
"""A compressed dataset of at most so many bytes may have any ratio."""


def check_self_contained(path: Path, file: h5py.File) -> None:
    """Refuses an open file with a link, dataset or reference that points elsewhere, or with a size it cannot hold.

    Raises:
        FileError: there is a soft or external link, a virtual or external dataset, an object or region reference, a
            dataset that is larger than its stored bytes, or one that is compressed more than :data:`MAX_RATIO` times.
    """
    size = path.stat().st_size
    _check_attributes(path, "", file, size)
    for name, item in _members(path, file):
        if not isinstance(item, h5py.Datatype):
            _check_attributes(path, name, item, size)
        if isinstance(item, h5py.Dataset):
            _check_dataset(path, name, item, size)


def _members(path: Path, file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Every object below the root with its name, once each, although groups may hold each other in a circle."""
    seen, waiting = {_place(file)}, [("", file)]
    while waiting:
        folder, group = waiting.pop()
        for name in group:
            where = f"{folder}/{name}" if folder else name
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                to = getattr(link, "path", "nowhere")  # a damaged link is none of h5py's kinds
                raise _refused(path, where, f"is {kind} to '{to}'", "a group or dataset of this file")
            item = group[name]
            if _place(item) in seen:
                continue
            seen.add(_place(item))
            if isinstance(item, h5py.Group):
                waiting.append((where, item))
            yield where, item


def _check_dataset(path: Path, name: str, dataset: h5py.Dataset, size: int) -> None:
    if dataset.is_virtual:
        raise _refused(path, name, "is a virtual dataset", "values in this file")
    if dataset.external:
        raise _refused(path, name, f"lies in another file, '{dataset.external[0][0]}'", "values in this file")
    if _refers(kind := dataset.id.get_type()):
        raise _refused(path, name, "holds object or region references", "numbers or text")
    declared = _declared(dataset.id, kind)
    stored = dataset.id.get_storage_size()
    offset = dataset.id.get_offset() if dataset.chunks is None else None
    if stored > size or (offset is not None and offset + declared > size):
        raise _refused(path, name, f"declares {declared} bytes", f"at most the {size} bytes of the file")
    compressed = dataset.id.get_create_plist().get_nfilters() > 0
    if not compressed and declared > stored:
        raise _refused(path, name, f"declares {declared} bytes and stores {stored}", "as many bytes as it declares")
    if compressed and declared > max(SMALL, MAX_RATIO * stored):
        what = f"declares {declared} bytes and stores {stored}"
        raise _refused(path, name, what, f"a compression of at most {MAX_RATIO} times")


def _check_attributes(path: Path, name: str, item: Any, size: int) -> None:
    # By number: a shard is opened often, and to look each attribute up by its name takes as long again.
    for number in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=number)
        kind = attribute.get_type()
        if _refers(kind):
            raise _refused(path, _named(name, attribute), "holds object or region references", "numbers or text")
        if _declared(attribute, kind) > size:
            what = f"declares {attribute.shape} values"
            raise _refused(path, _named(name, attribute), what, f"at most the {size} bytes of the file")


def _named(name: str, attribute: Any) -> str:
    return f"{name}@{attribute.name.decode(errors='backslashreplace')}"


def _declared(item: Any, kind: Any) -> int:
    """The bytes of a dataset or attribute of this type; 0 if it has a type but no values."""
    return 0 if item.shape is None else math.prod(item.shape) * int(kind.get_size())


def _refers(kind: Any) -> bool:
    """Whether the HDF5 type is a reference, or holds one."""
    if isinstance(kind, h5py.h5t.TypeReferenceID):
        return True
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        return any(_refers(kind.get_member_type(number)) for number in range(kind.get_nmembers()))
    holds = isinstance(kind, h5py.h5t.TypeArrayID | h5py.h5t.TypeVlenID)
    return holds and _refers(kind.get_super())


def _place(item: Any) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def _refused(path: Path, name: str, what: str, allowed: str) -> FileError:
    return FileError(path, f"'{name}' {what}; allowed: {allowed}.")
