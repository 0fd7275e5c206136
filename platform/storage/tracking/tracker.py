"""The record of a run: the contract of a tracker, and how a run is found, continued or made.

``mlflow_store.py`` is the implementation; it loads MLflow only when a store is opened. Here is what needs no MLflow:
buffering, skipping of values that are recorded already, one run for each digest. The tests have a second implementation
in memory, which passes the same tests.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from fedrecon.sites.errors import InputError

TAG_DIGEST = "fedrecon.digest"
TAG_SUPERSEDED = "fedrecon.superseded_by"
LATEST = "latest"
MIN_PREFIX = 6
"""The smallest number of characters of a digest in a reference."""

SUMMARIES = "fedrecon-sweeps"
"""The MLflow experiment of the sweeps' own runs. The runs of their trials are, flat, among all other runs."""

STUDIES = "fedrecon-studies"
"""The MLflow experiment of the studies' own runs. The runs of their trials are, flat, among all other runs."""

Ended = Literal["FINISHED", "FAILED", "KILLED"]


class Point(NamedTuple):
    """One value of one metric; ``milliseconds`` since the epoch."""

    key: str
    value: float
    step: int
    milliseconds: int


@dataclass(frozen=True)
class RunRecord:
    """The data with which the store makes a run, or finds it again.

    Attributes:
        experiment_name: name of the MLflow experiment, which is made if missing.
        run_name: name of a new run.
        digest: identity of the science of the run.
        params: values of the experiment as text, by dotted key.
        tags: tags, such as the git commit and the sweep or study that the run belongs to.
    """

    experiment_name: str
    run_name: str
    digest: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


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
    """

    run_id: str
    experiment_name: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]

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


class Tracker(Protocol):
    """The record of one run, with the methods that a run uses."""

    @property
    def run_id(self) -> str:
        """The id under which the run is found again."""
        ...

    @property
    def continued(self) -> bool:
        """Whether the run was there before this tracker was opened."""
        ...

    def log_params(self, params: Mapping[str, str]) -> None:
        """Write the parameters that are not recorded yet. Recorded parameters stay unchanged."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Write tags; a new value replaces an old one."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Buffer values at ``step``; a key that has a value at this step already is skipped."""
        ...

    def flush(self) -> None:
        """Write the buffer; call it before a round is committed."""
        ...

    def image(self, key: str, step: int, png: bytes) -> None:
        """Write one PNG of an image grid, unless ``key`` has an image at this step already."""
        ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store the file ``path`` under ``folder`` of the run's artifacts. It replaces a file of the same name."""
        ...

    def finish(self, status: Ended) -> None:
        """Flush, and end the run with ``status``."""
        ...


class BufferedTracker(ABC):
    """A tracker that buffers metrics and never writes a (key, step) pair twice. Subclasses only write."""

    def __init__(self, run_id: str, logged: Logged | None) -> None:
        self.run_id = run_id
        self.continued = logged is not None
        logged = logged or Logged()
        self._steps = defaultdict[str, set[int]](set, {key: set(steps) for key, steps in logged.steps.items()})
        self._params = dict(logged.params)
        self._images = set(logged.images)
        self._buffer: list[Point] = []

    def log_params(self, params: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        missing = {key: str(value) for key, value in params.items() if key not in self._params}
        if missing:
            self._write_params(missing)
            self._params.update(missing)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        if tags:
            self._write_tags({key: str(value) for key, value in tags.items()})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        now = time.time_ns() // 1_000_000
        for key, value in values.items():
            if step not in self._steps[key]:
                self._steps[key].add(step)
                self._buffer.append(Point(key, float(value), step, now))

    def flush(self) -> None:
        """See :class:`Tracker`. If the writing fails, the values stay in the buffer."""
        if self._buffer:
            self._write_points(self._buffer)
            self._buffer = []

    def image(self, key: str, step: int, png: bytes) -> None:
        """See :class:`Tracker`."""
        if (key, step) not in self._images:
            self._write_image(key, step, png)
            self._images.add((key, step))

    def artifact(self, path: Path, folder: str = "") -> None:
        """See :class:`Tracker`."""
        self._write_artifact(path, folder)

    def finish(self, status: Ended) -> None:
        """See :class:`Tracker`."""
        self.flush()
        self._write_end(status)

    @abstractmethod
    def _write_params(self, params: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _write_tags(self, tags: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _write_points(self, points: Sequence[Point]) -> None: ...

    @abstractmethod
    def _write_image(self, key: str, step: int, png: bytes) -> None: ...

    @abstractmethod
    def _write_artifact(self, path: Path, folder: str) -> None: ...

    @abstractmethod
    def _write_end(self, status: Ended) -> None: ...


class Store(Protocol):
    """The part of a :class:`RunStore` that a run uses."""

    def open(self, record: RunRecord, fresh: bool = False) -> Tracker:
        """See :meth:`RunStore.open`."""
        ...


class RunStore(ABC):
    """A store of runs. It opens the one run of a digest, and finds runs again."""

    def open(self, record: RunRecord, fresh: bool = False) -> Tracker:
        """Opens the run with the digest of the record, and gives it the tags. If there is no such run, makes one.

        A continued run has the status RUNNING again. ``fresh`` makes a new run in any case. Older runs of the same
        digest get a tag that they are superseded. If one of them has the status RUNNING, it ends as KILLED.
        """
        tags = {**record.tags, TAG_DIGEST: record.digest}
        with self._exclusive():
            found = self._runs(record.digest, record.experiment_name)
            same = [run for run in found if run.digest == record.digest]
            older = [run for run in same if TAG_SUPERSEDED not in run.tags]
            if fresh or not older:
                tracker: Tracker = self._create(record.experiment_name, record.run_name, tags)
            else:
                tracker = self._continue(older.pop(0))
                tracker.set_tags(tags)
            for run in older:
                self._supersede(run, tracker.run_id)
        tracker.log_params(record.params)
        return tracker

    def find(self, reference: str, status: str | None = None) -> RunInfo:
        """The newest run that fits ``reference``.

        Args:
            reference: run id, digest (its first 6 characters are enough), or ``latest``.
            status: status that the run must have, for instance FINISHED; None allows all. A run id finds its run with
                any status.

        Raises:
            InputError: no run fits, the fitting runs have another status, or the beginning of a digest fits several.
        """
        if (run := self._run(reference)) is not None:
            return run
        digest = "" if reference == LATEST else reference
        if reference != LATEST and len(reference) < MIN_PREFIX:
            raise self._not_found(reference)
        runs = [run for run in self._runs(digest, None) if TAG_SUPERSEDED not in run.tags]
        if not runs:
            raise self._not_found(reference)
        fitting = [run for run in runs if status in (None, run.status)]
        if not fitting:
            raise InputError(f"run '{reference}' is there, but its status is {runs[0].status}, not {status}.")
        if digest and len({run.digest for run in fitting}) > 1:
            raise InputError(f"'{reference}' fits several digests: {_few(run.digest for run in fitting)}.")
        return fitting[0]

    def tag(self, digest: str, tags: Mapping[str, str]) -> str | None:
        """Tags the run of ``digest`` without opening it. A run with the status RUNNING is ended as KILLED.

        Call it only if no process works on the run.

        Returns:
            the run id, or None if there is no such run.
        """
        runs = [one for one in self._runs(digest, None) if one.digest == digest and TAG_SUPERSEDED not in one.tags]
        if not runs:
            return None
        self._annotate(runs[0], tags)
        return runs[0].run_id

    @abstractmethod
    def save_view(self, experiment_name: str, key: str, view: Mapping[str, Any]) -> str:
        """Saves a view under ``key``: the runs and columns that a page of the experiment shows.

        Returns:
            the id of the experiment, which is made if missing. The page's address contains this id.
        """

    def _not_found(self, reference: str) -> InputError:
        known = _few(run.digest for run in self._runs("", None))
        return InputError(
            f"no run '{reference}'. Give a run id, a digest (at least its first {MIN_PREFIX} characters) or "
            f"'{LATEST}'. Digests here: {known or '(none: nothing has been run)'}."
        )

    @abstractmethod
    def local_artifact(self, run_id: str, path: str) -> Path:
        """A local file with the artifact ``path`` of a run. It is downloaded if it is not on this machine.

        Raises:
            RunError: the run has no such artifact.
        """

    def _exclusive(self) -> AbstractContextManager[None]:
        return nullcontext()

    @abstractmethod
    def _run(self, run_id: str) -> RunInfo | None: ...

    @abstractmethod
    def _runs(self, digest: str, experiment_name: str | None) -> list[RunInfo]:
        """Runs whose digest begins with ``digest``, newest first; no deleted runs, and no runs of other programs."""

    @abstractmethod
    def _create(self, experiment_name: str, run_name: str, tags: Mapping[str, str]) -> Tracker: ...

    @abstractmethod
    def _continue(self, run: RunInfo) -> Tracker: ...

    @abstractmethod
    def _annotate(self, run: RunInfo, tags: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _supersede(self, run: RunInfo, by: str) -> None: ...


def _few(digests: Iterable[str], limit: int = 5) -> str:
    names = list(dict.fromkeys(digests))
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
