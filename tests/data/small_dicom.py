"""Small series of DICOM, and how they are read."""

from pathlib import Path

import numpy as np
import pytest
from small_files import image, write_dicom

from fedrecon.sites.errors import FileError
from fedrecon.sites.formats import Label
from fedrecon.sites.formats.dicom import DICOM

STACK = np.stack([(number + 2) * image() for number in range(4)])  # (slice, row, column)


def loaded(source: Path, **options):
    """The volume of one path, and its record; a refusal is raised."""
    reader = DICOM(**options)
    (path,), _ = reader.find([source])
    ((_, found, record),) = reader.read([path], lambda _: Label("v", "s", "train"))
    if isinstance(found, FileError):
        raise found
    return found, record


def series(folder: Path, stack=STACK, step=(0.0, 0.0, 5.0), **elements) -> Path:
    """A stack with one file an image; the names do not follow the positions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(stack):
        place = tuple(10 + number * part for part in step)
        write_dicom(folder / f"{7 * number % 5}", pixels, folder, place, **elements)
    return folder


def refuse(folder: Path, match: str, **options) -> None:
    with pytest.raises(FileError, match=match):
        loaded(folder, **options)
