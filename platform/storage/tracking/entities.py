"""What a store says of a run: its names and values, and what of it is recorded already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

TAG_DIGEST = "fedrecon.digest"


class Point(NamedTuple):
    """One value of one metric; ``milliseconds`` since the epoch."""

    key: str
    value: float
    step: int
    milliseconds: int


@dataclass(frozen=True)
class RunInfo:
    """A recorded run, as the store describes it.

    Attributes:
        run_id: id of the run in the store.
        experiment_name: name of the MLflow experiment that the run belongs to.
        name: name in the list of runs.
        status: RUNNING, FINISHED, FAILED or KILLED.
        tags: all tags; the digest is one of them.
        params: values of the experiment as text, by dotted key.
        deleted: whether a person deleted the run. Such a run is not continued.
    """

    run_id: str
    experiment_name: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    deleted: bool = False

    @property
    def digest(self) -> str:
        """The digest of its experiment."""
        return self.tags.get(TAG_DIGEST, "")


@dataclass(frozen=True)
class Logged:
    """The content of a run that is continued: steps by metric, parameters, and (key, step) of its images."""

    steps: Mapping[str, frozenset[int]] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    images: frozenset[tuple[str, int]] = frozenset()


def stored_key(key: str) -> str:
    """The key of a metric, a parameter or an image as MLflow takes it: a site's name may hold a '+' (``t1+gd``)."""
    return key.replace("+", " plus ")


def own_key(key: str) -> str:
    """The inverse of :func:`stored_key`: no name of a site holds a space."""
    return key.replace(" plus ", "+")
