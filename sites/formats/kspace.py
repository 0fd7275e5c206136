"""What formats of measured k-space share: complex numbers as files store them, sampling, reference and noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrecon.sites.data.fitting import COMPLETE, measured_box, sampled_share
from fedrecon.sites.data.volume import Complex, Real
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.format import Format
from fedrecon.sites.formats.record import FileRecord
from fedrecon.sites.imaging.numpy_fourier import root_sum_of_squares


class Measured(Format):
    """A format of measured k-space.

    Attributes:
        coils: number of virtual coils to which the measured ones are compressed; None keeps the measured ones.
    """

    coils: int | None = Field(None, ge=1, le=1024)

    def compressed(self, kspace: Complex, record: FileRecord) -> Complex:
        """K-space (slices, coils, y, x) of the virtual coils. The record says how much of the energy they hold.

        The virtual coils are the strongest singular vectors of the matrix (coils, samples) of the whole volume (Huang
        et al., Magn Reson Imaging 26:133, 2008; Buehrer et al., Magn Reson Med 57:1131, 2007). They are orthonormal,
        so white noise keeps its level, and a sample that was not measured stays zero.

        Raises:
            InputError: there are fewer coils.
        """
        if self.coils is None:
            return kspace
        n_coils = kspace.shape[1]
        if self.coils > n_coils:
            raise InputError(f"it has {n_coils} coil{'s' * (n_coils > 1)}; --coils {self.coils} is more.")
        power = np.zeros((n_coils, n_coils), complex)
        for one in kspace:  # a slice at a time: a volume may be gigabytes
            flat = one.reshape(n_coils, -1).astype(complex)
            power += flat @ flat.conj().T
        if not np.isfinite(power).all():
            return kspace[:, : self.coils]  # check_volume names NaN and infinity
        values, vectors = np.linalg.eigh(power)
        virtual = vectors[:, ::-1][:, : self.coils]
        largest = virtual[np.abs(virtual).argmax(axis=0), range(self.coils)]
        virtual = (virtual * (largest.conj() / np.abs(largest))).conj().T.astype(np.complex64)  # one of many phases
        kept = values[::-1][: self.coils].sum() / values.sum() if values.sum() else 0.0
        record.facts["coil compression"] = f"{n_coils} to {self.coils} coils, {100 * kept:.2f} % of the energy"
        found = np.empty((len(kspace), self.coils, *kspace.shape[2:]), np.complex64)
        for number, one in enumerate(kspace):
            found[number] = np.tensordot(virtual, one, 1)
        return found


_PARTIAL = {"partial-fourier", "partial-echo"}
"""Notes that say already which samples are zero."""


def as_complex(values: NDArray[Any], what: str) -> Complex:
    """Values as complex64, in the byte order of this machine.

    Args:
        values: complex numbers, records of two real fields (real, imaginary), or real numbers whose last axis has the
            length 2 (real, imaginary).
        what: name of the array, for the message.

    Raises:
        InputError: the values are of another kind, or finite values lie outside the range of complex64.
    """
    wide: NDArray[Any]
    names = values.dtype.names or ()
    if values.dtype.kind == "c":
        wide = values
    elif len(names) == 2 and all(values.dtype[name].kind in "iuf" for name in names):
        if not (names[0].lower().startswith("r") and names[1].lower().startswith("i")):
            raise InputError(f"{what} has the fields {', '.join(names)}; expected a real and an imaginary one.")
        wide = values[names[0]] + 1j * values[names[1]].astype(np.float64)
    elif values.dtype.kind in "iuf" and values.ndim > 2 and values.shape[-1] == 2:
        wide = values[..., 0] + 1j * values[..., 1].astype(np.float64)
    else:
        raise InputError(
            f"{what} is {values.dtype} of the shape {values.shape}; expected complex numbers, records of a real and an "
            "imaginary field, or a last axis of length 2 (real, imaginary)."
        )
    with np.errstate(over="ignore"):  # it is named below
        found: Complex = wide.astype(np.complex64)
    if wide.dtype.itemsize > 8 and not np.array_equal(np.isfinite(wide), np.isfinite(found)):
        raise InputError(f"{what} holds numbers above {np.finfo(np.float32).max:.3g}, the range of complex64.")
    if wide.dtype.itemsize > 8 and not np.array_equal(wide != 0, found != 0):
        raise InputError(f"{what} holds numbers below {np.finfo(np.float32).tiny:.3g}, the range of complex64.")
    return found


def peakedness(kspace: Complex, axis: int) -> float:
    """How many times more energy the window in the middle of an axis holds than if all its samples held the same.

    Along an axis of k-space it is several, along slices and coils about 1. The window is that of
    :func:`fedrecon.sites.data.centring.check_centred`.
    """
    energy = (np.abs(kspace).astype(np.float64) ** 2).sum(axis=tuple({*range(kspace.ndim)} - {axis % kspace.ndim}))
    n = len(energy)
    width = max(2, n // 64)
    inside = energy[max(0, n // 2 - width) : n // 2 + width + 1]
    return float(inside.mean() / energy.mean()) if energy.any() else 1.0


def reference_of(kspace: Complex, record: FileRecord) -> Real | None:
    """The root sum of squares of fully sampled k-space, or None. The record says what was found."""
    record.sampled = sampled_share(kspace)
    if record.sampled >= COMPLETE:
        measured: NDArray[np.bool_] = np.any(kspace != 0, axis=1)
        (y, x), (ny, nx) = (one.stop - one.start for one in measured_box(measured)), kspace.shape[-2:]
        if (y, x) != (ny, nx) and not _PARTIAL.intersection(note.kind for note in record.notes):
            record.note("zero-padded", f"measured {y} x {x} of {ny} x {nx} (y, x); the others stay zero, without noise")
        return root_sum_of_squares(kspace)
    record.note(
        "no-reference",
        f"a slice has {record.sampled:.0%} of its samples: it can be reconstructed, or train with loss: ssdu",
    )
    return None
