"""ISMRMRD (MRD) files: ``dataset/xml`` and ``dataset/data`` (Inati et al., Magn Reson Med 77:411, 2017).

Cartesian 2-D multi-slice scans, and 3-D scans, which are decoupled: the inverse transform along the readout makes each
position of the readout a slice, whose axes are the two encodings. What else a file may hold is refused by its name.
The file is read with h5py: it reads lines in blocks, needs no further library, and the checks of foreign HDF5 files
(:mod:`fedrecon.sites.data.self_contained`) hold for it. The library ``ismrmrd`` is the oracle of the tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.data.volume import Complex, VolumeData, check_layout
from fedrecon.sites.errors import FileError, InputError
from fedrecon.sites.formats.fastmri_header import read_header, scanner_of
from fedrecon.sites.formats.format import Label
from fedrecon.sites.formats.hdf5_file import opened
from fedrecon.sites.formats.ismrmrd_header import Header
from fedrecon.sites.formats.kspace import Measured, reference_of
from fedrecon.sites.formats.record import FileRecord

NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = (1 << (bit - 1) for bit in (19, 20, 21, 22))
OTHERS = {
    23: "navigator",
    24: "phase correction",
    26: "feedback",
    27: "dummy",
    28: "feedback",
    29: "surface coil correction",
    30: "phase stabilisation",
    31: "phase stabilisation",
}
"""Lines that are no part of an image, by the bit of their flag, counted from 1."""
COMPRESSED = sum(1 << (bit - 1) for bit in (53, 54, 55, 56))
ONE_IMAGE = ("contrast", "phase", "repetition", "set")
"""Counters that may have one value in a file: each of their values is an image by itself."""
APART = ("separate", "external")
"""Calibration modes whose lines another scan measured."""
_UNEQUAL = "lines were averaged in different numbers: there is no one noise level"
_TURNED = 0.01  # directions are unit vectors: 0.6 degrees
_INDEPENDENT = 1e-6  # smallest eigenvalue of the coils' noise correlation
_BLOCK = 512  # lines that are read at once
_MOST = 2**33  # samples of the encoded matrix over all coils and slices: 64 GiB


class ISMRMRD(Measured):
    """Files of ISMRMRD, one volume in each file."""

    suffixes: ClassVar = (".h5", ".hdf5", ".mrd")
    summary: ClassVar = "ISMRMRD (MRD) HDF5 files: Cartesian, 2-D multi-slice or 3-D; whitened by their noise scan"

    def person(self, source: Path) -> str | None:
        """The patient's id of the header."""
        with opened(source, "ismrmrd") as file:
            return Header(source, file).text("subjectInformation/patientID")

    def scanner(self, source: Path) -> str | None:
        """The scanner of the header."""
        with opened(source, "ismrmrd") as file:
            return scanner_of(read_header(source, "dataset/xml", file))

    def load(self, source: Path, label: Label, record: FileRecord) -> VolumeData:
        """The volume in one file.

        Raises:
            InputError: see :func:`fedrecon.sites.formats.hdf5_file.opened`; the header or the lines are not what the
                module reads; or lines and header contradict each other.
        """
        with opened(source, "ismrmrd") as file:
            header = Header(source, file)
            lines = _Lines(source, file, header, record)
            whitening, sigma = lines.whitening(header, record)
            kspace = lines.kspace(header)
        if whitening is not None:
            if self.noise_sigma is not None:
                raise FileError(source, "holds a noise scan, which says its noise level; leave --noise-sigma out.")
            for one in kspace:  # a slice at a time: a volume may be gigabytes
                one[:] = np.tensordot(whitening, one, 1)
        kspace, voxel = _in_slices(kspace, header, lines.readout, record)
        check_layout("its k-space", kspace, None)
        kspace = self.compressed(kspace, record)
        record.slices = len(kspace)
        record.field_of_view_mm = (kspace.shape[2] * voxel[1], kspace.shape[3] * voxel[2])
        reference = reference_of(kspace, record)
        if whitening is None:
            sigma = self.noise(kspace, lines.gain or 1.0)
            if self.noise_sigma is not None and lines.gain is None:
                record.note("noise-level-unknown", _UNEQUAL)
                sigma = None
        field = header.number("acquisitionSystemInformation/systemFieldStrength_T")
        crop = header.scored((kspace.shape[2], kspace.shape[3]), record)
        return VolumeData(
            label.name, label.subject, label.split, kspace, reference, sigma, voxel, field_strength_t=field, crop=crop
        )


class _Lines:
    """The lines of a file: which belong to the image, and where.

    Attributes:
        readout: first measured sample of the encoded readout, and one past the last.
        gain: by what the noise of a line's samples is multiplied, in the mean of its averages and, of a 3-D scan, in
            the transform along the readout, of which a part may be zero; None if lines have different averages.
    """

    def __init__(self, source: Path, file: h5py.File, header: Header, record: FileRecord) -> None:
        if "dataset/data" not in file or not len(file["dataset/data"]):
            raise FileError(source, "the dataset 'dataset/data' is missing or empty: it holds no line.")
        self._source, self._stored = source, file["dataset/data"]
        self._head = self._stored["head"]
        flags, index = self._head["flags"], self._head["idx"]
        noise = flags & NOISE != 0
        other = {bit: flags & (1 << (bit - 1)) != 0 for bit in OTHERS}
        image = ~noise & ~np.any(list(other.values()), axis=0)
        calibrates = image & (flags & CALIBRATION != 0) & (flags & CALIBRATION_AND_IMAGING == 0)
        self._noise = np.flatnonzero(noise)
        left_out = Counter({OTHERS[bit]: int(mine.sum()) for bit, mine in other.items()})
        mode = header.text("encoding/parallelImaging/calibrationMode")
        if calibrates.any() and mode in APART:
            left_out["calibration of another scan"] = int(calibrates.sum())
            record.note("calibration-left-out", f"its calibration lines are '{mode}': another scan measured them")
            image &= ~calibrates
            calibrates &= False
        if +left_out:
            record.facts["lines left out"] = ", ".join(f"{count} {kind}" for kind, count in sorted((+left_out).items()))
        self._refuse(flags, index, image)
        slices = np.unique(index["slice"][image])
        spots = np.stack(
            [
                np.searchsorted(slices, index["slice"]),
                index["kspace_encode_step_2"].astype(int) - header.centre(2) + header.encoded[2] // 2,
                index["kspace_encode_step_1"].astype(int) - header.centre(1) + header.encoded[1] // 2,
            ],
            axis=1,
        )
        sizes = (len(slices), header.encoded[2], header.encoded[1])
        if header.encoded[2] > 1 and len(slices) > 1:
            raise FileError(source, f"is a 3-D scan of {len(slices)} slabs; only one slab can be imported.")
        for axis, name in ((1, 2), (2, 1)):
            inside = (spots[image, axis] >= 0) & (spots[image, axis] < sizes[axis])
            if not inside.all():
                away = int(spots[image, axis][~inside][0]) + header.centre(name) - header.encoded[name] // 2
                raise FileError(
                    source,
                    f"a line has kspace_encode_step_{name} {away}, which lies outside the encoded matrix of "
                    f"{sizes[axis]} with its centre at {header.centre(name)}.",
                )
        self._place(image, calibrates, index["average"], spots, sizes, record)
        self.readout = self._readout(header, record)
        averages = np.unique(self.count[self.count > 0])
        share = (self.readout[1] - self.readout[0]) / header.encoded[0] if header.encoded[2] > 1 else 1.0
        self.gain = float(np.sqrt(share / averages[0])) if len(averages) == 1 else None

    def _refuse(self, flags: NDArray[Any], index: NDArray[Any], image: NDArray[np.bool_]) -> None:
        head = self._head[image]
        if not len(head):
            raise FileError(self._source, "holds no line of an image.")
        if (flags & COMPRESSED).any():
            raise FileError(self._source, "its lines are compressed; write it without compression.")
        if (flags[image] & REVERSE).any():
            raise FileError(self._source, "has lines that were read in reverse (EPI); they cannot be imported.")
        for name in ONE_IMAGE:
            values = np.unique(index[name][image])
            if len(values) > 1:
                raise FileError(self._source, f"holds {len(values)} values of '{name}'; expected one image in a file.")
        for name in (
            "encoding_space_ref",
            "active_channels",
            "number_of_samples",
            "center_sample",
            "discard_pre",
            "discard_post",
            "sample_time_us",
        ):
            values = np.unique(head[name])
            if len(values) > 1 or (name == "encoding_space_ref" and values[0]):
                shown = ", ".join(f"{value:g}" for value in values[:5])
                raise FileError(self._source, f"the lines of its image have the {name} {shown}; expected one value.")
        for name in ("read_dir", "phase_dir", "slice_dir"):
            if (np.ptp(head[name], axis=0) > _TURNED).any():
                raise FileError(
                    self._source, f"its lines differ in {name}: several planes (a localiser?), not one volume."
                )
        if head["trajectory_dimensions"].any():
            raise FileError(self._source, "its lines have trajectories: it is not Cartesian.")

    def _place(
        self,
        image: NDArray[np.bool_],
        calibrates: NDArray[np.bool_],
        average: NDArray[Any],
        spots: NDArray[Any],
        sizes: tuple[int, ...],
        record: FileRecord,
    ) -> None:
        """Keeps the lines of the image: calibration lines only where the image has none, each average once."""
        count = np.zeros(sizes, int)
        np.add.at(count, tuple(spots[image & ~calibrates].T), 1)
        numbers = np.flatnonzero(image)
        used = [n for n in numbers if not calibrates[n] or not count[tuple(spots[n])]]
        for n in used:
            if calibrates[n]:
                count[tuple(spots[n])] += 1
        known = Counter((*spots[n], average[n], calibrates[n]) for n in used)
        twice, times = known.most_common(1)[0]
        if times > 1:
            raise FileError(
                self._source,
                f"{times} lines have one slice, encoding and average (slice {twice[0]}, kspace_encode_step_1 at "
                f"{twice[2]}, average {twice[3]}); only lines of several averages can be joined.",
            )
        self._used, self._spots, self.count = used, spots, count
        if calibrates.any():
            filled = sum(calibrates[n] for n in used)
            record.facts["ACS lines"] = f"{filled} of {int(calibrates.sum())} calibration lines fill the k-space"
        several = np.unique(count[count > 0])
        if several[-1] > 1:
            record.facts["averages"] = " to ".join(map(str, sorted({several[0], several[-1]})))
        measured = [np.flatnonzero(count.any(axis=tuple({0, 1, 2} - {axis}))) for axis in (2, 1)]
        for name, steps, size in zip((1, 2), measured, sizes[:0:-1], strict=True):
            before, after = int(steps[0]), size - 1 - int(steps[-1])
            if abs(before - after) > max(2, size // 16):  # undersampling may leave a few lines out at an edge
                record.note(
                    "partial-fourier",
                    f"of {size} steps {name}, {steps[0]} to {steps[-1]} were measured: the others stay zero",
                )

    def _readout(self, header: Header, record: FileRecord) -> tuple[int, int]:
        head, size = self._head[self._used[0]], header.encoded[0]
        before = int(head["discard_pre"])
        count = int(head["number_of_samples"]) - before - int(head["discard_post"])
        if not 0 < count <= size:
            raise FileError(self._source, f"a line has {count} samples, and the encoded readout {size}.")
        centre = int(head["center_sample"])
        # Of a full line some writers leave the centre out (0), or count the samples before it from 1.
        full = count == size and (centre == 0 or abs(centre - before - size // 2) <= 1)
        start = 0 if full else size // 2 - (centre - before)
        if start < 0 or start + count > size:
            raise FileError(self._source, f"{count} samples with the centre {centre} leave the readout of {size}.")
        if count < size:
            record.note("partial-echo", f"of {size} samples of the readout {count} were measured: the others are zero")
        self._before = before
        return start, start + count

    def whitening(self, header: Header, record: FileRecord) -> tuple[NDArray[np.complex64] | None, float | None]:
        """The matrix (coils, coils) that makes the noise of the coils white with sigma 1, and the noise of the image.

        It is the inverse of the Cholesky factor of the coils' noise covariance (Pruessmann et al., Magn Reson Med
        46:638, 2001, eq. A4). The covariance is that of the noise scan, carried to the bandwidth of the image by the
        two sample times, and to the middle of the band by the header's relativeReceiverNoiseBandwidth. Both are None
        if there is no noise scan. The noise level alone is None if a sample time is unknown or if the lines were
        averaged in different numbers.
        """
        if not len(self._noise):
            record.facts["noise scan"] = "none"
            return None, None
        coils = int(self._head["active_channels"][self._used[0]])
        found = [line for _, line in self._read(self._noise)]
        if {len(line) for line in found} != {coils}:
            raise FileError(self._source, f"its noise scan has other coils than its image, which has {coils}.")
        noise = np.concatenate(found, axis=1).astype(np.complex128)
        samples = noise.shape[1]
        if samples < 2 * coils:
            raise FileError(
                self._source, f"its noise scan has {samples} samples for {coils} coils: it says too little."
            )
        covariance = noise @ noise.conj().T / (2 * samples)  # of the real part, which has half of the power
        own, image = (float(self._head["sample_time_us"][n]) for n in (self._noise[0], self._used[0]))
        timed = own > 0 and image > 0
        band = header.number("acquisitionSystemInformation/relativeReceiverNoiseBandwidth") or 1.0
        covariance *= own / image / band if timed else 1
        power = np.diag(covariance).real
        silent = [str(n) for n in np.flatnonzero(~(power > 0))]
        if silent:
            raise FileError(self._source, f"its noise scan cannot whiten: no noise in the coils {', '.join(silent)}.")
        if not np.linalg.eigvalsh(covariance / np.sqrt(np.outer(power, power)))[0] > _INDEPENDENT:
            raise FileError(self._source, "its noise scan cannot whiten: a coil's noise is that of other coils.")
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.complex64)
        record.facts["noise scan"] = f"whitens {coils} coils, {samples} samples"
        if not timed:
            record.note("noise-level-unknown", "the sample time of the noise scan or of the image is missing")
        elif self.gain is None:
            record.note("noise-level-unknown", _UNEQUAL)
        return whitening, self.gain if timed else None

    def kspace(self, header: Header) -> Complex:
        """The mean of the averages: (slices, coils, z, y, x), x the encoded readout, DC at N//2, zero elsewhere."""
        coils = int(self._head["active_channels"][self._used[0]])
        slices, depth, height = self.count.shape
        shape = (slices, coils, depth, height, header.encoded[0])
        if float(np.prod(shape, dtype=float)) > _MOST:
            raise FileError(self._source, f"its encoded matrix {shape} is too large.")
        kspace = np.zeros(shape, np.complex64)
        start, stop = self.readout
        for n, line in self._read(self._used):
            one, z, y = self._spots[n]
            kspace[one, :, z, y, start:stop] += line[:, self._before : self._before + stop - start]
        for one, z, y in np.argwhere(self.count > 1):
            kspace[one, :, z, y] /= self.count[one, z, y]
        return kspace

    def _read(self, numbers: Any) -> Iterator[tuple[int, Complex]]:
        """Number and samples (coils, samples) of lines. Neighbours are read at once."""
        wanted = np.zeros(len(self._head), bool)
        wanted[numbers] = True
        for first in range(0, len(wanted), _BLOCK):
            if not wanted[first : first + _BLOCK].any():
                continue
            block = self._stored[first : first + _BLOCK]["data"]
            for n in np.flatnonzero(wanted[first : first + _BLOCK]):
                head = self._head[first + n]
                shape = (int(head["active_channels"]), int(head["number_of_samples"]))
                values = np.ascontiguousarray(block[n], dtype=np.float32)
                if values.size != 2 * shape[0] * shape[1]:
                    raise FileError(
                        self._source, f"line {first + n} has {values.size // 2} samples; its head says {shape}."
                    )
                yield int(first + n), values.view(np.complex64).reshape(shape)


def _in_slices(
    kspace: Complex, header: Header, measured: tuple[int, int], record: FileRecord
) -> tuple[Complex, tuple[float, float, float]]:
    """K-space (slices, coils, y, x) without the readout's oversampling, and its voxel size (slice, y, x) in mm.

    2-D: y is the readout, x the encoding 1, as in fastMRI files. 3-D: y is the encoding 2, x the encoding 1.
    """
    size, keep = header.encoded[0], header.readout
    if keep < 1:
        raise InputError(f"its readout of {size} samples would be cut to {keep} by the fields of view of its header.")
    depth = header.encoded[2]
    if keep < size:
        record.facts["readout"] = f"{size} to {keep} samples, oversampling removed"
    along = header.encoded_mm[0] / size
    rows = header.encoded_mm[1] / header.encoded[1]
    if depth == 1 and keep == size:
        return np.ascontiguousarray(kspace[:, :, 0].swapaxes(-1, -2)), (header.encoded_mm[2], along, rows)
    first = size // 2 - keep // 2
    image = np.empty((*kspace.shape[:-1], keep), np.complex64)
    for number, one in enumerate(kspace):
        image[number] = _centred(np.fft.ifft, one)[..., first : first + keep]
    if depth > 1:
        found = np.ascontiguousarray(np.moveaxis(image[0], -1, 0))
        return found, (along, header.encoded_mm[2] / depth, rows)
    found = np.empty((len(image), image.shape[1], keep, image.shape[3]), np.complex64)
    for number, one in enumerate(image):
        found[number] = _centred(np.fft.fft, one)[:, 0].swapaxes(-1, -2)
    # The cut spreads a sample to its neighbours: what was not measured becomes zero again.
    at = (np.arange(keep) - keep // 2) * size / keep + size // 2
    found[:, :, (at < measured[0]) | (at >= measured[1])] = 0
    return found, (header.encoded_mm[2], along, rows)


def _centred(transform: Any, values: Complex) -> NDArray[Any]:
    """An orthonormal transform along the last axis, DC at N//2."""
    return np.fft.fftshift(transform(np.fft.ifftshift(values, axes=-1), norm="ortho"), axes=-1)
