"""Reads the one file that is to be reconstructed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import h5py

from fedrecon.sites.data.shard import open_sealed
from fedrecon.sites.data.shard_file import is_shard
from fedrecon.sites.data.splits import subject_of
from fedrecon.sites.data.volume import VolumeData, check_volume
from fedrecon.sites.errors import FileError, InputError, tell
from fedrecon.sites.formats import FORMATS, Format, Label
from fedrecon.sites.formats.hdf5_file import kind_of


def read_input(path: Path | str) -> Iterator[VolumeData]:
    """The checked volumes of one file that is to be reconstructed: a shard or a file of a format of k-space.

    The file's content and suffix give the format. A NIfTI volume is refused, because it holds no k-space. Characters
    that a name cannot hold become ``-``.

    Raises:
        InputError: the file is missing, has another format, or is refused by its reader.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    if not is_shard(path):
        reader = _reader_of(path)
        name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_.+-]", "-", reader.stem(path)).lstrip("-") or "volume"
        for _, found, record in reader.read([path], lambda _: Label(name, subject_of(name) or name, "test")):
            if isinstance(found, FileError):
                raise found
            for note in record.notes:
                tell(f"note: {note.kind}: {note.text}")
            yield found
        return
    shard = open_sealed(path)
    for volume in shard.volumes:
        data = shard.data(volume.name)
        check_volume(data, sealed=True)
        yield data


def _reader_of(path: Path) -> Format:
    readers: dict[str, Format] = {name: kind() for name, kind in FORMATS.items() if not kind.simulated}
    fitting = [name for name, reader in readers.items() if reader.fits(path)]
    if len(fitting) > 1 and h5py.is_hdf5(path):  # several formats end in .h5: the content tells
        with contextlib.suppress(OSError, RuntimeError), h5py.File(path, "r", locking=False) as file:
            fitting = [name for name in fitting if name == kind_of(file)] or fitting
    if fitting:
        return readers[fitting[0]]
    allowed = sorted({suffix for reader in readers.values() for suffix in reader.suffixes})
    raise InputError(f"{path}: is no k-space that can be reconstructed; expected a shard, or {', '.join(allowed)}.")
