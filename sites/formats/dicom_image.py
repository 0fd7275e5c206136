"""Reads DICOM files: where each image lies, what it shows, and its pixels.

Only the elements in :data:`_TAGS` and :data:`_PIXELS` are read: names and dates of a person never reach the memory. No
message quotes a text of a header, and pydicom's own warnings, which do, are kept back.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.errors import FileError, InputError

_GROUPS = (
    "CardiacSynchronizationSequence",
    "FrameContentSequence",
    "MRDiffusionSequence",
    "MREchoSequence",
    "MRFOVGeometrySequence",
    "MRImageFrameTypeSequence",
    "MRModifierSequence",
    "MRTimingAndRelatedParametersSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
)
"""Sequences of a functional group whose elements are read."""

_ORDER = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "EffectiveEchoTime",
    "EchoTime",
    "DiffusionBValue",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "InstanceNumber",
    "TriggerTime",
)
"""What orders the images of one position: the number of ``--volume``. No one of them is a text."""

SETTINGS = 7
"""How many of them are the same for all images of a volume. A trigger time may be another for each position."""

_ENHANCED = {"InversionTime": "InversionTimes", "TriggerTime": "NominalCardiacTriggerDelayTime"}
"""The names that a file of several frames has for elements of files of one."""

_GE = (0x0043, 0x102F)
"""The kind of an image in files of GE: magnitude, phase, real, imaginary."""

_TAGS = (
    "AcquisitionContrast",
    "Columns",
    "ComplexImageComponent",
    "FrameType",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InPlanePhaseEncodingDirection",
    "LossyImageCompression",
    "MagneticFieldStrength",
    "Modality",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelSpacing",
    "ProtocolName",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SliceThickness",
    *_ORDER,
    *_ENHANCED.values(),
)
_PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
"""The value that stands for no pixel; with the second one, all values between them (DICOM PS3.3, C.7.5.1.1.2)."""
_PIXELS = (
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "DoubleFloatPixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "HighBit",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelData",
    *_PADDING,
    "PixelRepresentation",
    "Rows",
    "SamplesPerPixel",
)

_OTHERS = {
    "phase": {"P", "PHASE", "P_FFE", "P_SE", "P_IR", "P_TSE", "VELOCITY", "PHASE MAP", "VELOCITY MAP"},
    "real": {"R", "REAL", "R_FFE", "R_SE", "R_IR", "R_TSE"},
    "imaginary": {"I", "IMAGINARY", "I_FFE", "I_SE", "I_IR", "I_TSE"},
    "computed maps": {"ADC", "EADC", "FA"},
}
"""Images that are no magnitudes, by a value of ImageType after the second."""

_MODALITIES = {"CT", "PT", "US", "CR", "DX", "MG", "NM", "XA", "RF", "OT", "SC", "SR", "PR", "KO", "SEG", "RTSTRUCT"}
_CONTRASTS = {"FLUID_ATTENUATED": "flair", "PROTON_DENSITY": "pd", "DIFFUSION": "dwi", "T2_STAR": "t2star"}
_SAID = {"T1", "T2", "STIR", "PERFUSION", "TAGGING", "TOF", "FLOW_ENCODED"}
_WORDS = re.compile(r"(?<![a-z0-9])(?:(t2\*|t2star)|(t1|t2|flair|pd|dwi|swi|bold|stir)w?(?![a-z0-9]))")
_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises for a file that breaks the standard, besides its own error."""

T = TypeVar("T")


@dataclass(frozen=True)
class DicomImage:
    """One image of a series.

    Attributes:
        path, frame: the file, and the number of the frame in it.
        position, axes: of its first voxel, in mm; directions along a row and along a column (LPS+).
        spacing: between rows and between columns, in mm.
        thickness: of the slice in mm, or 0.
        scale: slope and intercept.
        kind: None for a magnitude.
        order: numbers that order the images of a position, see ``_ORDER``, and last the frame. The first
            :data:`SETTINGS` of them, from time to flip angle, are one for a whole volume; then the acquisition's.
        shape: rows and columns.
        uid: of the file, with the frame: two images of one uid are one image. It is compared and never shown.
        tesla: the field strength as it is stated, or 0.
        contrast: what the header says of it, in one of a few words; else empty.
        phase_encoded: whether the direction of phase encoding is stated, and with it that this is the plane of a slice.
        lossy: whether pixels were compressed with loss.
    """

    path: Path
    frame: int
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float
    scale: tuple[float, float]
    kind: str | None
    order: tuple[float, ...]
    shape: tuple[int, int]
    uid: tuple[str, int]
    tesla: float
    contrast: str
    phase_encoded: bool
    lossy: bool


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what pydicom says of values: its warnings and its log quote them."""
    try:
        import pydicom.config as config
    except ModuleNotFoundError:
        raise InputError("format 'dicom' needs the package: pip install 'fedrecon[dicom]'") from None
    log = logging.getLogger("pydicom")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def guarded(path: Path, action: Callable[[], T]) -> T:
    """The result of ``action``, which reads the file ``path``.

    Raises:
        FileError: pydicom could not read it. The reason is the kind of its error alone.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        return action()
    except InvalidDicomError:
        raise FileError(path, "is not a DICOM file.") from None
    except (*_BROKEN, BytesLengthException) as error:  # its text may quote a value
        raise FileError(path, f"is damaged, truncated or breaks the DICOM standard ({type(error).__name__}).") from None


def _read(path: Path, tags: Sequence[Any], pixels: bool = False) -> Any:
    from pydicom import dcmread

    return guarded(path, lambda: dcmread(path, stop_before_pixels=not pixels, specific_tags=list(tags)))


def elements(path: Path, tags: Sequence[Any]) -> dict[str, Any]:
    """The values of the elements ``tags`` (keywords) that the file has.

    Raises:
        FileError: the file cannot be read.
    """
    header = _read(path, tags)
    return guarded(path, lambda: {one.keyword: one.value for one in header if one.keyword in tags})


def images_of(path: Path) -> list[DicomImage]:
    """The images of one file.

    Raises:
        FileError: they are of another kind, or an element that gives the place of an image is missing or wrong.
    """
    return guarded(path, lambda: _images(path))


def _images(path: Path) -> list[DicomImage]:
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    header = _read(path, [*_TAGS, *groups, (0x0043, 0x0010), _GE])
    said: dict[str, Any] = {one.keyword: one.value for one in header if one.keyword in _TAGS}
    modality = str(said.get("Modality"))
    if modality != "MR":
        other = f"its Modality is {modality}" if modality in _MODALITIES else "its Modality is not MR"
        raise FileError(path, f"{other}; magnitude images of MR are expected.")
    if said.get("SamplesPerPixel", 1) != 1 or said.get("PhotometricInterpretation") != "MONOCHROME2":
        raise FileError(path, "is a colour or inverted image (PhotometricInterpretation is not MONOCHROME2).")
    if "MOSAIC" in _words(said.get("ImageType")):
        raise FileError(path, "is a mosaic, with several slices in one picture; convert it to NIfTI first (dcm2niix).")
    if _GE in header:
        said["GE"] = header[_GE].value
    count = int(said.get("NumberOfFrames") or 1)
    frames = list(header.get(groups[1]) or [])
    if count > 1 and len(frames) != count:
        raise FileError(path, f"has {count} frames, and the places of {len(frames)}.")
    shared = list(header.get(groups[0]) or [])
    return [_image(path, number, said, [*shared, *frames[number : number + 1]]) for number in range(count)]


def _image(path: Path, frame: int, said: dict[str, Any], groups: list[Any]) -> DicomImage:
    own = dict(said)
    for group in groups:
        for name in _GROUPS:
            for item in list(group.get(name) or [])[:1]:
                own.update({one.keyword: one.value for one in item if one.keyword in _TAGS})
    position, axes, spacing = (
        _numbers(path, own, name, count)
        for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    )
    directions = axes.reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=0.01):
        raise FileError(path, "ImageOrientationPatient is not two directions at a right angle.")
    if spacing.min() <= 0:
        raise FileError(path, f"PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm.")
    scale = float(own.get("RescaleSlope", 1)), float(own.get("RescaleIntercept", 0))
    if not np.isfinite(scale).all() or scale[0] == 0:
        raise FileError(path, f"RescaleSlope and RescaleIntercept are {scale[0]:g} and {scale[1]:g}.")
    order = (*(_first(own.get(name) or own.get(_ENHANCED.get(name, name))) for name in _ORDER), frame)
    thickness = float(own.get("SliceThickness") or 0)
    thickness = thickness if 0 < thickness < np.inf else 0.0
    return DicomImage(
        path,
        frame,
        position,
        directions,
        (float(spacing[0]), float(spacing[1])),
        thickness,
        scale,
        _kind(own),
        order,
        shape=(int(own.get("Rows", 0)), int(own.get("Columns", 0))),
        uid=(str(own.get("SOPInstanceUID", path)), frame),
        tesla=float(own.get("MagneticFieldStrength") or 0),
        contrast=_contrast(own),
        phase_encoded=bool(own.get("InPlanePhaseEncodingDirection")),
        lossy=own.get("LossyImageCompression") == "01",
    )


def _numbers(path: Path, said: dict[str, Any], name: str, count: int) -> NDArray[np.float64]:
    given = said.get(name)
    values = np.array([] if given is None else [float(one) for one in given])
    if len(values) != count or not np.isfinite(values).all():
        raise FileError(path, f"{name} is missing, or is not {count} numbers: the place of the image is not known.")
    return values


def _first(given: Any) -> float:
    """A number, or the first of several; 0 if there is none."""
    return float(np.ravel(given)[0]) if given not in (None, "") and np.size(given) else 0.0


def _words(listed: Any) -> set[str]:
    """The values of an ImageType after the second."""
    return {str(one).strip().upper() for one in ([listed] if isinstance(listed, str) else list(listed or []))[2:]}


def _kind(said: dict[str, Any]) -> str | None:
    """What an image is, if it is no magnitude."""
    words = _words(said.get("FrameType") or said.get("ImageType"))
    component, ge = str(said.get("ComplexImageComponent", "")).lower(), said.get("GE")
    number = int.from_bytes(ge[:2], "little") if isinstance(ge, bytes) else int(ge or 0)
    found = [component] if component in _OTHERS else [kind for kind, names in _OTHERS.items() if words & names]
    found += ["phase", "real", "imaginary"][number - 1 : number] if number else []
    return found[0] if found else "computed maps" if any(word.endswith((" MAP", "_MAP")) for word in words) else None


def pixels_of(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The stored values (frames, rows, columns), not scaled, and which of them the file names as padding.

    Raises:
        FileError: the pixels are damaged, or nothing is installed that decodes them.
    """
    return guarded(path, lambda: _pixels(path))


def _pixels(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    from pydicom.pixels.decoders.base import get_decoder

    data = _read(path, _PIXELS, pixels=True)
    syntax = data.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise FileError(path, f"is compressed ({syntax.name}); pydicom needs a package that decodes it (pylibjpeg).")
    array: NDArray[Any] = np.asarray(data.pixel_array)
    array = array if array.ndim == 3 else array[None]
    first, last = (data.get(name) for name in _PADDING)
    padding = np.zeros(array.shape, bool)
    if array.dtype.kind in "iu" and first not in (None, ""):
        ends = [_stored(one, array.dtype) for one in (first, last) if one not in (None, "")]
        padding = (array >= min(ends)) & (array <= max(ends))
    return array, padding


def _stored(value: Any, dtype: np.dtype[Any]) -> int:
    """A value of the header as the pixels store it: some writers give a signed one as unsigned, or the reverse."""
    lowest = int(np.iinfo(dtype).min)
    return (int(value) - lowest) % (1 << 8 * dtype.itemsize) + lowest


def _contrast(said: dict[str, Any]) -> str:
    """The contrast that the header says, as one of a few words; free text may hold a name, so none of it is kept."""
    stated = str(said.get("AcquisitionContrast", "")).upper()
    if stated in _CONTRASTS or stated in _SAID:
        return _CONTRASTS.get(stated, stated.lower())
    for name in ("SeriesDescription", "ProtocolName"):
        found = {"t2star" if star else word for star, word in _WORDS.findall(str(said.get(name, "")).casefold())}
        found -= {"t2"} if "flair" in found else set()
        if len(found) == 1:
            return found.pop()
    return ""
