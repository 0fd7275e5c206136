"""DICOM magnitude series: sorted into volumes, then treated as NIfTI volumes are, so their k-space is simulated.

A series is all files of one SeriesInstanceUID and one PatientID, or one file of several frames. Its images are sorted
along the normal of their plane (DICOM PS3.3, C.7.6.2.1.1). No message quotes a text of a header (``dicom_image``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from fedrecon.sites.data.volume import VolumeData
from fedrecon.sites.errors import FileError
from fedrecon.sites.formats.dicom_image import SETTINGS, DicomImage, elements, images_of, pixels_of, quiet
from fedrecon.sites.formats.format import Label
from fedrecon.sites.formats.nifti import NIfTI
from fedrecon.sites.formats.nifti_file import NiftiVolume, oriented
from fedrecon.sites.formats.record import FileRecord

_TOLERANCE = 0.02  # of the distance of two slices, and of a pixel
_TESLA = 25.0
_LOST = 1.75
"""Two steps of trigger times that differ by this factor: between them an image is lost."""


class DICOM(NIfTI):
    """Magnitude series, one in each folder or many; the options are those of NIfTI.

    The number of an axis in ``plane`` is 0 along the rows, 1 along the columns and 2 across the images.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".dcm", ".ima", ".dicom")
    hides_persons: ClassVar = True
    summary: ClassVar = "DICOM magnitude series, also without suffix; the k-space is simulated, as for nifti"

    _series: dict[Path, tuple[Path, ...]] = PrivateAttr(default_factory=dict)

    def fits(self, path: Path) -> bool:
        """Whether the name or the first bytes are those of DICOM. Hidden files and the index DICOMDIR are none."""
        if path.name.startswith(".") or path.name == "DICOMDIR":
            return False
        if path.name.lower().endswith(self.suffixes):
            return True
        try:
            with path.open("rb") as file:
                return file.read(132)[128:] == b"DICM"
        except OSError:
            return False

    def stem(self, path: Path) -> str:
        """The name without a suffix of DICOM: a name that is made of numbers and points stays whole."""
        return super().stem(path) if path.name.lower().endswith(self.suffixes) else path.name

    def find(self, sources: Sequence[Path]) -> tuple[list[Path], dict[str, int]]:
        """The series. Its folder stands for it if all readable files there belong to it, else its first file."""
        paths, others = super().find(sources)
        found: dict[Any, list[Path]] = defaultdict(list)
        folders: dict[Path, set[Any]] = defaultdict(set)
        with quiet():
            for path in paths:
                key = _series_of(path)
                found[key].append(path)
                if key != (path,):
                    folders[path.parent].add(key)
        for files in found.values():
            alone = len(files) > 1 and {one.parent for one in files} == {files[0].parent}
            whole = alone and len(folders[files[0].parent]) == 1
            self._series[files[0].parent if whole else files[0]] = tuple(files)
        return sorted(self._series, key=lambda path: (path.name, path)), others

    def files(self, source: Path) -> Sequence[Path]:
        """The files of a series."""
        return self._series.get(source, (source,))

    def person(self, source: Path) -> str | None:
        """The PatientID. It is never shown: see :attr:`Format.hides_persons`.

        Raises:
            InputError: the file cannot be read.
        """
        with quiet():
            found = elements(self.files(source)[0], ("PatientID",)).get("PatientID")
        return None if found is None else str(found)

    def load(self, source: Path, label: Label, record: FileRecord) -> VolumeData:
        """The volume of one series, without its end slices.

        Raises:
            InputError: an image is no magnitude of an MR scan, is damaged, or has no place; the images are no stack.
        """
        files = self.files(source)
        try:
            with quiet():
                images = [image for path in files for image in images_of(path)]
                images = _magnitudes(source, images, record)
                stack = _stack(source, images, self.volume, record)
                found = _volume(source, stack, self.plane, self.zero, record)
        except FileError as error:
            if error.path == str(source):
                raise
            raise FileError(source, f"{Path(error.path).name}: {error.reason}") from None
        record.facts["images"] = f"{len(images)} in {len(files)} file{'s' * (len(files) != 1)}"
        tesla = stack[0].tesla
        if not 0 <= tesla <= _TESLA:
            record.note("header-implausible", f"a field strength of {tesla:g} T cannot be right: it is unknown")
        data = self.simulate(found, label, record)
        return replace(data, acquisition=stack[0].contrast, field_strength_t=tesla if 0 < tesla <= _TESLA else None)


def _series_of(path: Path) -> tuple[Any, ...]:
    """What the files of a series share; of a file that cannot be read, or that names no series, the file itself."""
    try:
        said = elements(path, ("SeriesInstanceUID", "PatientID"))
    except FileError:
        return (path,)
    return (str(said["SeriesInstanceUID"]), str(said.get("PatientID"))) if said.get("SeriesInstanceUID") else (path,)


def _magnitudes(source: Path, images: list[DicomImage], record: FileRecord) -> list[DicomImage]:
    others = Counter(image.kind for image in images if image.kind)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    kept = [image for image in images if image.kind is None]
    if not kept:
        raise FileError(source, f"holds no magnitude images: {named}.")
    if others:
        record.note("not-magnitude", f"images that are left out: {named}")
    return kept


def _stack(source: Path, images: list[DicomImage], volume: int | None, record: FileRecord) -> list[DicomImage]:
    """The images of one volume, sorted by position along the normal.

    Raises:
        FileError: the images differ in plane or size, one is there twice or is missing, or there are several volumes.
    """
    first = images[0]
    twice: dict[Any, Path] = {}
    for one in images:
        if twice.setdefault(one.uid, one.path) != one.path:
            raise FileError(source, f"holds an image twice, in {twice[one.uid].name} and {one.path.name}.")
    sizes = sorted({(*one.shape, *one.spacing) for one in images})
    if len(sizes) > 1:
        shown = ", ".join(f"{y}x{x} of {dy:g} x {dx:g} mm" for y, x, dy, dx in sizes[:3])
        raise FileError(source, f"its images differ in matrix or pixels: {shown}.")
    if not all(np.allclose(one.axes, first.axes, atol=1e-3) for one in images):
        raise FileError(source, "its images lie in several planes (a localiser?); a volume has one.")
    normal = np.cross(*first.axes)
    places: list[list[DicomImage]] = []
    for one in sorted(images, key=lambda one: float(one.position @ normal)):
        new = not places or (one.position - places[-1][0].position) @ normal > _TOLERANCE * min(first.spacing)
        places += [[one]] if new else []
        places[-1] += [] if new else [one]
    counts = sorted({len(place) for place in places})
    if len(counts) > 1:
        raise FileError(
            source, f"has {counts[0]} images at some positions and {counts[-1]} at others: some are missing."
        )
    if volume is None and counts[0] > 1:
        raise FileError(source, f"has {counts[0]} images at each position: --volume N takes one of them (from 0).")
    if (volume or 0) >= counts[0]:
        raise FileError(source, f"--volume {volume}: has {counts[0]} at each position, counted from 0.")
    if counts[0] > 1:
        record.note("one-of-several", f"volume {volume} of {counts[0]}")
    places = [sorted(place, key=lambda one: one.order) for place in places]
    if any(one.order == other.order for place in places for one, other in pairwise(place)):
        raise FileError(
            source,
            f"has {counts[0]} images at each position, and nothing in their headers orders them: no time, echo "
            "time, b-value, inversion time, flip angle or number is another.",
        )
    stack = [place[volume or 0] for place in places]
    if len({one.order[:SETTINGS] for one in stack}) > 1 or _acquisitions_differ(places):
        raise FileError(
            source,
            "the images of this volume differ in time, echo time, b-value, inversion time, flip angle or acquisition: "
            "some are missing.",
        )
    if _triggers_differ(places):
        raise FileError(source, "the trigger times of one volume differ by those of another volume: some are missing.")
    return stack


def _acquisitions_differ(places: list[list[DicomImage]]) -> bool:
    """Whether the volumes of a series are told apart by AcquisitionNumber alone, and one number lacks some positions.

    The parts of an interleaved acquisition may have a number each: two positions then have none in common.
    """
    numbers = [{one.order[SETTINGS] for one in place} for place in places]
    apart = all(len({one.order[:SETTINGS] for one in place}) == 1 for place in places)
    ordered = apart and all(len(mine) == len(place) for mine, place in zip(numbers, places, strict=True))
    different = {frozenset(one) for one in numbers}
    return ordered and any(one & other for one, other in combinations(different, 2))


def _triggers_differ(places: list[list[DicomImage]]) -> bool:
    """Whether the volumes of a series are told apart by their trigger times alone, and positions lack different ones.

    Each position may have its own times, by its heart beats or its place in the repetition. They begin within one step
    of each other then, and no step is nearly twice as long as at another position.
    """
    if len(places[0]) == 1 or any(len({one.order[: SETTINGS + 1] for one in place}) > 1 for place in places):
        return False
    times = np.array([[one.order[SETTINGS + 2] for one in place] for place in places])
    steps, first = np.diff(times, axis=1), times[:, 0]
    if steps.min() <= 0:
        return False
    return bool((steps.max(0) > _LOST * steps.min(0)).any() or np.ptp(first) > (1 - 1e-6) * steps.min())


def _volume(
    source: Path, stack: list[DicomImage], plane: str | None, zero: tuple[str, ...], record: FileRecord
) -> NiftiVolume:
    """The images as one volume in RAS+ space.

    Raises:
        FileError: the images are no regular stack, or see :func:`oriented`.
    """
    first, last = stack[0], stack[-1]
    normal, gap = np.cross(*first.axes), first.thickness
    across = normal * (gap or 1.0)
    if len(stack) > 1:
        across = (last.position - first.position) / (len(stack) - 1)
        gap = float(across @ normal)
        step = float(np.linalg.norm(across - gap * normal))
        straight = first.position + np.arange(len(stack))[:, None] * across
        off = float(np.linalg.norm(np.array([one.position for one in stack]) - straight, axis=1).max())
        if off > _TOLERANCE * gap:
            raise FileError(source, f"its slices are not evenly spaced ({off:.3g} mm off): one may be missing.")
        if step > _TOLERANCE * gap:
            raise FileError(source, f"its slices are shifted against each other, by {step:.3g} mm each.")
    affine = np.eye(4)
    affine[:3] = np.column_stack(
        (first.axes[0] * first.spacing[1], first.axes[1] * first.spacing[0], across, first.position)
    )
    values = _values(stack, record)
    stated = (2, "phase-encoding direction") if first.phase_encoded else None
    sizes = (first.spacing[1], first.spacing[0], gap)
    return oriented(source, record, values, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, sizes, stated, plane, zero)


def _values(stack: list[DicomImage], record: FileRecord) -> NDArray[Any]:
    """The scaled values (x, y, z) of a stack; each file is read once."""
    scales = sorted({one.scale for one in stack})
    record.scale = scales[0] if len(scales) == 1 else None
    if len(scales) > 1:
        record.note("scales-differ", f"the images have {len(scales)} scales: each is taken by its own")
    if any(one.lossy for one in stack):
        record.note("lossy", "the images were compressed with loss")
    stored: dict[Path, tuple[NDArray[Any], NDArray[np.bool_]]] = {}
    values, padding = [], 0
    for one in stack:
        if one.path not in stored:
            stored = {one.path: pixels_of(one.path)}
        frame, nothing = (array[one.frame] for array in stored[one.path])
        frame = frame if one.scale == (1, 0) else frame * np.float64(one.scale[0]) + one.scale[1]
        padding += int(np.count_nonzero(frame[nothing]))
        values.append(np.where(nothing, 0, frame) if nothing.any() else frame)
    if padding:
        record.replaced["padding"] = padding
    return np.stack(values).transpose(2, 1, 0)
