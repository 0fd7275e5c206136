"""Prints the progress of a running sweep or study: a live table on a terminal, else lines of text."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from fedrecon.sites.errors import listed, tell, visible
from fedrecon.tune.search.config import CampaignSettings, Sweep
from fedrecon.tune.trials.settings import among, best_setting
from fedrecon.tune.trials.trial_table import ENDED, TrialRow, TrialTable

INTERVAL = 15.0
"""The smallest number of seconds between two lines about running trials, if stderr is not a terminal."""


REFRESH = 0.25
"""The smallest number of seconds between two updates of the live table: its counts go through all trials."""

ROOM = 6
"""Lines of a screen that the live table leaves to others: its own head, and what is printed above it."""


class SweepProgress:
    """Prints the progress to ``stream``. None takes stderr; it is never stdout.

    Args:
        settings: the settings of the sweep or study. The trials of a sweep compete for its best validation score;
            those of a study do not compete, and their PSNR on test subjects is shown.
        trial_table: the table of the trials. total: the number of trials that may run.
    """

    def __init__(
        self, settings: CampaignSettings, trial_table: TrialTable, total: int, stream: TextIO | None = None
    ) -> None:
        self._name, self._trial_table, self._total = settings.name, trial_table, total
        self._stream = stream or sys.stderr
        self._ranked = (settings.metrics[0], settings.modes[0]) if isinstance(settings, Sweep) else None
        self._shown = self._ranked[0] if self._ranked else "test/mean/psnr"
        self._spoken = time.monotonic()
        self._start: float | None = None
        self._view: Any = None
        self._before, self._drawn = self._work(), 0.0
        if self._stream.isatty():
            self._open()

    def say(self, message: str) -> None:
        """Prints a message on its own line."""
        if self._view is not None:
            self._view.console.print(visible(message), highlight=False, markup=False)
        else:
            tell(message, self._stream)

    def changed(self, row: TrialRow) -> None:
        """Shows that a trial began, committed a round, or ended."""
        if self._start is None and self._work() > self._before:  # the time of the start-up does not count for the pace
            self._start, self._before = time.monotonic(), self._work()
        if row.status in ENDED:
            self.say(self._verdict(row))
        if self._view is not None and time.monotonic() - self._drawn >= REFRESH:
            self._draw()
        elif self._view is None and row.status == "RUNNING" and time.monotonic() - self._spoken > INTERVAL:
            self._spoken = time.monotonic()
            self.say(self.summary())

    def close(self) -> None:
        """Ends the live view."""
        if self._view is not None:
            self._draw()
            self._view.stop()
            self._view = None

    def summary(self) -> str:
        """The number of trials with each status, the best setting so far, and the remaining time."""
        counts = [f"{self._trial_table.count(status)} {status.lower()}" for status in ("RUNNING", "WAITING", *ENDED)]
        best = best_setting(self._trial_table.rows, *self._ranked) if self._ranked else None
        numbers = listed((str(row.trial.number) for row in best.rows), 8) if best else ""
        mean = best.over_seeds(self._shown)[0] if best else None
        best_so_far = f"; best {self._shown} {mean:.3f} (trial {numbers})" if mean is not None else ""
        return f"{', '.join(counts)}{best_so_far}{self._left()}"

    def _verdict(self, row: TrialRow) -> str:
        """The line about a trial that has ended."""
        done = self._trial_table.count(*ENDED)
        head = f"trial {row.trial.number} {row.status.lower()} ({done}/{max(self._total, len(self._trial_table.rows))})"
        row = among(row, self._trial_table.rows)
        lost = f" ({row.error})" if row.status == "FINISHED" and row.error else ""
        score = f"  {self._shown} {_score(row, self._shown)}{lost}" if row.status != "FAILED" else f"  {row.error}"
        return f"{head}  {row.trial.name}{score}  {row.seconds:.1f} s{self._left()}"

    def _left(self) -> str:
        """The remaining time as text, from the remaining rounds and the pace of this call; empty without a pace."""
        if self._start is None:
            return ""
        done = self._work() - self._before
        left = sum(max(row.trial.experiment.rounds - row.round, 0) + 1 for row in self._unfinished())
        if not done or not left:
            return ""
        seconds = round((time.monotonic() - self._start) / done * left)
        return f"  about {seconds // 60}:{seconds % 60:02d} left"

    def _work(self) -> int:
        """The work that is done: committed rounds, and one unit for each trial that has ended."""
        return sum(row.round + (row.status in ENDED) for row in self._trial_table.rows)

    def _unfinished(self) -> list[TrialRow]:
        """One row for each training that is still to be done."""
        seen = set[str]()
        rows = []
        for row in self._trial_table.rows:
            if row.status not in ENDED and row.trial.training not in seen:
                rows.append(row)
            seen.add(row.trial.training)
        return rows

    def _open(self) -> None:
        from rich.console import Console
        from rich.live import Live as View

        console = Console(file=self._stream)
        self._view = View(self._table(console.height), console=console, refresh_per_second=4)
        self._view.start()

    def _draw(self) -> None:
        self._view.update(self._table(self._view.console.height))
        self._drawn = time.monotonic()

    def _table(self, height: int) -> Any:
        """The counts, the best setting, and as many of the running trials as a screen of this height has room for."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for title in ("trial", "", "round", self._shown):
            table.add_column(title, no_wrap=True, overflow="ellipsis")
        running = [row for row in self._trial_table.rows if row.status == "RUNNING"]
        shown = running[: max(height - ROOM, 1)]
        for row in shown:
            rounds = f"{row.round}/{row.trial.experiment.rounds}"
            table.add_row(str(row.trial.number), Text(row.trial.name), rounds, _score(row, self._shown))
        more = [Text(f"and {len(running) - len(shown)} more that run")] if running[len(shown) :] else []
        return Group(Text(f"{self._name}: {self.summary()}"), table, *more)


def _score(row: TrialRow, metric: str) -> str:
    value = row.metrics.get(metric)
    return "-" if value is None else f"{value:.3f}"
