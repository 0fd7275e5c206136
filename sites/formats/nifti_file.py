"""Opens NIfTI files: content that is complete, an affine and voxel sizes that agree, real values cut into slices.

A header says some things twice. Where two statements disagree, the one that can be proven is taken and noted; where
none can, the file is refused.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.data.volume import Real
from fedrecon.sites.errors import FileError
from fedrecon.sites.formats.record import FileRecord

PLANES = ("sagittal", "coronal", "axial")
"""The plane of a slice, by the RAS+ axis across it."""

_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_VOXEL_MM = (0.001, 100.0)
_MOST_DEFLATED = 1100  # deflate makes nothing more than 1032 times smaller
_NEGATIVE_POWER = 0.01
_SAMPLE = 10_000  # voxels that are looked at for their different values
_FEW = 8
_TOLERANCE = 0.01  # voxel sizes that differ by less are the same


@dataclass(frozen=True)
class NiftiVolume:
    """One volume of a file, turned to the nearest RAS+ axes.

    Attributes:
        header: the header, as nibabel reads it; None where the file is no NIfTI.
        values: (x, y, z) float32.
        affine: from these axes to the space of the file, in the file's unit.
        voxel: voxel sizes (x, y, z) in mm.
        across: the axis across the slices.
        turn: from these axes to the voxel axes of the file, (4, 4): a permutation, with -1 where an axis was reversed.
    """

    header: Any
    values: Real
    affine: NDArray[np.float64]
    voxel: tuple[float, float, float]
    across: int
    turn: NDArray[np.float64]

    def slices(self) -> tuple[Real, tuple[float, float, float]]:
        """The images (slices, y, x), and the voxel size (slice, y, x) in mm."""
        first, second = (axis for axis in range(3) if axis != self.across)
        turned = self.values.transpose(self.across, second, first)[:, ::-1, ::-1]
        return np.ascontiguousarray(turned), (self.voxel[self.across], self.voxel[second], self.voxel[first])


def open_nifti(
    path: Path,
    record: FileRecord,
    plane: str | None = None,
    volume: int | None = None,
    zero: tuple[str, ...] = (),
) -> NiftiVolume:
    """One volume of the file ``path``. What was found and decided is written to ``record``.

    Args:
        plane: ``axial``, ``coronal``, ``sagittal``, or the number of the file's voxel axis across the slices. Default:
            the axis of length one, else the slice axis of ``dim_info``, else the axis of the thickest voxels (the
            foot-head axis where all are equal).
        volume: number of the volume in a file with several, from 0.
        zero: values that become zero: ``nan``, ``negative``.

    Raises:
        FileError: the file is no NIfTI or is damaged, the dimensions cannot be right, affine and voxel sizes are
            singular or disagree, or values are no magnitudes.
    """
    image = _image(path)
    affine = _affine(path, image.header, plane, record)
    values = _values(path, image, volume, record)
    sizes, unit = _sizes(path, image.header, affine, values.shape, record)
    record.scale = _scale(image)
    axis = image.header.get_dim_info()[2]
    stated = None if axis is None else (axis, "dim_info")
    return oriented(path, record, values, affine, [size * unit for size in sizes], stated, plane, zero, image.header)


def oriented(
    path: Path,
    record: FileRecord,
    values: NDArray[Any],
    affine: NDArray[np.float64],
    sizes_mm: Sequence[float],
    stated: tuple[int, str] | None,
    plane: str | None,
    zero: tuple[str, ...],
    header: Any = None,
) -> NiftiVolume:
    """The magnitudes ``values``, turned to the nearest RAS+ axes. What was found and decided is written to ``record``.

    Args:
        values: the values by the file's axes.
        affine: from these axes to RAS+.
        sizes_mm: voxel sizes by these axes.
        stated: the axis across the slices that the file states, and where it does.
        plane, zero: see :func:`open_nifti`.

    Raises:
        FileError: values are no magnitudes, or the plane is not there.
    """
    import nibabel

    orientations: Any = nibabel.orientations
    turn: Any = orientations.io_orientation(affine)
    to = [int(axis) for axis in turn[:, 0]]
    letters = "".join(orientations.aff2axcodes(affine))
    record.orientation = letters + _oblique(affine, to)
    turned = orientations.apply_orientation(_magnitude(path, values, zero, record), turn)
    back: NDArray[np.float64] = orientations.inv_ornt_aff(turn, values.shape)
    voxel = [0.0] * 3
    for axis, size in zip(to, sizes_mm, strict=True):
        voxel[axis] = size
    across, record.rule = _slice_axis(path, turned.shape, voxel, plane, to, stated)
    record.plane = PLANES[across]
    kept = (voxel[0], voxel[1], voxel[2])
    return NiftiVolume(header, turned.astype(np.float32), affine @ back, kept, across, back)


def plausible(voxel: tuple[float, float, float], record: FileRecord) -> tuple[float, float, float] | None:
    """The voxel size in mm, or None with a note if no scanner measures such voxels."""
    if all(_VOXEL_MM[0] <= size <= _VOXEL_MM[1] for size in voxel):
        return voxel
    shown = " x ".join(f"{size:g}" for size in voxel)
    record.note("voxel-size-unknown", f"voxels of {shown} mm cannot be right (is the unit in the header?)")
    return None


def _image(path: Path) -> Any:
    """The image of a complete file, whose data are not scaled yet."""
    import nibabel

    head = _read(path, 540)
    size = int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")
    kinds: dict[int, Any] = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}
    found = [kind for number, kind in kinds.items() if number in size]
    if not found or len(head) < found[0].header_class.sizeof_hdr:
        raise FileError(path, "is not a NIfTI volume, or is truncated.")
    # A rounding error in a quaternion is accepted: nibabel's own limit is a few units of float32.
    header: Any = type("Header", (found[0].header_class,), {"quaternion_threshold": 1e-5})
    kind: Any = type("Image", (found[0],), {"header_class": header})
    try:
        with _quiet():
            about = kind.header_class.from_fileobj(io.BytesIO(head))
        dtype = about.get_data_dtype()
        dims = [int(n) for n in about["dim"][1 : 1 + min(max(int(about["dim"][0]), 0), 7)]]
        expected = int(about.get_data_offset()) + math.prod(dims) * dtype.itemsize
        if not dims or min(dims) < 1 or expected > _MOST_DEFLATED * path.stat().st_size:
            raise FileError(path, f"its dimensions {dims} are impossible for a file of {path.stat().st_size} bytes.")
        content = _read(path, expected)
        if len(content) < expected:
            raise FileError(path, f"is truncated: it holds {len(content)} of {expected} bytes.")
        if math.isinf(about["scl_slope"]) or math.isinf(about["scl_inter"]):
            raise FileError(path, f"its scale {about['scl_slope']:g} x + {about['scl_inter']:g} is not finite.")
        if dtype.kind not in "iuf":
            raise FileError(path, f"voxels are {dtype}; expected a real magnitude volume.")
        with _quiet():
            return kind.from_bytes(content)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise FileError(path, f"is not a NIfTI volume: {error}") from None
    except (ValueError, KeyError, OverflowError, MemoryError, OSError) as error:
        raise FileError(path, f"its header cannot be used: {error}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """nibabel does not log what it finds: what is wrong is said once, by the error."""
    import nibabel

    logger = nibabel.imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _read(path: Path, count: int) -> bytes:
    """The first bytes of the file, unpacked. All of a packed file is read, because its checksum stands at the end."""
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        if not packed:
            return plain.read(count)
        try:
            with gzip.open(plain) as file:
                content = file.read(count)
                while count > 540 and file.read(2**20):
                    pass
        except (EOFError, zlib.error, OSError) as error:
            raise FileError(path, f"is damaged or truncated: {error}") from None
    return content


def _affine(path: Path, header: Any, plane: str | None, record: FileRecord) -> NDArray[np.float64]:
    """The affine of the header: the sform; the qform if the sform is absent or cannot be used; or the voxel sizes."""
    candidates = []
    for name in ("sform", "qform"):
        try:
            matrix, code = getattr(header, f"get_{name}")(coded=True)
        except (ValueError, np.linalg.LinAlgError) as error:
            record.note("affine", f"its {name} cannot be used: {error}")
            continue
        if code:
            candidates.append((name, np.asarray(matrix, np.float64)))
    sound = [(name, matrix) for name, matrix in candidates if _sound(matrix)]
    for name, matrix in candidates:
        if not _sound(matrix):
            record.note("affine", f"its {name} is singular or not finite and is not used")
    if not sound:
        if candidates:
            raise FileError(path, f"its affine ({candidates[0][0]}) is singular or not finite.")
        record.note("no-orientation", "the header states no orientation: the default of the format is taken")
        base: NDArray[np.float64] = header.get_base_affine()
        if not _sound(base):
            raise FileError(path, "its affine (of the voxel sizes) is singular or not finite.")
        return base
    _compare(path, sound, plane, record)
    return sound[0][1]


def _compare(path: Path, sound: list[tuple[str, NDArray[np.float64]]], plane: str | None, record: FileRecord) -> None:
    import nibabel

    codes: Any = nibabel.orientations.aff2axcodes
    letters = ["".join(codes(matrix)) for _, matrix in sound]
    said = f"its sform says {letters[0]}, its qform {letters[-1]}"
    pairs = [{"L": "R", "P": "A", "I": "S"}.get(one, one) for one in "".join(letters)]
    if pairs[:3] != pairs[-3:] and plane is None:
        raise FileError(path, f"{said}: one of them is wrong, and they give other slices (--plane AXIS says which).")
    if len(set(letters)) > 1:
        record.note("orientations-differ", f"{said}; the sform is taken")


def forms(header: Any) -> Iterator[tuple[str, NDArray[np.float64] | None, int]]:
    """``sform`` and ``qform`` of a header with their codes; None and 0 where the header has none that can be used."""
    for name in ("sform", "qform"):
        try:
            matrix, code = getattr(header, f"get_{name}")(coded=True)
        except (ValueError, np.linalg.LinAlgError):
            matrix, code = None, 0
        usable = code and _sound(np.asarray(matrix, np.float64))
        yield name, (np.asarray(matrix, np.float64) if usable else None), int(code) if usable else 0


def _sound(affine: NDArray[np.float64]) -> bool:
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.all()) and abs(float(np.linalg.det(affine[:3, :3] / lengths))) > 1e-3


def _sizes(
    path: Path, header: Any, affine: NDArray[np.float64], shape: tuple[int, ...], record: FileRecord
) -> tuple[list[float], float]:
    """The voxel sizes by the file's axes, and their unit in mm."""
    lengths = [float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)]
    stated = [float(size) for size in header["pixdim"][1:4]]
    try:
        unit = _MM[header.get_xyzt_units()[0]]
    except KeyError:
        unit = 1.0
        record.note("unit-unknown", f"xyzt_units is {int(header['xyzt_units'])}: mm are taken")
    bad = [not (math.isfinite(size) and size > 0) for size in stated]
    differ = [
        not wrong and n > 1 and abs(size - length) > _TOLERANCE * length
        for wrong, n, size, length in zip(bad, shape, stated, lengths, strict=True)
    ]
    if not any(differ):
        return [length if wrong else size for wrong, size, length in zip(bad, stated, lengths, strict=True)], unit
    said = f"pixdim says voxels of {_shown(stated)}, the affine {_shown(lengths)}"
    if int(header["qform_code"]) == 0 and all(size == 1 for size in stated):
        record.note("voxel-sizes-differ", f"{said}: pixdim was never filled in, the affine is taken")
        return lengths, unit
    if int(header["qform_code"]) > 0 and int(header["sform_code"]) > 2:
        record.note("voxel-sizes-differ", f"{said}: the affine leads to a standard space, pixdim is taken")
        return stated, unit
    raise FileError(path, f"{said}: one of them is wrong.")


def _values(path: Path, image: Any, volume: int | None, record: FileRecord) -> NDArray[Any]:
    """The values of one volume (x, y, z), scaled as the header says, in at least 64 bits where they are scaled."""
    shape = tuple(image.shape)
    longer = [axis for axis in range(3, len(shape)) if shape[axis] > 1]
    if len(longer) > 1:
        raise FileError(path, f"has the shape {shape}; expected volumes (x, y, z) along one further axis.")
    count = shape[longer[0]] if longer else 1
    if volume is None and count > 1:
        raise FileError(path, f"has the shape {shape}: {count} volumes; --volume N takes one of them (from 0).")
    if (volume or 0) >= count:
        raise FileError(path, f"--volume {volume}: has {count} volume{'s' * (count > 1)}, counted from 0.")
    where = tuple(slice(None) if axis < 3 else (volume or 0 if axis in longer else 0) for axis in range(len(shape)))
    if count > 1:
        record.note("one-of-several", f"volume {volume} of {count}")
    meaning = image.header.get_intent("code")[0]
    if meaning:
        record.note("intent", f"intent_code is {meaning}: the header calls it no image but a result of that kind")
    slope, offset = (float(part) for part in (image.dataobj.slope, image.dataobj.inter))
    values = np.asarray(image.dataobj.get_unscaled() if len(shape) < 4 else image.dataobj.get_unscaled()[where])
    values = values.reshape(values.shape + (1,) * (3 - values.ndim))
    return values if (slope, offset) == (1, 0) else values * np.float64(slope) + offset


def _scale(image: Any) -> tuple[float, float]:
    return float(image.dataobj.slope), float(image.dataobj.inter)


def _magnitude(path: Path, values: NDArray[Any], zero: tuple[str, ...], record: FileRecord) -> NDArray[Any]:
    """The values, none of them NaN, infinite or negative."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        wrong = ~np.isfinite(values)
        if "nan" not in zero:
            share = f"{wrong.mean():.2%} of its voxels"
            raise FileError(path, f"holds NaN or infinity ({share}); --zero nan sets them to zero.")
        record.replaced["NaN or infinite"] = int(wrong.sum())
        values = np.where(wrong, 0, values)
    if values.dtype.kind != "u" and values.min(initial=0) < 0:
        below = values < 0
        power = values.astype(np.float64) ** 2
        part = float(power[below].sum() / power.sum())
        said = f"holds negative values ({values.min():g}; {below.mean():.2%} of its voxels, {part:.2%} of its power)"
        if part > _NEGATIVE_POWER:
            raise FileError(path, f"{said}; a magnitude volume is expected (is it CT, a phase or a difference?).")
        if "negative" not in zero:
            raise FileError(path, f"{said}; --zero negative sets them to zero.")
        record.replaced["negative"] = int(below.sum())
        values = np.where(below, 0, values)
    if not values.any():
        raise FileError(path, "is an all-zero image.")
    most, limits = float(values.max()), np.finfo(np.float32)
    if not float(limits.tiny) <= most <= float(limits.max):
        raise FileError(path, f"its largest value is {most:g}, which a float32 cannot hold.")
    # At random places: equal steps may all fall into one plane of the volume, which may be background.
    some = np.unique(values.ravel("K")[np.random.default_rng(0).integers(values.size, size=_SAMPLE)])
    if len(some) <= _FEW:
        record.note("few-values", f"its voxels have {len(some)} different values, as those of a mask or of labels")
    return values


def _slice_axis(
    path: Path,
    shape: tuple[int, ...],
    voxel: list[float],
    plane: str | None,
    to: list[int],
    stated: tuple[int, str] | None,
) -> tuple[int, str]:
    """The axis across the slices, and the rule that decided. Shape and voxel are in RAS+, ``stated`` is the file's."""
    single = [axis for axis in range(3) if shape[axis] == 1]
    if len(single) > 1:
        raise FileError(path, f"has the shape {shape}: a line is no image.")
    if plane is not None:
        across, rule = PLANES.index(plane) if plane in PLANES else to[int(plane)], "--plane"
        if single and across != single[0]:
            raise FileError(path, f"--plane {plane}: its only slice is {PLANES[single[0]]}.")
        return across, rule
    if single:
        return single[0], "axis of length one"
    if stated is not None:
        return to[stated[0]], stated[1]
    thickest = max(voxel)
    return max(axis for axis in range(3) if voxel[axis] > 0.99 * thickest), "thickest voxels"


def _oblique(affine: NDArray[np.float64], to: list[int]) -> str:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = [min(1.0, abs(float(axes[to[axis], axis]))) for axis in range(3)]
    degrees = math.degrees(math.acos(min(cosines)))
    return f", {degrees:.0f} degrees oblique" if degrees >= 1 else ""


def _shown(sizes: list[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
