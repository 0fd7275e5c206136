"""The ISMRMRD header in fastMRI files, compared with the k-space that it describes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import h5py

from fedrecon.sites.errors import FileError
from fedrecon.sites.formats.format import text_of
from fedrecon.sites.formats.record import FileRecord

_TESLA = (0.001, 30.0)
_HZ_PER_TESLA = 42.577e6  # protons
_SAME_FIELD = 0.1  # "3 T" scanners have 2.89 T and are named 3 T
_CARTESIAN = ("cartesian", "epi", "other")
_VOXEL_MM = (0.001, 1000.0)  # a slab of a 3D scan that was cut later may be thick


def read_header(source: Path, name: str, file: h5py.File) -> ElementTree.Element:
    """The XML of the dataset ``name``.

    Raises:
        FileError: it is not XML.
    """
    try:
        return ElementTree.fromstring(text_of(file[name][()]))
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise FileError(source, f"its '{name}' cannot be read: {error}") from None


def scanner_of(root: ElementTree.Element) -> str | None:
    """The scanner of an ISMRMRD header as the name of a site, such as ``siemens-aera-1.5t``; None where it says less.

    It is of vendor, model and field strength alone: neither serial number nor institution is read.
    """
    place = "{*}acquisitionSystemInformation/{*}"
    model, field = (root.findtext(f"{place}{name}", "").strip() for name in ("systemModel", "systemFieldStrength_T"))
    if not model or not re.fullmatch(r"\d+(\.\d+)?", field):
        return None
    words = (
        f"{root.findtext(f'{place}systemVendor', '')} {model} {float(field):.{1 if float(field) >= 1 else 2}f}t".lower()
    )
    return re.sub(r"[^a-z0-9.]+", "-", words).strip("-.")


class Header:
    """The used values of the header. All are None if the file has no header, or if they cannot be right.

    Attributes:
        encoded: first phase-encoded column (x) of the k-space, and one past the last.
        voxel_mm: voxel size (slice, y, x) of the encoded matrix in mm.
        field_strength_t: field strength in tesla.
        crop: matrix (y, x) of the reconstructed space, no larger than the k-space.
    """

    def __init__(self, root: ElementTree.Element | None, shape: tuple[int, int], record: FileRecord) -> None:
        self._root, self._shape, self._record = root, shape, record
        self.encoded = self._encoded()
        self._check_trajectory()
        self.field_strength_t = self._field_strength()
        self.voxel_mm = self._voxel()
        self.crop = self._crop()

    @classmethod
    def parse(cls, source: Path, file: h5py.File, shape: tuple[int, int], record: FileRecord) -> Header:
        """The header of an open file.

        Args:
            shape: matrix (y, x) of the k-space.
            record: it takes a note where the header says something else than the k-space.

        Raises:
            FileError: the header exists but is not XML, or one of its numbers is not a number.
        """
        if "ismrmrd_header" not in file:
            return cls(None, shape, record)
        root = read_header(source, "ismrmrd_header", file)
        try:
            return cls(root, shape, record)
        except (ValueError, OverflowError, TypeError) as error:
            raise FileError(source, f"its 'ismrmrd_header' cannot be read: {error}") from None

    def _check_trajectory(self) -> None:
        said = None if self._root is None else self._root.findtext("{*}encoding/{*}trajectory")
        if said and said.strip().lower() not in _CARTESIAN:
            raise ValueError(f"its trajectory is '{said.strip()}', and only Cartesian k-space is read")

    def _field_strength(self) -> float | None:
        """The field strength, if the resonance frequency of the protons does not contradict it."""
        stated = self._number("acquisitionSystemInformation/systemFieldStrength_T")
        frequency = self._number("experimentalConditions/H1resonanceFrequency_Hz")
        field = self._plausible("field strength", stated, _TESLA)
        if field is None or not frequency or abs(frequency / _HZ_PER_TESLA / field - 1) < _SAME_FIELD:
            return field
        said = f"its field strength is {field:g} T, its protons resonate at {frequency / 1e6:g} MHz"
        self._record.note("header-contradicts-itself", f"{said}: the field strength is unknown")
        return None

    def _matrix(self) -> tuple[float, float] | None:
        """The encoded matrix (x, y) of the header, whose x is the readout, our y; None if it is another matrix."""
        x, y = (self._number(f"encoding/encodedSpace/matrixSize/{axis}") for axis in "xy")
        if x is None or y is None:
            return None
        if (int(x), int(y)) != self._shape:
            said = f"the header encodes {x:g} x {y:g}, the k-space is {self._shape[0]} x {self._shape[1]}"
            if "header-contradicts-matrix" not in {note.kind for note in self._record.notes}:
                self._record.note("header-contradicts-matrix", f"{said}: the header's matrix is not used")
            return None
        return x, y

    def _encoded(self) -> tuple[int, int] | None:
        size = self._matrix()
        centre = self._number("encoding/encodingLimits/kspace_encoding_step_1/center")
        last = self._number("encoding/encodingLimits/kspace_encoding_step_1/maximum")
        if size is None or centre is None or last is None:
            return None
        left = int(size[1]) // 2 - int(centre)
        right = left + int(last) + 1
        return (max(0, left), min(self._shape[1], right)) if left < right else None

    def _crop(self) -> tuple[int, int] | None:
        """The reconstructed matrix; x is the readout, our y. It holds pixels of the encoded size, as fastMRI's do."""
        x, y = (self._number(f"encoding/reconSpace/matrixSize/{axis}") for axis in "xy")
        if x is None or y is None:
            return None
        if not (1 <= x <= 1e5 and 1 <= y <= 1e5):
            self._record.note("header-implausible", f"its reconstructed matrix is {x:g} x {y:g}: it is not used")
            return None
        return min(int(x), self._shape[0]), min(int(y), self._shape[1])

    def _voxel(self) -> tuple[float, float, float] | None:
        """The voxel size: the field of view of the encoded space, over the samples that are there."""
        slabs = self._number("encoding/encodedSpace/matrixSize/z")
        values = []
        for axis, count in (("z", slabs), ("x", self._shape[0]), ("y", self._shape[1])):
            field = self._number(f"encoding/encodedSpace/fieldOfView_mm/{axis}")
            size = field / count if field and count else None
            values.append(self._plausible(f"voxel size along {axis}", size, _VOXEL_MM))
        if None in values or self._matrix() is None:
            return None
        return tuple(values)  # type: ignore[return-value]

    def _plausible(self, name: str, value: float | None, limits: tuple[float, float]) -> float | None:
        if value is None or limits[0] <= value <= limits[1]:
            return value
        self._record.note("header-implausible", f"its {name} is {value:g}, which cannot be right: unknown")
        return None

    def _number(self, path: str) -> float | None:
        if self._root is None:
            return None
        found = self._root.find("/".join(f"{{*}}{part}" for part in path.split("/")))
        return None if found is None or not found.text else float(found.text)
