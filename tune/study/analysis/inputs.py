"""The input of a study's statistics and report: one score per subject and cell, the methods, the missing cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

UNTRAINED = "nothing"
"""The value of ``trained_on`` for a method without training."""
LEFT_OUT = "all but "
"""The start of ``trained_on`` if one site did not train; the name of this site follows."""
MOVED, PUBLISHED = "†", "‡"
"""The marks of methods that moved data, and of methods that published private parts of networks."""
MARKS = {
    MOVED: f"{MOVED} data were moved: not federated",
    PUBLISHED: f"{PUBLISHED} private parts of networks left their sites",
}
"""The legend text of each mark."""


@dataclass(frozen=True)
class Score:
    """The scores of one subject in one cell for one seed.

    A cell is one training of a method, one tested site, one test operator and one noise level.

    Attributes:
        method: the name of the method.
        trained_on: the label of the training sites: ``all``, ``all but T1w``, ``T1w``, ``T1w and T2w``, or ``nothing``
            for a method without training. A limit such as `` (8 slices a site)`` can follow.
        trained_with: the label of the training's operator, such as ``random R=4``; empty without training, and for a
            prior whose training uses no operator.
        n_sites: the number of sites that trained; 0 without training.
        slices_per_site: the mean number of training slices per training site; 0 without training.
        seed: the seed of the training; None if nothing random was trained.
        tested_on: the tested site.
        mask, acceleration: the mask and acceleration of the test; in super-resolution the degradation and its scale.
        operator: the label of the test operator, such as ``random R=4`` or ``bicubic x2``.
        noise: the noise of the test, as a multiple of the data's own level.
        subject: the name of the subject.
        psnr, ssim, nmse: the metrics of the subject, as means over its whole volumes; PSNR in dB.
        n_slices: the number of scored slices of the subject; it is not a weight.
        seen_site: whether the tested site trained.
        seen_operator: whether the training used the test operator. It is also True for methods without training, and
            for priors whose training uses no operator.
        run_id: the run that made the score; :attr:`Findings.run_url` takes it.
        digest: the digest of the trial that made the score.
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
        name: the name in the study.
        settings: the settings that differ from the study's base, as text. about: a description of the method.
        trains: whether the method trains.
        moved_data: whether training data were pooled; the method is then not federated.
        published_private: whether private parts of networks left their sites.
        personal: whether each site has its own network or its own part of the network.
        alone: whether no part of the network is shared (local training).
        network: the name of the trained network; empty without training. Only methods with the same network are
            compared with local training.
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
    """The description of a strategy or reconstructor: the first paragraph of its docstring."""
    text = (type(plugin).__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.replace("``", "").split())


def shortened(label: str, most: int) -> str:
    """A label, cut to at most ``most`` characters. Its marks are kept."""
    name = label.rstrip(MOVED + PUBLISHED)
    marks = label[len(name) :]
    return label if len(label) <= most else name[: most - 1 - len(marks)] + "…" + marks


@dataclass(frozen=True)
class Missing:
    """A cell whose trial failed or was not run; see :class:`Score`.

    Attributes:
        seed: the missing seed; None stands for every seed.
        reason: the reason why the scores are missing.
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
    """A picture of reconstructions, and the runs that made them."""

    title: str
    caption: str
    png: bytes
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class Findings:
    """The scores of a study, and all other content of its report.

    Attributes:
        study: the name of the study. title: the title of the report. status: the status of the study.
        methods: the methods, in the plan's order. scores: the scores. missing: the cells without scores.
        facts: trainings, evaluations, seconds, machines, versions, commits and hashes of the data, by label.
        citations: works (BibTeX entries or plain text), each with the names of the methods, operators or scores that
            it describes.
        panels: the pictures of reconstructions.
        run_url: a function that gives the address of a run's page.
        references: the methods with which all others are compared; if empty, the best method without training and the
            best method of all.
        notes: facts about these methods at these sites that limit a comparison.
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
        """The method of this name.

        Raises:
            StopIteration: no method has this name.
        """
        return next(one for one in self.methods if one.name == name)

    def label(self, name: str) -> str:
        """The name of a method with its marks."""
        return self.method(name).label
