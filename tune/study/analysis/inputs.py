"""The input of a study's statistics and report: one score per subject and cell, the methods, the missing cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedrecon.tune.study.analysis.condition import UNTRAINED, Missing, Score

__all__ = ["UNTRAINED", "Findings", "Method", "Missing", "Panel", "Score"]

MOVED, PUBLISHED = "†", "‡"
"""The marks of methods that moved data, and of methods that published private parts of networks."""
UNLIKE = "§"
"""The mark of a method beside one that trains another network, or with other settings than the strategy's."""
MARKS = {
    MOVED: f"{MOVED} data were moved: not federated",
    PUBLISHED: f"{PUBLISHED} private parts of networks left their sites",
}
"""The legend text of each mark."""


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
        alone: whether no part of the network is shared in any round (local training).
        network: the name of the trained network; empty without training. like: the identity of the network's options
            and of all other settings but the strategy. Methods that are equal in both are twins: only these are
            compared with local and with pooled training.
        zero_filled: whether the method is the zero-filled image, which is never called worse than itself.
        updates: the optimiser steps of each of its networks in one training, as text. passes: how often a network sees
            each of its training slices, as text. Each is a range where networks or trainings differ; both are empty
            without training.
    """

    name: str
    settings: str
    trains: bool
    moved_data: bool
    published_private: bool
    personal: bool
    alone: bool = False
    network: str = ""
    like: str = ""
    about: str = ""
    zero_filled: bool = False
    updates: str = ""
    passes: str = ""

    def is_twin(self, other: Method) -> bool:
        """Whether both methods train, and only their strategies differ."""
        return self.trains and other.trains and (self.network, self.like) == (other.network, other.like)

    @property
    def label(self) -> str:
        """The name with its marks."""
        return self.name + self.marks

    @property
    def marks(self) -> str:
        """The marks behind the name."""
        return MOVED * self.moved_data + PUBLISHED * self.published_private


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
        zero_filled: the PSNR in dB of each subject's zero-filled image, by tested site, mask, acceleration, noise and
            subject.
        validation: the scores of the validation subjects in the same cells, by which the best method is chosen; empty
            if the runs are of a version that did not keep them.
        reference: what scores are compared with, as ``evaluation.reference`` says.
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
    zero_filled: Mapping[tuple[str, str, float, float, str], float] = field(default_factory=dict)
    validation: Sequence[Score] = ()
    reference: str = "measured"

    def method(self, name: str) -> Method:
        """The method of this name.

        Raises:
            StopIteration: no method has this name.
        """
        return next(one for one in self.methods if one.name == name)

    def label(self, name: str, beside: str = "") -> str:
        """The name of a method with its marks; also with :data:`UNLIKE`, if it is no twin of the method ``beside``."""
        method, other = self.method(name), self.method(beside or name)
        unlike = method.trains and other.trains and not method.is_twin(other)
        return method.label + UNLIKE * unlike
