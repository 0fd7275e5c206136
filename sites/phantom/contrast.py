"""Signal equations and their tissue parameters at 1.5 T and 3 T. All times are in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, exp, radians, sin
from typing import Protocol


@dataclass(frozen=True)
class Tissue:
    """The relaxation times of a tissue in ms, and its proton density relative to water."""

    t1: float
    t2: float
    t2_star: float
    density: float


# Sources. T1 and T2 of white and grey matter and of muscle: Stanisz et al., MRM 54:507-512 (2005). T1 and T2 of
# fat and marrow: de Bazelaire et al., Radiology 230:652-659 (2004). T1 of CSF, the same at every field: Rooney et
# al., MRM 57:308-318 (2007). T2* of white and grey matter: Peters et al., MRI 25:748-753 (2007). Densities, and
# T2* of the other tissues at 1.5 T: the BrainWeb phantom (Kwan et al., IEEE TMI 18:1085-1097, 1999). These round
# numbers are ours: T2 of CSF, T2* of the other tissues at 3 T, the density of marrow, all values of bone (which
# gives no signal at these echo times) and of the lesion (an oedematous plaque between grey matter and CSF).
TISSUES: Mapping[float, Mapping[str, Tissue]] = {
    1.5: {
        "white": Tissue(884, 72, 66.2, 0.77),
        "grey": Tissue(1124, 95, 84.0, 0.86),
        "csf": Tissue(4300, 2000, 58, 1.0),
        "fat": Tissue(343, 58, 58, 1.0),
        "marrow": Tissue(549, 49, 30, 0.6),
        "muscle": Tissue(1008, 44, 30, 1.0),
        "bone": Tissue(250, 0.5, 0.5, 0.2),
        "lesion": Tissue(1500, 190, 120, 0.92),
    },
    3.0: {
        "white": Tissue(1084, 69, 53.2, 0.77),
        "grey": Tissue(1820, 99, 66.0, 0.86),
        "csf": Tissue(4300, 2000, 50, 1.0),
        "fat": Tissue(382, 68, 40, 1.0),
        "marrow": Tissue(586, 49, 20, 0.6),
        "muscle": Tissue(1412, 50, 25, 1.0),
        "bone": Tissue(250, 0.4, 0.4, 0.2),
        "lesion": Tissue(1950, 200, 100, 0.92),
    },
}


class Sequence(Protocol):
    """A pulse sequence: it turns a tissue into a signal. The signal has a sign if the sequence inverts."""

    def signal(self, tissue: Tissue) -> float:
        """The signal of the tissue, in units of the density of water."""
        ...


@dataclass(frozen=True)
class SpinEcho:
    """The spin echo, ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``, for TE well below TR.

    Source of the three sequences here: Bernstein, King and Zhou, Handbook of MRI Pulse Sequences (2004), chapter
    14.
    """

    repetition: float
    echo: float

    def signal(self, tissue: Tissue) -> float:
        """The signal of the tissue, in units of the density of water."""
        return tissue.density * (1 - exp(-self.repetition / tissue.t1)) * exp(-self.echo / tissue.t2)


@dataclass(frozen=True)
class InversionRecovery:
    """A spin echo after an inversion, ``PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)``."""

    repetition: float
    inversion: float
    echo: float

    def signal(self, tissue: Tissue) -> float:
        """The signal of the tissue, in units of the density of water. It is negative before the tissue's null."""
        recovered = 1 - 2 * exp(-self.inversion / tissue.t1) + exp(-self.repetition / tissue.t1)
        return tissue.density * recovered * exp(-self.echo / tissue.t2)


@dataclass(frozen=True)
class GradientEcho:
    """The spoiled gradient echo, ``PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2*)``, E1 = exp(-TR/T1)."""

    repetition: float
    echo: float
    flip_degrees: float

    def signal(self, tissue: Tissue) -> float:
        """The signal of the tissue, in units of the density of water."""
        angle, e1 = radians(self.flip_degrees), exp(-self.repetition / tissue.t1)
        steady = sin(angle) * (1 - e1) / (1 - cos(angle) * e1)
        return tissue.density * steady * exp(-self.echo / tissue.t2_star)
