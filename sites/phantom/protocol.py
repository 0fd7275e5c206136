"""The protocols of the simulated hospitals: sequence, field strength, geometry, coils and imperfections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedrecon.sites.phantom.contrast import GradientEcho, InversionRecovery, Sequence, SpinEcho


@dataclass(frozen=True)
class Protocol:
    """A hospital's protocol.

    Attributes:
        sequence: the pulse sequence.
        field_strength_t: field strength in tesla.
        field_of_view_mm: side of the square field of view in mm; divided by the matrix size it is the pixel size.
        slice_mm: thickness of a slice in mm, over which tissues mix.
        n_coils: default number of receive coils.
        snr: mean signal of brain tissue over the standard deviation of the noise (of the real and of the
            imaginary part, coils combined with maps of unit sum of squares), at any matrix size.
        bias: standard deviation of the logarithm of the shading.
        phase: standard deviation of the image phase in radians.
        fat_suppression: share of the fat signal that the scanner removes.
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


# Two hospitals have data that their scanner combined to one channel (this is cheap, and like the single-coil
# track of fastMRI). Two have four coils. So an experiment on the default consortium uses both cases, and four
# coils keep the demo quick.
PROTOCOLS: Mapping[str, Protocol] = {
    "t1w": Protocol(GradientEcho(250, 4, 70), 3.0, 230.0, 3.0, 1, 45.0, 0.10, 0.7, 0.5),
    "t2w": Protocol(SpinEcho(5000, 100), 1.5, 240.0, 5.0, 4, 30.0, 0.06, 0.5, 0.0),
    "pdw": Protocol(SpinEcho(3000, 20), 1.5, 250.0, 4.0, 1, 50.0, 0.05, 0.9, 0.3),
    "flair": Protocol(InversionRecovery(9000, 2500, 120), 3.0, 235.0, 4.0, 4, 22.0, 0.14, 0.6, 0.3),
}


def own_scanner(protocol: Protocol, random: np.random.Generator) -> Protocol:
    """A scanner of another maker for the same contrast: sequence, field strength, fat and slice thickness stay.

    Drawn are the field of view (up to 6 % more), coils (1 to 8), SNR (times 0.6 to 1.7), shading and phase (times 0.5
    to 2).
    """
    factors = np.exp(random.uniform(-1, 1, 3) * np.log([1.7, 2.0, 2.0]))
    return replace(
        protocol,
        field_of_view_mm=round(protocol.field_of_view_mm * random.uniform(1.0, 1.06), 1),
        n_coils=int(random.choice([1, 2, 4, 8])),
        snr=protocol.snr * float(factors[0]),
        bias=protocol.bias * float(factors[1]),
        phase=protocol.phase * float(factors[2]),
    )
