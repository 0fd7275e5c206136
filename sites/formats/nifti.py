"""NIfTI magnitude volumes: their k-space is simulated, and the shard says so.

The volume is turned to the nearest RAS+ axes and cut into slices (``nifti_file`` says along which axis). An axial image
then has anterior up, a sagittal or coronal image has superior up, and the patient's left (or posterior) is on the
right. Slices run from inferior, left or posterior. Zeros pad the shorter side to a square field of view in mm. K-space
is cropped centrally to N x N, which gives square voxels of field of view / N without interpolation. The magnitude of
that image is the reference. Intensities keep the file's arbitrary units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrecon.sites.data.volume import Complex, Real, VolumeData
from fedrecon.sites.formats.format import Format, Label
from fedrecon.sites.formats.magnitude import EMPTY, interpolated, kept_slices, low_pass, noise_gain, smooth_phase
from fedrecon.sites.formats.nifti_file import NiftiVolume, forms, open_nifti, plausible
from fedrecon.sites.formats.record import FileRecord
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy
from fedrecon.sites.plugin import Seed


class NIfTI(Format):
    """Magnitude volumes, one in each file.

    Attributes:
        size: matrix size N; None keeps the native size.
        phase: ``smooth`` multiplies the image by a seeded smooth phase. ``none`` leaves the image real: its k-space
            is then conjugate-symmetric, which makes the reconstruction easier than in reality.
        seed: seed of the phase.
        plane: plane of the slices, or the number of the file's voxel axis across them; None follows the file.
        volume: number of the volume (from 0) in files with several.
        zero: values that become zero: ``nan`` (NaN and infinity), ``negative`` (small ones: 1 % of the power at most).
        slices: ``anatomy`` leaves out end slices with little anatomy, ``all`` keeps all slices that are not empty.
    """

    size: Annotated[int, Field(ge=8, le=4096)] | None = None
    phase: Literal["none", "smooth"] = "smooth"
    seed: Seed = 0
    plane: Literal["axial", "coronal", "sagittal", "0", "1", "2"] | None = None
    volume: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    zero: tuple[Literal["nan", "negative"], ...] = ()
    slices: Literal["anatomy", "all"] = "anatomy"
    suffixes: ClassVar[tuple[str, ...]] = (".nii", ".nii.gz")
    simulated: ClassVar = True
    summary: ClassVar = "NIfTI magnitude volumes; the k-space is simulated (--size, --phase none|smooth)"

    @property
    def phase_kind(self) -> str:
        """The option ``phase``."""
        return self.phase

    def noise(self, kspace: Complex, gain: float = 1.0) -> float | None:
        """The given level, else None: the noise of a magnitude image is not complex, and masked air holds none."""
        return None if self.noise_sigma is None else super().noise(kspace, gain)

    def load(self, source: Path, label: Label, record: FileRecord) -> VolumeData:
        """The volume in one file, without its end slices.

        Raises:
            InputError: see :func:`open_nifti` and :func:`low_pass`.
        """
        return self.simulate(open_nifti(source, record, self.plane, self.volume, self.zero), label, record)

    def simulate(self, found: NiftiVolume, label: Label, record: FileRecord) -> VolumeData:
        """The volume whose k-space follows from these magnitudes, without its end slices.

        Raises:
            InputError: see :func:`low_pass`.
        """
        # The phase follows from the pseudonym: a seed from the file's name would let anyone test a name on the k-space.
        magnitude, voxel_mm = found.slices()
        record.slices = len(magnitude)
        kept, record.dropped = kept_slices(magnitude, self.slices == "all")
        if 2 * len(kept) < record.slices - len(record.dropped.get(EMPTY, ())):
            record.note(
                "most-slices-left-out",
                f"{record.slices - len(kept)} of {record.slices} slices are left out, {kept[0]} to {kept[-1]} kept "
                "(--slices all keeps them)",
            )
        magnitude = magnitude[kept]
        share = interpolated(magnitude)
        if share and (self.size is None or self.size > min(np.array(share) * magnitude.shape[1:])):
            record.note(
                "interpolated",
                f"only about {share[0]:.0%} x {share[1]:.0%} (y, x) of k-space was measured, the rest is zero-filled: "
                "scores would be too good; --size N takes a smaller matrix",
            )
        native = magnitude.shape[1:]
        gain = noise_gain((native[0], native[1]), voxel_mm, self.size)
        reference, voxel_mm = low_pass(magnitude, voxel_mm, self.size)
        ny, nx = reference.shape[1:]
        record.crop = ((native[0], native[1]), (ny, nx))
        size_mm = plausible(voxel_mm, record)
        record.field_of_view_mm = size_mm and (ny * size_mm[1], nx * size_mm[2])
        image: Complex = reference.astype(np.complex64)
        if self.phase == "smooth":
            image = image * smooth_phase(image.shape, self.seed, label.name)
        kspace = fft2c_numpy(image)[:, None]
        return VolumeData(
            label.name,
            label.subject,
            label.split,
            kspace,
            reference,
            self.noise(kspace, gain),
            voxel_mm=size_mm,
        )


def load_magnitude(path: Path) -> tuple[Real, tuple[float, float, float]]:
    """The volume (slices, y, x) float32, turned as the module describes, and its voxel size (slice, y, x) in mm.

    Raises:
        FileError: see :func:`open_nifti`.
    """
    return open_nifti(path, FileRecord()).slices()


def save_enlarged(path: Path, source: Path, images: Real, scale: int, note: str = "") -> None:
    """Writes enlarged images as NIfTI, in the voxel axes and the spaces of the file ``source``.

    Voxels are ``scale`` times smaller within the slices; scale x scale new voxels exactly cover one old voxel. The two
    forms of the header may lead to two spaces: each is that of the source, under its code, and so are the voxel sizes.

    Args:
        path: the file to write.
        source: the NIfTI file that :func:`load_magnitude` read as (slices, y, x).
        images: its enlarged images (slices, scale y, scale x).
        scale: the enlargement along y and x.
        note: the text of the header field ``descrip``, at most 79 characters.
    """
    import nibabel

    found = open_nifti(source, FileRecord())
    first, second = (axis for axis in range(3) if axis != found.across)
    turned = images[:, ::-1, ::-1].transpose(np.argsort((found.across, second, first)))
    own = np.abs(found.turn[:3, :3]).argmax(axis=1)  # the turned axis of each axis of the file
    backwards = tuple(axis for axis in range(3) if found.turn[axis, own[axis]] < 0)
    values = np.flip(turned.transpose(own), backwards)
    shrink = np.where(own == found.across, 1, 1 / scale)

    header: Any = nibabel.Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_xyzt_units(*found.header.get_xyzt_units())
    for name, matrix, code in forms(found.header):
        if matrix is not None:
            matrix = matrix @ np.diag([*shrink, 1])
            matrix[:3, 3] += matrix[:3, :3] @ (1 - 1 / shrink) / 2  # the corner of the first voxel stays
        getattr(header, f"set_{name}")(matrix, code)
    header["descrip"] = note.encode()
    lengths = np.array(found.voxel)[own]
    stated = found.header["pixdim"][1:4]
    header["pixdim"][1:4] = shrink * np.where(np.isfinite(stated) & (stated > 0), stated, lengths)
    made: Any = nibabel.Nifti1Image(np.ascontiguousarray(values), None, header)  # type: ignore[no-untyped-call]
    made.set_data_dtype(np.float32)
    nibabel.save(made, path)
