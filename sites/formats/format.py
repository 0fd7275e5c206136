"""The base class of the formats, which read files into volumes. A format is one file here and one registry line."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrecon.sites.data.volume import Complex, VolumeData, check_volume
from fedrecon.sites.errors import FileError, InputError, cause_of
from fedrecon.sites.extension.origin import origin_of
from fedrecon.sites.extension.text_modules import place_in_plugin
from fedrecon.sites.formats.finding import find_files
from fedrecon.sites.formats.record import FileRecord
from fedrecon.sites.imaging.noise import estimate_noise
from fedrecon.sites.phases import counted
from fedrecon.sites.plugin import Plugin

_POINTERS = {b"/annex/objects": "git-annex", b"version https://git-lfs": "Git LFS"}


@dataclass(frozen=True)
class Label:
    """The labels that follow from a file's name: the volume's name, its subject and the subject's split."""

    name: str
    subject: str
    split: str


class Format(Plugin):
    """A file format. Its fields are the options of its import.

    Attributes:
        noise_sigma: the known noise level, in the units of the file, of one sample of k-space or of the image. It is
            scaled as the import scales the samples. None estimates the level.

    Class attributes:
        suffixes: endings of the file names.
        simulated: True if the import computes the k-space from magnitude images.
        hides_persons: True if the id of a person is shown to nobody: it is a pseudonym as soon as it is read.
        summary: one line for ``fedrecon list formats``.
    """

    suffixes: ClassVar[tuple[str, ...]]
    simulated: ClassVar[bool] = False
    hides_persons: ClassVar[bool] = False
    summary: ClassVar[str]

    noise_sigma: float | None = Field(None, gt=0, le=1e12, allow_inf_nan=False)

    @property
    def phase_kind(self) -> str:
        """The origin of the image phase: ``none``, ``smooth`` or ``measured``."""
        return "measured"

    def read(
        self, sources: Sequence[Path], label: Callable[[Path], Label]
    ) -> Iterator[tuple[Path, VolumeData | FileError, FileRecord]]:
        """Reads and checks one file at a time: its path, its volume or why it is refused, and what was found."""
        for source in counted("reading files", sources):
            record = FileRecord()
            try:
                for file in self.files(source):
                    check_fetched(file)
                with np.errstate(all="ignore"):  # NaN and infinity are refused by what they are in, not warned of
                    data = self.load(source, label(source), record)
                    check_volume(data, self.stem(source))
                if record.slices is None:
                    raise FileError(source, "load sets no record.slices, the number of slices that the file has")
            except FileError as error:
                yield source, error, record
            except InputError as error:
                yield source, FileError(source, str(error)), record
            except Exception as error:
                if origin_of(type(self)) is None:
                    raise
                place = f" ({found})" if (found := place_in_plugin(error)) else ""  # a plug-in may raise anything
                yield source, FileError(source, f"{cause_of(error)}{place}"), record
            else:
                record.volume = data.about()
                yield source, data, record

    def find(self, sources: Sequence[Path]) -> tuple[list[Path], dict[str, int]]:
        """What is read at ``sources``, one path a volume, and the number of other files by suffix.

        Here each file is a volume. A format whose volume is several files returns one path for each group: the folder,
        or one of its files.
        """
        return find_files(self.fits, self.suffixes, sources)

    def files(self, source: Path) -> Sequence[Path]:
        """All files of the volume that :meth:`find` gave as ``source``."""
        return (source,)

    def stem(self, path: Path) -> str:
        """The file's name without the format's suffix (the longest that fits: ``.nii.gz`` is one)."""
        fitting = [suffix for suffix in self.suffixes if path.name.lower().endswith(suffix)]
        return path.name[: -max(map(len, fitting))] if fitting else path.stem

    def noise(self, kspace: Complex, gain: float = 1.0) -> float | None:
        """The noise level of k-space (slices, coils, y, x): the given one, else an estimate; None if it cannot tell.

        Args:
            kspace: as the shard keeps it.
            gain: by what the import multiplied the noise of the file's samples.
        """
        return estimate_noise(kspace) if self.noise_sigma is None else self.noise_sigma * gain

    def fits(self, path: Path) -> bool:
        """Whether the file's name is one of this format. Hidden files are none."""
        return not path.name.startswith(".") and path.name.lower().endswith(self.suffixes)

    def person(self, source: Path) -> str | None:  # noqa: ARG002 - for formats that know persons
        """The id of the scanned person that stands in the file, or None. It is asked before any data are read.

        Raises:
            InputError: the file cannot be read.
        """
        return None

    def scanner(self, source: Path) -> str | None:  # noqa: ARG002 - for formats that know scanners
        """Vendor, model and field strength of the scanner, as the name of a site; None where the file does not say.

        Raises:
            InputError: the file cannot be read.
        """
        return None

    @abstractmethod
    def load(self, source: Path, label: Label, record: FileRecord) -> VolumeData:
        """The volume in one file. What was found, decided and left out is written to ``record``.

        Raises:
            InputError: the file is refused.
        """


def check_fetched(path: Path) -> None:
    """Refuses what only stands for a file: a link to nothing, and the pointers of git-annex and Git LFS.

    Raises:
        FileError: see above, or the file does not exist or cannot be opened.
    """
    if path.is_symlink() and not path.exists():
        raise FileError(path, f"is a link to a file that is not there, {path.readlink()} (datalad get, git annex get).")
    if path.is_dir():
        raise FileError(path, "is a folder that may not be read.")
    if path.exists() and not path.is_file():
        raise FileError(path, "is no plain file.")
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError:
        raise FileError(path, "there is no such file.") from None
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror}.") from None
    for beginning, tool in _POINTERS.items():
        if head.startswith(beginning):
            raise FileError(path, f"is a pointer of {tool}; its content was not fetched.")


def text_of(value: Any) -> str:
    """The text of an HDF5 attribute or dataset: a string, bytes, a number, an array of one of them, or of characters.

    MATLAB stores text as an array of numbers, one a character. A single number is itself: a patient's id is often one.
    A number that is none (NaN), and an attribute without a value, are no text.
    """
    import h5py

    if isinstance(value, h5py.Empty):
        return ""
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.size == 1:
        number = float(array.reshape(-1)[0])
        return "" if number != number else str(int(number) if number.is_integer() else number)
    if array.dtype.kind in "ui" and array.size > 1:
        return array.astype(np.uint8).tobytes().decode("utf-8", "replace").strip("\0 ")
    parts = [part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in array.reshape(-1)]
    return "".join(parts).strip("\0 ")
