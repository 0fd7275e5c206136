"""What a hospital's scanner does: its sequence, field, geometry, coils and faults, one line a contrast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrecon.sites.phantom.contrast import GradientEcho, InversionRecovery, Sequence, SpinEcho


@dataclass(frozen=True)
class Protocol:
    """A hospital's protocol.

    ``field_of_view_mm`` over the matrix size is the voxel; ``slice_mm`` is the thickness over which tissue
    mixes. ``n_coils`` is the default number of receive coils. ``snr`` is the mean signal of brain tissue over
    the noise's standard deviation (per real and imaginary part, coils combined with maps of unit sum of
    squares), at any matrix size. ``bias`` is the standard deviation of the log of the shading, ``phase`` of
    the image phase in radians. ``fat_suppression`` is the share of the fat signal that the scanner removes.
    """

    sequence: Sequence
    field_strength_t: float
    field_of_view_mm: float
    slice_mm: float
    n_coils: int
    snr: float
    bias: float
    phase: float
    fat_suppression: float


# Two hospitals send data that their scanner combined to one channel (cheap, as the single-coil track of
# fastMRI) and two send four coils: an experiment on the default consortium runs both paths, and four coils
# keep the demo quick.
PROTOCOLS: Mapping[str, Protocol] = {
    "t1w": Protocol(GradientEcho(250, 4, 70), 3.0, 230.0, 3.0, 1, 45.0, 0.10, 0.7, 0.5),
    "t2w": Protocol(SpinEcho(5000, 100), 1.5, 240.0, 5.0, 4, 30.0, 0.06, 0.5, 0.0),
    "pdw": Protocol(SpinEcho(3000, 20), 1.5, 250.0, 4.0, 1, 50.0, 0.05, 0.9, 0.3),
    "flair": Protocol(InversionRecovery(9000, 2500, 120), 3.0, 235.0, 4.0, 4, 22.0, 0.14, 0.6, 0.3),
}
