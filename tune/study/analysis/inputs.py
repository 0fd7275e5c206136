"""What a study found, as its report needs it: one row a subject, which methods there were, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

UNTRAINED = "nothing"
"""``trained_on`` of a method without training."""
LEFT_OUT = "all but "
"""How ``trained_on`` begins where one site did not train."""
MOVED, PUBLISHED = "†", "‡"
MARKS = {
    MOVED: f"{MOVED} data were moved: not federated",
    PUBLISHED: f"{PUBLISHED} private parts of networks left their sites",
}


@dataclass(frozen=True)
class Score:
    """One subject, reconstructed by one method under one operator.

    Attributes:
        trained_on: ``all``, ``all but T1w``, ``T1w``, or ``nothing`` for a method without training.
        trained_with: the training's operator, such as ``random R=4``; empty without training and for a prior whose
            training knows no operator.
        n_sites: sites that trained, 0 without training. slices_per_site: training slices a site, the mean.
        seed: None where nothing random was trained.
        tested_on: a site. mask, acceleration: of the test; of super-resolution the degradation and its scale.
        operator: the test's in words, such as ``random R=4`` or ``bicubic x2``.
        noise: a multiple of the data's own level.
        psnr: of the whole subject, in dB, like the other two metrics; ``n_slices`` weighs nothing.
        seen_site: whether the tested site trained.
        seen_operator: whether it is tested under the training's own operator; True too for methods without training
            and for priors whose training knows no operator.
    """

    method: str
    trained_on: str
    trained_with: str
    n_sites: int
    slices_per_site: float
    seed: int | None
    tested_on: str
    mask: str
    acceleration: float
    operator: str
    noise: float
    subject: str
    psnr: float
    ssim: float
    nmse: float
    n_slices: int
    seen_site: bool
    seen_operator: bool
    run_id: str
    digest: str


@dataclass(frozen=True)
class Method:
    """A method of the study.

    Attributes:
        settings: how it differs from the study's base, in words. about: what it is.
        moved_data: data were pooled: it is not federated.
        published_private: private parts of networks left their sites.
        personal: each site has its own network, or its own part of it. alone: nothing of it is shared (local training).
        network: what it trains: only methods that train the same are compared with local training.
    """

    name: str
    settings: str
    trains: bool
    moved_data: bool
    published_private: bool
    personal: bool
    alone: bool = False
    network: str = ""
    about: str = ""

    @property
    def label(self) -> str:
        """The name with its marks."""
        return self.name + MOVED * self.moved_data + PUBLISHED * self.published_private


def described(plugin: object) -> str:
    """What a strategy or reconstructor is, in its own words."""
    text = (type(plugin).__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.replace("``", "").split())


def shortened(label: str, most: int) -> str:
    """A label cut to a length, with its marks kept."""
    name = label.rstrip(MOVED + PUBLISHED)
    marks = label[len(name) :]
    return label if len(label) <= most else name[: most - 1 - len(marks)] + "…" + marks


@dataclass(frozen=True)
class Missing:
    """A cell whose trial failed or was not run; see :class:`Score`.

    Attributes:
        seed: None: of every seed.
    """

    method: str
    trained_on: str
    trained_with: str
    n_sites: int
    seed: int | None
    tested_on: str
    mask: str
    acceleration: float
    operator: str
    noise: float
    seen_site: bool
    seen_operator: bool
    reason: str


@dataclass(frozen=True)
class Panel:
    """A picture of reconstructions, and the runs that it is from."""

    title: str
    caption: str
    png: bytes
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class Findings:
    """All that a study found.

    Attributes:
        methods: in the plan's order.
        facts: what ran: trainings, evaluations, seconds, machines, versions, commits, hashes of the data.
        citations: BibTeX entries or plain text, each with what it is for.
        notes: what a reader must know of these methods at these sites.
        run_url: the address of a run's page.
        references: methods to compare with; none: the best untrained method and the best of all.
        synthetic: whether the data are simulated.
    """

    study: str
    title: str
    status: str
    methods: Sequence[Method]
    scores: Sequence[Score]
    missing: Sequence[Missing]
    facts: Mapping[str, str]
    citations: Mapping[str, Sequence[str]]
    panels: Sequence[Panel]
    run_url: Callable[[str], str]
    references: Sequence[str] = ()
    notes: Sequence[str] = ()
    synthetic: bool = False

    def method(self, name: str) -> Method:
        """A method by its name."""
        return next(one for one in self.methods if one.name == name)

    def label(self, name: str) -> str:
        """A method's name with its marks."""
        return self.method(name).label
