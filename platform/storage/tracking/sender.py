"""Sends journals to a store: in the background, again and again, and never on the way of a run."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.journal import DatasetRecord, Entry, Journal, RunRecord, Sent
from fedrecon.platform.storage.tracking.address import noted, public
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.tracking.tracker import BufferedTracker, RunStore
from fedrecon.platform.storage.workspace import owner_of
from fedrecon.sites.errors import FedreconError, InputError, RunError, brief, cause_of, tell
from fedrecon.sites.phases import phase

LONGEST_PAUSE = 30.0
"""Seconds between two tries, at most."""

FIRST_PAUSE = 1.0
"""Seconds before the second try. Each pause is twice the one before."""

LAST_TRIES = 10.0
"""Seconds for which a run that has ended tries on, if the store is in trouble."""

LAST_WORD = 1.0
"""How long, in seconds, a try that is under way may take at the end."""

STUCK = 60.0
"""Seconds after which a run that has ended no longer waits for one call of the store."""

_PORTION = 500
"""Entries after which the journal's position is noted."""


class Sender:
    """Sends what is in journals. A thread does it; the store is used by one thread at a time.

    Args:
        workspace: the workspace of the journals.
        uri: see :func:`run_store`.
        store: a store that is open already; None opens the one at ``uri``.
        say: a function that shows a line to the user; None prints it to stderr.

    Raises:
        InputError: the URI cannot hold runs, or no server answers there.
    """

    def __init__(
        self,
        workspace: Path,
        uri: str | None = None,
        store: RunStore | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.say = say or tell
        self.store = store or _opened(uri, workspace)
        self.uri = public(self.store.uri)
        self._nothing = Sent(noted(self.store.uri, workspace), "" if self.store.own else owner_of(workspace))
        self._trackers: dict[Path, BufferedTracker | None] = {}
        self._store_lock, self._changed = threading.Lock(), threading.Condition()
        self._waiting: dict[Path, None] = {}
        self._busy = self._trouble = self._closing = False
        self._moved = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="fedrecon-sender", daemon=True)
        if self.store.mended:
            self.say(f"{self.store.mended}. fedrecon sync sends the other runs of this workspace to it again")
        self._thread.start()

    def begin(self, journal: Journal) -> None:
        """Sends a journal at the start of a run, at once.

        Raises:
            InputError: the store is a server and cannot take it. A file that is busy is tried again in the background.
        """
        try:
            with phase(f"opening MLflow at {public(self.uri)}"):
                self.deliver(journal.folder)
        except InputError:
            raise
        except Exception as error:
            if not self.store.local:
                raise InputError(f"the MLflow server at '{self.uri}' does not take the run: {_why(error)}") from error
            self._failed(journal.folder, error)
            self.notify(journal.folder)

    def notify(self, folder: Path) -> None:
        """Has the journal in ``folder`` sent in the background."""
        with self._changed:
            self._waiting[folder] = None
            self._changed.notify_all()

    def drain(self) -> bool:
        """Waits until everything is sent. Returns False if the store is in trouble and the rest has to wait."""
        start = time.monotonic()
        while self._thread.is_alive() and (self._waiting or self._busy):
            now = time.monotonic()
            if (self._trouble and now - start > LAST_TRIES) or now - max(self._moved, start) > STUCK:
                break
            time.sleep(0.01)
        return not self._waiting and not self._busy

    def close(self) -> None:
        """Waits until everything is sent, and ends the thread. Says it, if a part has to wait for the next call."""
        with phase("sending the record to MLflow"):
            done = self.drain() and self._sound()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(LAST_WORD)  # a try that is under way ends with close(), not after it
        if not done:
            self.say(
                f"MLflow at {self.uri} has not got all of this yet: the same command or fedrecon sync sends the rest"
            )

    def _sound(self) -> bool:
        """Looks at a file of this disk once more: SQLite may write into a damaged one without noticing."""
        sent = list(self._trackers)
        try:
            with self._store_lock:
                self._mend(trouble=True)
        except Exception:  # noqa: BLE001 - MLflow raises anything
            return False
        if self._trackers:
            return True
        for folder in sent:
            self.notify(folder)
        return self.drain()

    def deliver(self, folder: Path) -> Sent:
        """Brings the store up to the journal in ``folder``. Returns what the store has got.

        A run that the store does not know is made, and gets the whole journal.
        """
        with self._store_lock:
            self._mend(trouble=False)
            try:
                return self._deliver(Journal(folder))
            except Exception:
                self._trackers.pop(folder, None)
                with suppress(Exception):
                    self._mend(trouble=True)
                raise

    def _deliver(self, journal: Journal) -> Sent:
        sent = journal.sent
        if (sent.uri, sent.owner) != (self._nothing.uri, self._nothing.owner):
            sent = self._nothing
        tracker = self._trackers.get(journal.folder) or (self.store.attach(sent.run_id) if sent.run_id else None)
        if tracker is None and sent.run_id:
            if self.store.deleted(sent.run_id) and sent.offset == journal.size:
                return sent  # a person deleted a run that was complete
            sent = self._nothing
        count, ended = 0, False
        for offset, entry in journal.entries(sent.offset):
            ended = entry.method == "finish"
            tracker, sent = self._apply(journal, tracker, sent, entry)
            sent, count = replace(sent, offset=offset), count + 1
            self._moved = time.monotonic()
            if count % _PORTION == 0 and tracker is not None:
                tracker.flush()
                journal.note_sent(sent)
        if tracker is not None:
            tracker.flush()
            self._trackers[journal.folder] = None if ended else tracker  # of a thousand trials few are under way
        if count:
            journal.note_sent(sent)
        return sent

    def _apply(
        self, journal: Journal, tracker: BufferedTracker | None, sent: Sent, entry: Entry
    ) -> tuple[BufferedTracker | None, Sent]:
        """Writes one entry. What the store refuses for what it is, is said and left out."""
        try:
            if entry.method == "open":
                given, fresh = entry.arguments
                record = RunRecord(**given)
                record = replace(record, owner=sent.owner, run_id=sent.run_id or record.run_id)
                if tracker is not None:
                    tracker.flush()
                tracker = self.store.open(record, fresh and not sent.run_id)
                sent = replace(sent, run_id=tracker.run_id)
                journal.note_sent(sent)
            elif entry.method == "view":
                sent = replace(sent, experiment_id=self.store.save_view(*entry.arguments))
            elif tracker is not None:
                _write(tracker, journal.folder, entry)
            elif entry.method == "set_tags":
                self.store.tag(journal.folder.parent.name, entry.arguments[0], sent.owner)
        except Exception as error:
            if entry.method == "open" or getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                raise
            self.say(f"MLflow at {self.uri} refuses a part of a run, which is left out ({entry.method}): {_why(error)}")
        return tracker, sent

    def _mend(self, trouble: bool) -> None:
        if (said := self.store.mend(trouble)) is not None:
            self._trackers.clear()
            self.say(f"{said}. fedrecon sync sends the other runs of this workspace to it again")

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                folder = next(iter(self._waiting))
                self._busy = True  # first: who drains looks at both without the lock
                del self._waiting[folder]
            try:
                self.deliver(folder)
                self._trouble, pause = False, FIRST_PAUSE
            except Exception as error:  # noqa: BLE001 - MLflow raises anything, and nothing of it is the run's
                self._failed(folder, error)
                self.notify(folder)
            finally:
                self._busy = False
            if self._trouble:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _failed(self, folder: Path, error: Exception) -> None:
        if not self._trouble:
            self._trouble = True
            self.say(
                f"MLflow at {self.uri} takes nothing now ({_why(error)}); the run goes on, its record waits in {folder}"
            )


def _write(tracker: BufferedTracker, folder: Path, entry: Entry) -> None:
    arguments: list[Any] = entry.arguments
    if entry.method == "metrics":
        step, values = arguments
        tracker.metrics(step, values, entry.milliseconds)
    elif entry.method == "image":
        key, step, name = arguments
        tracker.image(key, step, _inside(folder, name).read_bytes())
    elif entry.method == "artifact":
        name, into = arguments
        tracker.artifact(_inside(folder, name), into)
    elif entry.method == "model":
        name, step, files = arguments
        tracker.model(name, step, [_inside(folder, one) for one in files])
    elif entry.method == "datasets":
        tracker.datasets([DatasetRecord(*one) for one in arguments[0]])
    elif entry.method == "log_params":
        tracker.log_params(*arguments)
    elif entry.method == "set_tags":
        tracker.set_tags(*arguments)
    elif entry.method == "finish":
        tracker.finish(*arguments)


def _inside(folder: Path, name: str) -> Path:
    """The file that an entry names. Whoever wrote the journal may be another person.

    Raises:
        RunError: it lies outside of the journal's folder, also by a link.
    """
    if not (path := (folder / name).resolve()).is_relative_to(folder.resolve()):
        raise RunError(f"{folder}: its journal names a file outside of this folder, {brief(name)}; it is not sent")
    return path


def _opened(uri: str | None, workspace: Path) -> RunStore:
    """Opens the store.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        return run_store(uri, workspace)
    except FedreconError:
        raise
    except Exception as error:
        raise InputError(f"the store of runs cannot be opened: {_why(error)}") from error


def _why(error: BaseException) -> str:
    """The first cause, in a few words: MLflow and its libraries wrap it in several lines."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return textwrap.shorten(cause_of(error), 160, placeholder=" ...")
