"""NIfTI magnitude volumes: their k-space is simulated, and the shard says so.

The volume is turned to the nearest RAS+ axes and cut into slices along its thickest voxel axis (the foot-head axis
where all are equal). An axial image then has anterior up, a sagittal or coronal image has superior up, and the
patient's left (or posterior) is on the right. Slices run from inferior, left or posterior. Zeros pad the shorter side
to a square field of view in mm. K-space is cropped centrally to N x N, which gives square voxels of field of view / N
without interpolation. The magnitude of that image is the reference. Intensities keep the file's arbitrary units.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrecon.sites import seeding
from fedrecon.sites.data.volume import Complex, Real, VolumeData
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.format import Format, Label
from fedrecon.sites.formats.summary import Notes
from fedrecon.sites.plugin import Seed

FOREGROUND = 0.1  # a voxel is anatomy if it is above this part of the volume's 99th percentile
ANATOMY_SHARE = 0.5  # a slice is an end slice if its foreground is below this part of the best slice's foreground


class NIfTI(Format):
    """Magnitude volumes, one in each file.

    Attributes:
        size: matrix size N; None keeps the native size.
        phase: ``smooth`` multiplies the image by a seeded smooth phase. ``none`` leaves the image real: its k-space
            is then conjugate-symmetric, which makes the reconstruction easier than in reality.
        seed: seed of the phase.
    """

    size: Annotated[int, Field(ge=8, le=4096)] | None = None
    phase: Literal["none", "smooth"] = "smooth"
    seed: Seed = 0
    suffixes: ClassVar = (".nii", ".nii.gz")
    simulated: ClassVar = True
    summary: ClassVar = "NIfTI magnitude volumes; the k-space is simulated (--size, --phase none|smooth)"

    @property
    def phase_kind(self) -> str:
        """The option ``phase``."""
        return self.phase

    def noise(self, kspace: Complex) -> float | None:
        """The given level, else None: the noise of a magnitude image is not complex, and masked air holds none."""
        del kspace
        return self.noise_sigma

    def volume(self, source: Path, label: Label, notes: Notes) -> VolumeData:
        """The volume in one file, without its end slices.

        Raises:
            InputError: see :func:`load_magnitude` and :func:`low_pass`.
        """
        from fedrecon.sites.imaging.fourier import fft2c_numpy

        # The phase follows from the pseudonym: a seed from the file's name would let anyone test a name on the k-space.
        magnitude, voxel_mm = load_magnitude(source)
        magnitude = magnitude[anatomy(magnitude)]
        reference, voxel_mm = low_pass(magnitude, voxel_mm, self.size)
        image: Complex = reference.astype(np.complex64)
        if self.phase == "smooth":
            image = image * smooth_phase(image.shape, self.seed, label.name)
        kspace = fft2c_numpy(image)[:, None]
        notes.facts["phase"] = f"{self.phase}, simulated"
        return VolumeData(
            label.name,
            label.subject,
            label.split,
            kspace,
            reference,
            self.noise(kspace),
            voxel_mm=voxel_mm,
        )


def save_enlarged(path: Path, source: Path, images: Real, scale: int) -> None:
    """Writes enlarged images as NIfTI, in the space of the file ``source``.

    Voxels are ``scale`` times smaller within the slices; scale x scale new voxels exactly cover one old voxel.

    Args:
        path: the file to write.
        source: the NIfTI file that :func:`load_magnitude` read as (slices, y, x).
        images: its enlarged images (slices, scale y, scale x).
        scale: the enlargement along y and x.
    """
    import nibabel

    image: Any = nibabel.load(source)
    image = nibabel.as_closest_canonical(_one_volume(source, image))  # type: ignore[no-untyped-call]
    zooms = [float(zoom) for zoom in image.header.get_zooms()[:3]]
    across = _slice_axis(zooms)
    first, second = (axis for axis in range(3) if axis != across)
    values = images[:, ::-1, ::-1].transpose(np.argsort((across, second, first)))
    step = np.ones(4)
    step[[first, second]] = 1 / scale
    affine = image.affine @ np.diag(step)
    affine[:3, 3] += image.affine[:3, [first, second]].sum(axis=1) * (1 / scale - 1) / 2
    made: Any = nibabel.Nifti1Image(np.ascontiguousarray(values), affine)  # type: ignore[no-untyped-call]
    made.header.set_xyzt_units(*image.header.get_xyzt_units())
    made.set_sform(affine, int(image.header["sform_code"]) or 1)
    made.set_qform(affine, int(image.header["qform_code"]))
    nibabel.save(made, path)


def load_magnitude(path: Path) -> tuple[Real, tuple[float, float, float]]:
    """The volume (slices, y, x) float32, turned as the module describes, and its voxel size (slice, y, x) in mm.

    Raises:
        InputError: the file is not NIfTI or is truncated, or the volume is not three-dimensional, is complex or in
            colour, holds NaN or negative values, is all zero, or has wrong voxel sizes.
    """
    import nibabel

    try:
        image: Any = nibabel.load(path, mmap=False)  # a mapped file that is cut meanwhile kills its reader
        image = nibabel.as_closest_canonical(_one_volume(path, image))  # type: ignore[no-untyped-call]
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path}: is not a NIfTI volume: {error}") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read (truncated?): {error}") from None
    _check_magnitude(path, values)
    zooms = [float(zoom) for zoom in image.header.get_zooms()[:3]]
    if not all(np.isfinite(zoom) and zoom > 0 for zoom in zooms):
        raise InputError(f"{path}: the voxel sizes are {zooms} mm; expected finite numbers above 0.")
    across = _slice_axis(zooms)
    first, second = (axis for axis in range(3) if axis != across)
    turned = values.transpose(across, second, first)[:, ::-1, ::-1]
    return np.ascontiguousarray(turned), (zooms[across], zooms[second], zooms[first])


def anatomy(magnitude: Real) -> slice:
    """The slices to keep: the run of neighbouring slices with anatomy around the slice that has most anatomy.

    A slice has anatomy when its foreground (voxels above a tenth of the volume's 99th percentile) is at least half
    of the foreground of the best slice.
    """
    foreground = magnitude > FOREGROUND * np.quantile(magnitude, 0.99)
    area = foreground.mean(axis=(1, 2))
    best = int(area.argmax())
    poor = np.flatnonzero(area < ANATOMY_SHARE * area[best])
    start = int(max(poor[poor < best], default=-1)) + 1
    return slice(start, int(min(poor[poor > best], default=len(area))))


def low_pass(
    magnitude: Real, voxel_mm: tuple[float, float, float], size: int | None
) -> tuple[Real, tuple[float, float, float]]:
    """The magnitude image (slices, N, N) of the central k-space, over the square field of view, and its voxel size.

    Args:
        magnitude: images (slices, y, x).
        voxel_mm: their voxel size (slice, y, x) in mm.
        size: matrix size N; None keeps the native voxels.

    Raises:
        InputError: ``size`` is larger than the native matrix.
    """
    from fedrecon.sites.imaging.fourier import fft2c_numpy, ifft2c_numpy

    thickness, dy, dx = voxel_mm
    ny, nx = magnitude.shape[1:]
    field = max(ny * dy, nx * dx)
    square = max(ny, round(field / dy)), max(nx, round(field / dx))
    padded = centre(magnitude, square)
    if size is None:
        return padded, voxel_mm
    if size > min(square):
        raise InputError(f"--size {size} is more than the {min(square)} pixels of the image's shorter side.")
    image = ifft2c_numpy(centre(fft2c_numpy(padded), (size, size)))
    scale = np.float32(size / np.sqrt(square[0] * square[1]))  # two FFT sizes, both orthonormal: keeps intensities
    return np.abs(image) * scale, (thickness, field / size, field / size)


def centre(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Crops the last two axes, or pads them by zeros, so that the sample at N//2 stays at N//2."""
    for axis, n in zip((-2, -1), shape, strict=True):
        before = n // 2 - array.shape[axis] // 2
        if before > 0 or n > array.shape[axis]:
            width = [(0, 0)] * array.ndim
            width[axis] = (before, n - array.shape[axis] - before)
            array = np.pad(array, width)
        else:
            array = array.take(np.arange(-before, n - before), axis)
    return array


def smooth_phase(shape: tuple[int, ...], seed: int, volume: str) -> Complex:
    """Unit phasors (slices, y, x) whose angle is a random product of low-order polynomials in y, x and slice.

    Angles have a standard deviation of 1 rad around a random offset. This is like the phase from the receive coil and
    from susceptibility in a head: about one to two turns across the field of view.
    """
    rng = seeding.generator(seed, "phase", volume)
    axes = [np.polynomial.legendre.legvander(np.linspace(-1, 1, n) if n > 1 else np.zeros(1), 3) for n in shape]
    weights = rng.normal(size=(2, 4, 4))  # order 1 along the slices, 3 within them
    z, y, x = np.indices(weights.shape)
    weights[(y + x > 3) | (z + y + x == 0)] = 0
    angle = np.einsum("zyx,az,by,cx->abc", weights / (1 + y + x), axes[0][:, :2], axes[1], axes[2])
    angle *= 1 / max(float(angle.std()), 1e-6)
    phasor: Complex = np.exp(1j * (angle + rng.uniform(-np.pi, np.pi))).astype(np.complex64)
    return phasor


def _one_volume(path: Path, image: Any) -> Any:
    """The image without a fourth axis of length one. An image that is not a real 3D volume is refused."""
    raw = np.dtype(image.get_data_dtype())
    if raw.kind not in "iuf":
        raise InputError(f"{path}: voxels are {raw}; expected a real magnitude volume.")
    if 0 in image.shape:
        raise InputError(f"{path}: has the shape {image.shape}: zero slices.")
    if len(image.shape) == 3:
        return image
    if len(image.shape) == 4 and image.shape[3] == 1:
        return image.slicer[..., 0]
    raise InputError(f"{path}: has the shape {image.shape}; expected one volume (x, y, z).")


def _slice_axis(zooms: list[float]) -> int:
    thickest = max(zooms)
    return max(axis for axis in range(3) if zooms[axis] > 0.99 * thickest)


def _check_magnitude(path: Path, values: Real) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds NaN or infinity.")
    if values.min() < 0:
        raise InputError(f"{path}: holds negative values ({values.min():g}); a magnitude volume is expected.")
    if not values.any():
        raise InputError(f"{path}: is an all-zero image.")
