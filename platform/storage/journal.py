"""The journal of a run: everything that MLflow shall hold of it, first in an append-only file of the run's own folder.

A run writes here and nowhere else, so no trouble of a tracking server is the run's trouble. A
:class:`~fedrecon.platform.storage.tracking.sender.Sender` reads the journal and brings the store up to it; the whole
journal can be sent again into a new store. A line that a crash cut off is passed over: its round was not committed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedrecon.sites import atomic

Ended = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunRecord:
    """The data with which the store makes a run, or finds it again.

    Attributes:
        experiment_name: name of the MLflow experiment, which is made if missing.
        run_name: name of a new run.
        digest: identity of the science of the run.
        params: the values that tell runs apart, as text by dotted key.
        tags: tags, such as the git commit and the sweep or study that the run belongs to.
        owner: the workspace that the run belongs to. Another workspace never continues it.
        run_id: the id under which the workspace knows the run, if it has one.
        journal: the id of the journal that holds the record; empty in one of an earlier version. A journal of the same
            digest with another id never continues the run: it may hold other numbers.
    """

    experiment_name: str
    run_name: str
    digest: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    run_id: str = ""
    journal: str = ""


class DatasetRecord(NamedTuple):
    """The data of one site and split: numbers and hashes, no data and no path.

    Attributes:
        site, split: whose data, and what they are for: ``train``, ``validation`` or ``test``.
        digest: the beginning of the content hash of the site's shard.
        profile: numbers: subjects, volumes, slices, and whether the k-space was simulated.
    """

    site: str
    split: str
    digest: str
    profile: Mapping[str, Any]


class Entry(NamedTuple):
    """A line of the journal: a method of the tracker or store with its arguments, and when it was called (ms)."""

    method: str
    arguments: list[Any]
    milliseconds: int


@dataclass(frozen=True)
class Sent:
    """What a store has got of a journal.

    Attributes:
        uri: the store, without a password; empty is the workspace's own file.
        owner: the name under which the workspace owns the run there.
        run_id: the id of the run there.
        offset: number of bytes of the journal that were sent.
        experiment_id: the id of the MLflow experiment of the last saved view.
    """

    uri: str = ""
    owner: str = ""
    run_id: str = ""
    offset: int = 0
    experiment_id: str = ""


class Journal:
    """The record of one run. It has the methods of a :class:`Tracker`, and none of them waits for a server.

    Args:
        folder: folder of the journal, beside which the pictures and artifacts are kept until a store has them and
            after that for the next one.
        notify: a function that is called with the folder when there is something to send; None sends nothing.
    """

    def __init__(self, folder: Path, notify: Callable[[Path], None] | None = None) -> None:
        self.folder, self.notify = folder, notify
        self._file, self._sent = folder / "journal.jsonl", folder / "sent.json"
        self._lines: list[str] = []

    @property
    def run_id(self) -> str:
        """The id of the run in the store that got it last; empty as long as none has."""
        return self.sent.run_id

    @property
    def sent(self) -> Sent:
        """What the last store has got. A damaged note is none: everything is sent again, and the store skips it."""
        try:
            return Sent(**json.loads(self._sent.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return Sent()

    def note_sent(self, sent: Sent) -> None:
        """Notes what a store has got."""
        if sent != self.sent:
            atomic.write_json(self._sent, asdict(sent))

    @property
    def size(self) -> int:
        """Number of bytes of the journal; 0 if there is none."""
        return self._file.stat().st_size if self._file.is_file() else 0

    def entries(self, offset: int = 0) -> Iterator[tuple[int, Entry]]:
        """Yields the entries from ``offset`` on, each with the offset of its end. A torn last line is not yet one."""
        if not self._file.is_file():
            return
        with self._file.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                try:
                    entry = Entry(*json.loads(line))
                except (ValueError, TypeError):
                    continue
                yield offset, entry

    @property
    def id(self) -> str | None:
        """The journal's id, which no other run has, not even of the same digest. Empty in one of an earlier version.

        None: nothing is recorded yet.
        """
        opened = (entry.arguments[0] for _, entry in self.entries() if entry.method == "open")
        return next((str(given.get("journal", "")) for given in opened), None)

    @property
    def ended(self) -> bool:
        """Whether the last entry of the run's life is its end; True without a journal."""
        life = [entry.method for _, entry in self.entries() if entry.method in ("open", "finish")]
        return life[-1:] != ["open"]

    def pictured(self, step: int) -> bool:
        """Whether a picture of this step is recorded."""
        return any(entry.method == "image" and entry.arguments[1] == step for _, entry in self.entries())

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the run."""
        return self._texts("tags", "set_tags")

    @property
    def params(self) -> dict[str, str]:
        """The parameters of the run."""
        return self._texts("params", "log_params")

    @property
    def values(self) -> dict[str, tuple[int, float]]:
        """The last step of each metric, and its value there."""
        found: dict[str, tuple[int, float]] = {}
        for _, entry in self.entries():
            if entry.method == "metrics":
                step, values = entry.arguments
                found |= {key: (step, value) for key, value in values.items() if step >= found.get(key, (step, 0.0))[0]}
        return found

    @property
    def artifacts(self) -> list[str]:
        """The paths of the artifacts that are kept."""
        folder = self.folder / "artifacts"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def _texts(self, kind: str, method: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for _, entry in self.entries():
            if entry.method in ("open", method):
                (given, *_) = entry.arguments
                found |= given[kind] if entry.method == "open" else given
        return found

    def open(self, record: RunRecord, fresh: bool = False) -> None:
        """The run begins or goes on; see :meth:`RunStore.open`. The first call gives the journal its id."""
        known = self.id
        self._note("open", asdict(replace(record, journal=uuid.uuid4().hex if known is None else known)), fresh)
        self.flush()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        self._note("set_tags", dict(tags))

    def log_params(self, params: Mapping[str, str]) -> None:
        """See :class:`Tracker`."""
        self._note("log_params", dict(params))

    def datasets(self, given: Sequence[DatasetRecord]) -> None:
        """See :class:`Tracker`."""
        self._note("datasets", [list(one) for one in given])

    def model(self, name: str, step: int, files: Sequence[Path]) -> None:
        """See :class:`Tracker`. The files are kept."""
        kept = [Path("models", name, path.name) for path in files]
        for path, into in zip(files, kept, strict=True):
            self._keep(path, into)
        self._note("model", name, step, [str(one) for one in kept])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        self._note("metrics", step, {key: float(value) for key, value in values.items()})

    def image(self, key: str, step: int, png: bytes) -> None:
        """See :class:`Tracker`."""
        name = f"images/{key.replace('/', '~')}+{step}.png"
        atomic.write_bytes(self.folder / name, png)
        self._note("image", key, step, name)

    def artifact(self, path: Path, folder: str = "") -> None:
        """See :class:`Tracker`. The file is kept: by a second link to it, where the disk has links."""
        name = Path("artifacts", folder, path.name)
        self._keep(path, name)
        self._note("artifact", str(name), folder)

    def view(self, experiment_name: str, key: str, view: Mapping[str, Any]) -> None:
        """See :meth:`RunStore.save_view`."""
        self._note("view", experiment_name, key, view)

    def finish(self, status: Ended) -> None:
        """See :class:`Tracker`. What was recorded before is written with it."""
        self._note("finish", status)
        self.flush()

    def flush(self) -> None:
        """Writes and syncs the entries, and has them sent. A round is committed after it.

        Raises:
            DiskFullError: the disk is full.
        """
        text, self._lines = "".join(self._lines), []
        if text:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic.room_for(self._file), self._file.open("ab+") as file:
                if size := file.seek(0, os.SEEK_END):
                    file.seek(size - 1)
                    text = text if file.read(1) == b"\n" else "\n" + text  # a crash cut the last line off
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        if self.notify is not None:
            self.notify(self.folder)

    def artifact_path(self, path: str) -> Path | None:
        """The file of the artifact ``path``; None if the run recorded none of this name."""
        found = self.folder / "artifacts" / path
        return found if found.is_file() else None

    def _keep(self, path: Path, name: Path) -> None:
        kept = self.folder / name
        if kept.exists() and kept.samefile(path):  # a link to it would stay beside it: no link replaces its own file
            return
        with atomic.replacing(kept) as temporary:
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)

    def _note(self, method: str, *arguments: Any) -> None:
        self._lines.append(json.dumps([method, arguments, time.time_ns() // 1_000_000]) + "\n")
