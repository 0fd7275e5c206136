"""The condition of a score: what was trained, and where and under which operator it is tested. Labels are made here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

UNTRAINED = "nothing"
"""The value of ``trained_on`` for a method without training."""

Scheme = Literal["nothing", "all", "all but one", "named"]
"""Which sites trained: no site, all, all but one, or the named ones."""

_COUNT = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Kind:
    """The kind of a training: its scheme without the names of sites.

    Attributes:
        scheme: which sites trained. n_named: the number of named sites; 0 for another scheme.
        limit: the largest number of training slices of a site, or ``all``; None if the study has only one limit.
    """

    scheme: Scheme
    n_named: int = 0
    limit: int | Literal["all"] | None = None

    @property
    def base(self) -> str:
        """The scheme as text: ``all``, ``all but one``, ``one site``, ``two sites``, ... or ``nothing``."""
        if self.scheme != "named":
            return self.scheme
        count = _COUNT[self.n_named] if self.n_named < len(_COUNT) else str(self.n_named)
        return "one site" if self.n_named == 1 else f"{count} sites"

    @property
    def suffix(self) -> str:
        """The limit of slices as text; empty if the study has only one limit."""
        return "" if self.limit is None else f" ({self.limit} slices a site)"

    @property
    def order(self) -> tuple[str, float]:
        """What kinds are sorted by: 4 slices a site come before 12, and ``all`` comes last."""
        return self.base, self.limit if isinstance(self.limit, int) else math.inf

    @property
    def trains(self) -> bool:
        """Whether a site trained."""
        return self.scheme != UNTRAINED

    def __str__(self) -> str:
        return self.base + self.suffix


@dataclass(frozen=True)
class TrainingSites:
    """The sites of a training.

    Attributes:
        scheme: which sites trained. n_sites: their number; 0 without training.
        names: the named sites; for ``all but one`` the site that did not train. limit: see :class:`Kind`.
    """

    scheme: Scheme
    n_sites: int
    names: tuple[str, ...] = ()
    limit: int | Literal["all"] | None = None

    @property
    def kind(self) -> Kind:
        """The kind of the training."""
        return Kind(self.scheme, self.n_sites if self.scheme == "named" else 0, self.limit)

    def __str__(self) -> str:
        names = " and ".join(self.names)
        base = {"named": names, "all but one": f"all but {names}"}.get(self.scheme, self.scheme)
        return base + self.kind.suffix


@dataclass(frozen=True, kw_only=True)
class TrainedMethod:
    """A method and what it was trained on, with any seed.

    Attributes:
        method: the name of the method. sites: the sites that trained.
        trained_with: the label of the training's operator, such as ``random R=4``; empty without training, and for a
            prior whose training uses no operator.
    """

    method: str
    sites: TrainingSites
    trained_with: str

    @property
    def trained_on(self) -> str:
        """The label of the training sites: ``all``, ``all but T1w``, ``T1w``, ``T1w and T2w`` or ``nothing``."""
        return str(self.sites)

    @property
    def n_sites(self) -> int:
        """The number of sites that trained; 0 without training."""
        return self.sites.n_sites

    def part(self, kind: type[TrainedMethod]) -> dict[str, Any]:
        """The fields that ``kind``, a base class of this one, has: for another object with the same values."""
        return {one.name: getattr(self, one.name) for one in fields(kind)}


@dataclass(frozen=True, kw_only=True)
class Training(TrainedMethod):
    """One training of a method.

    Attributes:
        seed: the seed of the training; None if nothing random was trained.
    """

    seed: int | None


@dataclass(frozen=True, kw_only=True)
class Condition(Training):
    """One training of a method, tested at one site under one operator and noise level.

    Attributes:
        tested_on: the tested site.
        mask, acceleration: the mask and acceleration of the test; in super-resolution the degradation and its scale.
        operator: the label of the test operator, such as ``random R=4`` or ``bicubic x2``.
        noise: the noise of the test, as a multiple of the data's own level.
        seen_site: whether the tested site trained.
        seen_operator: whether the training used the test operator, alone or in a mix. It is also True for methods
            without training, and for priors whose training uses no operator.
    """

    tested_on: str
    mask: str
    acceleration: float
    operator: str
    noise: float
    seen_site: bool
    seen_operator: bool

    def columns(self) -> dict[str, Any]:
        """The condition in plain types: the columns of tables and the keys of JSON."""
        own = self.part(Condition)
        del own["sites"]
        method = own.pop("method")
        trained = {"trained_with": own.pop("trained_with"), "n_sites": self.n_sites}
        return {"method": method, "trained_on": self.trained_on, **trained, **own}


@dataclass(frozen=True, kw_only=True)
class Missing(Condition):
    """A condition whose trial failed or was not run; the seed None stands for every seed.

    Attributes:
        reason: the reason why the scores are missing.
    """

    reason: str


@dataclass(frozen=True, kw_only=True)
class Score(Condition):
    """The scores of one subject in one condition.

    Attributes:
        slices_per_site: the mean number of training slices per training site; 0 without training.
        subject: the name of the subject.
        psnr, ssim, nmse: the metrics of the subject, as means over its whole volumes; PSNR in dB.
        n_slices: the number of scored slices of the subject; it is not a weight.
        run_id: the run that made the score. digest: the digest of the trial that made it.
    """

    slices_per_site: float
    subject: str
    psnr: float
    ssim: float
    nmse: float
    n_slices: int
    run_id: str
    digest: str
