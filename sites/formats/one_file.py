"""Reads the one file that is to be reconstructed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrecon.sites.data.shard import open_sealed
from fedrecon.sites.data.shard_file import is_shard
from fedrecon.sites.data.splits import subject_of
from fedrecon.sites.data.volume import VolumeData, check_volume
from fedrecon.sites.errors import FileError, InputError
from fedrecon.sites.formats import FORMATS, Format, Label


def read_input(path: Path | str) -> Iterator[VolumeData]:
    """The checked volumes of one file that is to be reconstructed: a shard, a fastMRI file or a raw k-space array.

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
        for _, found, _ in reader.read([path], lambda _: Label(name, subject_of(name) or name, "test")):
            if isinstance(found, FileError):
                raise found
            yield found
        return
    shard = open_sealed(path)
    for volume in shard.volumes:
        data = shard.data(volume.name)
        check_volume(data)
        yield data


def _reader_of(path: Path) -> Format:
    readers: list[Any] = [kind() for kind in FORMATS.values() if not kind.simulated]
    for reader in readers:
        if reader.fits(path):
            return reader  # type: ignore[no-any-return]
    allowed = sorted({suffix for reader in readers for suffix in reader.suffixes})
    raise InputError(f"{path}: is no k-space that can be reconstructed; expected a shard, or {', '.join(allowed)}.")
