"""Who has not answered yet: whom to name, whom to end, and when. Loads no Ray; the clock is an argument."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIVENESS = "liveness.jsonl"
"""Name of the file of events (JSON lines) in the folder of a run: waiting, restarted, skipped, dead."""


@dataclass
class Patience:
    """How long a member may take.

    Attributes:
        fit_timeout: time in seconds for one call; None (auto) follows the longest call.
        longest: time in seconds of the longest call that was answered in this run.
        first: time in seconds after which members are named; they are named again after twice the time, and so on.
        least: the shortest time in seconds that auto gives a call.
    """

    fit_timeout: float | None = None
    longest: float = 0.0
    first: float = 30.0
    least: float = 600.0

    def limit(self, tries: int) -> float:
        """Time in seconds for a call that was ended ``tries`` times already.

        With auto the time doubles at each try. So a call that simply takes long is answered in the end, though nothing
        was known about it.
        """
        if self.fit_timeout is not None:
            return self.fit_timeout
        return float(max(self.least, 10 * self.longest) * 2**tries)


class Watch:
    """The clock of one question that is put to several members at once.

    Args:
        patience: the times.
        show: shows a message that the next one may replace. say: prints a line that stays.
        path: file of events (JSON lines); None keeps none.
        clock: the time in seconds.

    Attributes:
        waited: time in seconds, by member, that the run has waited for members that it named; the caller clears it.
    """

    def __init__(
        self,
        patience: Patience | None = None,
        show: Callable[[str], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
        path: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience, self.say, self.waited = patience or Patience(), say, dict[str, float]()
        self._show, self._path, self._clock = show, path, clock
        self._asked, self._name_after = clock(), self.patience.first
        self._about: dict[str, Any] = {}
        self._begun: dict[str, float] = {}
        self._tries: dict[str, int] = {}

    def ask(self, call: str, round_number: int | None, members: Iterable[str]) -> None:
        """A new question begins: this call of these members."""
        self._asked, self._name_after = self._clock(), self.patience.first
        self._about = {"call": call, "round": round_number}
        self._begun, self._tries = dict.fromkeys(members, self._asked), {}

    def ask_again(self, member: str) -> None:
        """The question is put to the member again: its time begins anew."""
        self._begun[member] = self._clock()

    def answered(self, member: str) -> None:
        """The member has answered."""
        if (begun := self._begun.pop(member, None)) is not None:
            self.patience.longest = max(self.patience.longest, self._clock() - begun)

    def rest(self) -> float:
        """Time in seconds until :meth:`due` has something to do."""
        ends = [begun + self._limit(member) for member, begun in self._begun.items()]
        return max(min([self._asked + self._name_after, *ends]) - self._clock(), 0.0)

    def due(self, late: Iterable[str], arriving: Iterable[str] = ()) -> list[str]:
        """Names the members without an answer when it is time.

        Args:
            late: the members that have not answered.
            arriving: members that have, whose answer is still on its way; they are named and not ended.

        Returns:
            those of the late ones that have used up their time. Their time begins anew.
        """
        late, now = list(late), self._clock()
        for member in set(self._begun) - {*late}:  # the answer is there, though the caller has not taken it yet
            del self._begun[member]
        waited = now - self._asked
        slow = [*late, *arriving]
        if slow and waited >= self._name_after:
            self._name_after *= 2
            self.waited |= dict.fromkeys(slow, waited)
            self._show(f"waiting for {', '.join(slow)}, {waited:.0f} s")
            self.note("waiting", *slow, seconds=round(waited, 1))
        over = [one for one in late if now - self._begun.setdefault(one, now) >= self._limit(one)]
        for member in over:
            self._tries[member] = self._tries.get(member, 0) + 1
            self._begun[member] = now
        return over

    def note(self, event: str, *members: str, **more: Any) -> None:
        """Adds an event to the file."""
        if self._path is None:
            return
        row = {"time": round(time.time(), 3), "event": event, "members": members, **self._about, **more}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    @contextmanager
    def named(self, call: str, round_number: int | None, member: str) -> Iterator[None]:
        """Names the member while the body, a call in this process, takes long. Nothing can end the body.

        Raises:
            OSError: an event could not be written (a full disk). It is raised when the body has ended.
        """
        self.ask(call, round_number, [member])
        done, failures = threading.Event(), list[OSError]()

        def name() -> None:
            try:
                while not done.wait(self._asked + self._name_after - self._clock()):
                    self.due([member])
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=name, daemon=True, name="fedrecon-watch")
        thread.start()
        try:
            yield
            self.answered(member)
        finally:
            done.set()
            thread.join()
        if failures:
            raise failures[0]

    def _limit(self, member: str) -> float:
        return self.patience.limit(self._tries.get(member, 0))
