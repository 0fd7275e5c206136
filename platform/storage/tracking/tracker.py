"""The record of a run: the contract of a tracker, and how a run is found, continued or made.

``mlflow_store.py`` is the implementation; it loads MLflow only when a store is opened. Here is what needs no MLflow:
buffering, skipping of values that are recorded already, one run for each digest. The tests have a second implementation
in memory, which passes the same tests.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from fedrecon.platform.storage.journal import DatasetRecord, Ended, RunRecord
from fedrecon.platform.storage.tracking.entities import TAG_DIGEST, Logged, Point, RunInfo
from fedrecon.sites.errors import InputError

TAG_JOURNAL = "fedrecon.journal"
TAG_OWNER = "fedrecon.owner"
TAG_SUPERSEDED = "fedrecon.superseded_by"
LATEST = "latest"
MIN_PREFIX = 6
"""The smallest number of characters of a digest in a reference."""

SUMMARIES = "fedrecon-sweeps"
"""The MLflow experiment of the sweeps' own runs. The runs of their trials are, flat, among all other runs."""

STUDIES = "fedrecon-studies"
"""The MLflow experiment of the studies' own runs. The runs of their trials are, flat, among all other runs."""


class Tracker(Protocol):
    """The record of one run, with the methods that a run uses."""

    @property
    def run_id(self) -> str:
        """The id under which the run is found again."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Write tags; a new value replaces an old one."""
        ...

    def log_params(self, params: Mapping[str, str]) -> None:
        """Write parameters; one that is recorded already stays as it is."""
        ...

    def datasets(self, given: Sequence[DatasetRecord]) -> None:
        """Write the data that the run reads."""
        ...

    def model(self, name: str, step: int, files: Sequence[Path]) -> None:
        """Write a trained network of round ``step``, from the files that the loader of such a model reads."""
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
    """A tracker that buffers metrics and never writes a (key, step) pair twice. Subclasses only write.

    Args:
        run_id: id of the run.
        logged: a function that reads the content of a run that is continued; None for a new run. It is called when
            the content matters.
    """

    def __init__(self, run_id: str, logged: Callable[[], Logged] | None) -> None:
        self.run_id = run_id
        self.continued = logged is not None
        self._read = logged or Logged
        self._buffer: list[Point] = []

    @cached_property
    def _logged(self) -> Logged:
        return self._read()

    @cached_property
    def _steps(self) -> defaultdict[str, set[int]]:
        return defaultdict(set, {key: set(steps) for key, steps in self._logged.steps.items()})

    @cached_property
    def _images(self) -> set[tuple[str, int]]:
        return set(self._logged.images)

    def log_params(self, params: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        missing = {key: str(value) for key, value in params.items() if key not in self._logged.params}
        if missing:
            self._write_params(missing)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        if tags:
            self._write_tags({key: str(value) for key, value in tags.items()})

    def metrics(self, step: int, values: Mapping[str, float], milliseconds: int | None = None) -> None:
        """See :class:`Tracker`. ``milliseconds`` is the time of the values; None is now."""
        now = milliseconds or time.time_ns() // 1_000_000
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

    def datasets(self, given: Sequence[DatasetRecord]) -> None:
        """See :class:`Tracker`. The store writes a dataset that it has got already no second time."""
        self._write_datasets(given)

    def model(self, name: str, step: int, files: Sequence[Path]) -> None:
        """See :class:`Tracker`. A model of this name that the run has already stays as it is."""
        self._write_model(name, step, files)

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
    def _write_datasets(self, given: Sequence[DatasetRecord]) -> None: ...

    @abstractmethod
    def _write_model(self, name: str, step: int, files: Sequence[Path]) -> None: ...

    @abstractmethod
    def _write_end(self, status: Ended) -> None: ...


class RunStore(ABC):
    """A store of runs. It opens the one run of a digest, and finds runs again.

    Attributes:
        uri: the address of the store.
        mended: what opening the store had to mend, to be said; None if nothing.
    """

    uri = ""
    mended: str | None = None

    def open(self, record: RunRecord, fresh: bool = False) -> BufferedTracker:
        """Opens the run with the digest of the record, and gives it the tags. If there is no such run, makes one.

        A run of another owner is left alone. A run that names no owner (an earlier version made it) is continued only
        under its own id. A run of another journal is not continued: its numbers are those of a run that was deleted.

        A continued run has the status RUNNING again. ``fresh`` makes a new run in any case. Older runs of the same
        digest get a tag that they are superseded. If one of them has the status RUNNING, it ends as KILLED.
        """
        own = {TAG_OWNER: record.owner, TAG_JOURNAL: record.journal}
        tags = {**record.tags, TAG_DIGEST: record.digest, **{tag: value for tag, value in own.items() if value}}
        with self._exclusive():
            found = self._runs(record.digest, record.experiment_name)
            same = [run for run in found if run.digest == record.digest and _owned(run, record)]
            older = [run for run in same if TAG_SUPERSEDED not in run.tags]
            mine = [run for run in older if _of_journal(run, record)]
            if fresh or not mine:
                tracker = self._create(record.experiment_name, record.run_name, tags)
            else:
                older.remove(mine[0])
                self._restart(mine[0])
                tracker = self._tracker(mine[0])
                tracker.set_tags(tags)
            for run in older:
                self._supersede(run, tracker.run_id)
        tracker.log_params(record.params)
        return tracker

    def attach(self, run_id: str) -> BufferedTracker | None:
        """The tracker of a run, whose status stays; None if there is no such run."""
        run = self._run(run_id)
        return None if run is None or run.deleted else self._tracker(run)

    def deleted(self, run_id: str) -> bool:
        """Whether a person deleted the run."""
        run = self._run(run_id)
        return run is not None and run.deleted

    def delete(self, run_id: str) -> bool:
        """Marks a run as deleted, so that no page shows it. Returns False if there is no such run to delete."""
        run = self._run(run_id)
        if run is None or run.deleted:
            return False
        self._delete(run)
        return True

    @property
    def own(self) -> bool:
        """Whether the store is the workspace's own file, in which nobody else has runs."""
        return False

    def mend(self, trouble: bool) -> str | None:  # noqa: ARG002 - a store on a server needs no mending
        """Replaces a store on this disk that is lost or, after ``trouble``, damaged. Returns what it did, in words."""
        return None

    @property
    def local(self) -> bool:
        """Whether the store is a file of this machine. It can be busy, but not unreachable."""
        return True

    def find(self, reference: str, status: str | None = None) -> RunInfo:
        """The newest run that fits ``reference``.

        Args:
            reference: run id, digest (its first 6 characters are enough), or ``latest``.
            status: status that the run must have, for instance FINISHED; None allows all. A run id finds its run with
                any status.

        Raises:
            InputError: no run fits, the fitting runs have another status, or the beginning of a digest fits several.
        """
        if (run := self._run(reference)) is not None and not run.deleted:
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

    def tag(self, digest: str, tags: Mapping[str, str], owner: str = "") -> str | None:
        """Tags a run that has no journal (an earlier version made it). A run with the status RUNNING ends as KILLED.

        Call it only if no process works on the run. A run of another owner is left alone.

        Returns:
            the run id, or None if there is no such run.
        """
        runs = [one for one in self._runs(digest, None) if one.digest == digest and TAG_SUPERSEDED not in one.tags]
        runs = [one for one in runs if one.tags.get(TAG_OWNER, owner) == owner]
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

    @abstractmethod
    def register(
        self, run_id: str, name: str, alias: str | None, model: str | None, dry_run: bool = False
    ) -> dict[str, Any]:
        """Makes a version of the registered model ``name``; see :func:`.models.register`."""

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
    def _run(self, run_id: str) -> RunInfo | None:
        """The run of this id, also if it is deleted; None if there is none."""

    @abstractmethod
    def _runs(self, digest: str, experiment_name: str | None) -> list[RunInfo]:
        """Runs whose digest begins with ``digest``, newest first; no deleted runs, and no runs of other programs."""

    @abstractmethod
    def _create(self, experiment_name: str, run_name: str, tags: Mapping[str, str]) -> BufferedTracker: ...

    @abstractmethod
    def _restart(self, run: RunInfo) -> None:
        """Gives the run the status RUNNING."""

    @abstractmethod
    def _delete(self, run: RunInfo) -> None: ...

    @abstractmethod
    def _tracker(self, run: RunInfo) -> BufferedTracker:
        """The tracker of a run that is there."""

    @abstractmethod
    def _annotate(self, run: RunInfo, tags: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _supersede(self, run: RunInfo, by: str) -> None: ...


def _owned(run: RunInfo, record: RunRecord) -> bool:
    """Whether the run belongs to the owner of the record."""
    return (
        run.run_id == record.run_id
        if TAG_OWNER not in run.tags and record.owner
        else (run.tags.get(TAG_OWNER, "") == record.owner)
    )


def _of_journal(run: RunInfo, record: RunRecord) -> bool:
    """Whether the run holds what this journal sent before. Earlier versions told journals by the run's id alone."""
    if TAG_JOURNAL in run.tags:
        return run.tags[TAG_JOURNAL] == record.journal
    return not record.journal or run.run_id == record.run_id


def _few(digests: Iterable[str], limit: int = 5) -> str:
    names = list(dict.fromkeys(digests))
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
