"""One actor writes the records of all trials to the store. Each trial has a tracker that sends its record to the actor.

If every trial wrote to the SQLite file itself, the trials would wait for each other, and each process would load MLflow
(2 s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.tracking.tracker import Ended, RunRecord, RunStore, Tracker
from fedrecon.sites import debris

Entry = tuple[str, tuple[Any, ...]]
"""The name of a method of :class:`Tracker`, and its arguments. An artifact is sent as its bytes."""


class TrackingActor:
    """The actor that writes the records of all trials.

    Ray may repeat a write after a crash: the tracker skips values that are recorded already.

    Args:
        uri: the address of an MLflow server; None takes the default, see :func:`run_store`.
        workspace: the workspace folder.
    """

    def __init__(self, uri: str | None, workspace: str) -> None:
        self._store: RunStore = run_store(uri, Path(workspace))
        self._open: dict[str, Tracker] = {}
        self._failures: dict[str, str] = {}
        self._asked: set[str] = set()

    def begin(self, record: RunRecord, fresh: bool) -> tuple[str, bool]:
        """Opens a run.

        Args:
            record: the record of the run. fresh: see :meth:`RunStore.open`.

        Returns:
            the run's id, and whether the run was there before.
        """
        tracker = self._store.open(record, fresh)
        self._open[record.digest] = tracker
        return tracker.run_id, tracker.continued

    def write(self, record: RunRecord, entries: Sequence[Entry]) -> None:
        """Writes the entries in their order, and flushes. A run that is not open is opened first."""
        if record.digest not in self._open:
            self._open[record.digest] = self._store.open(record)
        tracker = self._open[record.digest]
        for method, arguments in entries:
            if method == "artifact":
                _artifact(tracker, *arguments)
            else:
                getattr(tracker, method)(*arguments)
            if method == "finish":
                del self._open[record.digest]
        tracker.flush()

    def first(self, digest: str) -> bool:
        """Whether this is the first question about this trial.

        In a rerun, only the first start of a trial sets the older run aside. If the trial fails, its next start goes on
        from its own rounds.
        """
        fresh = digest not in self._asked
        self._asked.add(digest)
        return fresh

    def failed(self, digest: str, message: str) -> None:
        """Keeps the reason why a trial failed, for :meth:`why`."""
        self._failures[digest] = message

    def why(self, digest: str) -> str:
        """The last reason why the trial failed. A trial that gave no reason lost its process."""
        return self._failures.get(digest, "its process died (killed, or out of memory)")

    def settle(self) -> None:
        """Ends all open runs as KILLED. Their trials did not end them, for example because a process died."""
        for tracker in self._open.values():
            tracker.finish("KILLED")
        self._open = {}

    def tag(self, digest: str, tags: Mapping[str, str]) -> str | None:
        """See :meth:`RunStore.tag`."""
        return self._store.tag(digest, tags)

    def save_view(self, experiment_name: str, key: str, view: Mapping[str, Any]) -> str:
        """See :meth:`RunStore.save_view`."""
        return self._store.save_view(experiment_name, key, view)


def start_tracking_actor(uri: str | None, workspace: Path) -> Any:
    """Starts the :class:`TrackingActor` on this node, because the workspace is here. Returns its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(TrackingActor).options(**options).remote(uri, str(workspace))


class RelayStore:
    """The :class:`Store` of a trial. It opens runs through the actor.

    Args:
        writer: the handle of the :class:`TrackingActor`.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def open(self, record: RunRecord, fresh: bool = False) -> Tracker:
        """See :meth:`RunStore.open`."""
        run_id, continued = ray.get(self._writer.begin.remote(record, fresh))
        return RelayTracker(self._writer, record, run_id, continued)


class RelayTracker:
    """A :class:`Tracker` that collects its entries. :meth:`flush` sends them and returns when they are written.

    Args:
        writer: the handle of the :class:`TrackingActor`. record: the record of the run.
        run_id, continued: the answer of :meth:`TrackingActor.begin`.
    """

    def __init__(self, writer: Any, record: RunRecord, run_id: str, continued: bool) -> None:
        self._writer, self._record, self.run_id, self.continued = writer, record, run_id, continued
        self._entries: list[Entry] = []

    def log_params(self, params: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        self._entries.append(("log_params", (dict(params),)))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        self._entries.append(("set_tags", (dict(tags),)))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        self._entries.append(("metrics", (step, dict(values))))

    def image(self, key: str, step: int, png: bytes) -> None:
        """See :class:`Tracker`."""
        self._entries.append(("image", (key, step, png)))

    def artifact(self, path: Path, folder: str = "") -> None:
        """See :class:`Tracker`."""
        self._entries.append(("artifact", (path.name, path.read_bytes(), folder)))

    def flush(self) -> None:
        """See :class:`Tracker`."""
        if self._entries:
            ray.get(self._writer.write.remote(self._record, self._entries))
            self._entries = []

    def finish(self, status: Ended) -> None:
        """See :class:`Tracker`."""
        self._entries.append(("finish", (status,)))
        self.flush()


def _artifact(tracker: Tracker, name: str, content: bytes, folder: str) -> None:
    """Stores an artifact from its bytes."""
    with debris.scratch() as scratch:
        path = scratch / name
        path.write_bytes(content)
        tracker.artifact(path, folder)
