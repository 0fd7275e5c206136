"""The XML header of ISMRMRD files: the two matrices, their fields of view, and the part that is scored."""

from __future__ import annotations

from pathlib import Path

import h5py

from fedrecon.sites.data.volume import SMALLEST
from fedrecon.sites.errors import FileError
from fedrecon.sites.formats.fastmri_header import read_header
from fedrecon.sites.formats.record import FileRecord


class Header:
    """The XML header.

    Attributes:
        encoded, wanted: matrix (x, y, z) of the encoded and of the reconstructed space; x is the readout.
        encoded_mm, wanted_mm: their fields of view in mm.
    """

    def __init__(self, source: Path, file: h5py.File) -> None:
        self._source = source
        self._root = read_header(source, "dataset/xml", file)
        kind = self.text("encoding/trajectory")
        if kind is None or kind.lower() != "cartesian":  # MRIReco.jl writes 'Cartesian'
            raise FileError(source, f"its trajectory is '{kind}'; only 'cartesian' can be imported.")
        self.encoded = tuple(int(self._positive(f"encoding/encodedSpace/matrixSize/{axis}")) for axis in "xyz")
        self.wanted = tuple(int(self._positive(f"encoding/reconSpace/matrixSize/{axis}")) for axis in "xyz")
        self.encoded_mm = tuple(self._positive(f"encoding/encodedSpace/fieldOfView_mm/{axis}") for axis in "xyz")
        self.wanted_mm = tuple(self._positive(f"encoding/reconSpace/fieldOfView_mm/{axis}") for axis in "xyz")

    def text(self, path: str) -> str | None:
        """The text of an element, or None."""
        found = self._root.find("/".join(f"{{*}}{part}" for part in path.split("/")))
        return None if found is None or not found.text else found.text.strip()

    def number(self, path: str) -> float | None:
        """The number of an element, or None."""
        found = self.text(path)
        try:
            return None if found is None else float(found)
        except ValueError:
            raise FileError(self._source, f"its header has {path} '{found}', which is no number.") from None

    def _positive(self, path: str) -> float:
        found = self.number(path)
        if found is None or not 0 < found < 1e5:
            raise FileError(self._source, f"its header has {path} {found}; expected a number above 0.")
        return found

    def centre(self, axis: int) -> int:
        """The number of the encoding step at DC: as the header says, else the middle."""
        found = self.number(f"encoding/encodingLimits/kspace_encoding_step_{axis}/center")
        return self.encoded[axis] // 2 if found is None else int(found)

    @property
    def readout(self) -> int:
        """Samples of the readout without its oversampling."""
        return min(self.encoded[0], round(self.encoded[0] * self.wanted_mm[0] / self.encoded_mm[0]))

    def scored(self, shape: tuple[int, int], record: FileRecord) -> tuple[int, int] | None:
        """The part (y, x) of images of this shape that lies in the reconstructed field of view; None for all of it.

        Phase encodings are oversampled too, and the air that this adds is easy to reconstruct. The readout was cut
        before. 2-D: x is the encoding 1. 3-D: y is the encoding 2, x the encoding 1.
        """
        part = list(shape)
        for at, axis in ((1, 1), (0, 2)) if self.encoded[2] > 1 else ((1, 1),):
            part[at] = min(shape[at], round(shape[at] * self.wanted_mm[axis] / self.encoded_mm[axis]))
        if min(part) < SMALLEST:
            if tuple(part) != shape:
                record.note("header-implausible", f"the reconstructed part {part[0]} x {part[1]} is too small to score")
            return None
        return None if tuple(part) == shape else (part[0], part[1])
