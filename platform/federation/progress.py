"""The progress of a run: a live bar on a terminal, or one line per committed round when the stream is piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from fedrecon.sites.errors import tell, visible
from fedrecon.sites.phases import Step, shown_by

MOST, WORST = 16, 8
"""With more sites than the first number, a line shows the scores of the lowest ones alone: this many."""


class Progress:
    """Shows the committed rounds on ``stream``.

    Args:
        total: number of rounds of the experiment.
        start: number of rounds that were committed before this call.
        stream: the stream to write to; None takes stderr, because stdout is for results.
    """

    def __init__(self, total: int, start: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.begun, self.stream = total, start, stream or sys.stderr
        self._clock: float | None = None
        self._bar: Any = None
        self._task: Any = None
        self._psnr = ""
        self._open = ExitStack()
        if self.stream.isatty() and total:
            self._start_bar(start)

    def say(self, message: str) -> None:
        """Prints the message on a separate line."""
        if self._bar is not None:
            self._bar.console.print(visible(message), highlight=False, markup=False)
        else:
            tell(message, self.stream)

    def update(self, message: str) -> None:
        """Shows how far a long step between two rounds has come: beside the bar, or else on a separate line."""
        if self._bar is not None:
            self._bar.update(self._task, note=message)
        else:
            self.say(message)

    def late(self, message: str) -> None:
        """Shows who has not answered yet."""
        self.update(message)

    def trouble(self, message: str) -> None:
        """Prints what happened to a member: it was started again, or left out."""
        self.say(message)

    def round(self, number: int, losses: Mapping[str, float], psnr: Mapping[str, float], seconds: float) -> None:
        """Shows that round ``number`` was committed.

        Args:
            losses: training loss by site.
            psnr: validation PSNR (dB) by site; empty if no validation scores were due.
            seconds: wall time of this round.
        """
        mean = sum(losses.values()) / len(losses) if losses else float("nan")
        if psnr:
            worst = sorted(psnr, key=psnr.__getitem__)[: len(psnr) if len(psnr) <= MOST else WORST]
            shown = ", ".join(f"{site} {psnr[site]:.2f}" for site in psnr if site in worst)
            shown = f"lowest of {len(psnr)}: {shown}" if len(worst) < len(psnr) else shown
            self._psnr = f"  validation PSNR {sum(psnr.values()) / len(psnr):.2f} dB ({shown})"
        left = self._pace(number, seconds) * (self.total - number)
        if self._bar is not None:
            self._bar.update(self._task, completed=number, note=f"loss {mean:.4f}{self._psnr}  {_clock(left)} left")
            return
        scores = self._psnr if psnr else ""
        self.say(f"round {number}/{self.total}  loss {mean:.4f}{scores}  {seconds:.1f} s  {_clock(left)} left")

    def _pace(self, number: int, seconds: float) -> float:
        """Mean seconds per round, scoring included, since the first round of this call. Start-up does not count."""
        now = time.monotonic()
        if self._clock is None:
            self._clock, self.begun = now, number
            return seconds
        return (now - self._clock) / (number - self.begun)

    def close(self) -> None:
        """Removes the live bar."""
        self._open.close()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (
            SpinnerColumn(),
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(24),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bar = Bar(*columns, console=Console(file=self.stream))
        self._task = self._bar.add_task("", total=self.total, completed=start, note="")
        self._bar.start()
        self._open.enter_context(shown_by(self._beside))

    @contextmanager
    def _beside(self, text: str, total: int) -> Iterator[Step]:
        """Shows a phase beside the bar: a terminal has room for one display."""
        count = 0

        def done() -> None:
            nonlocal count
            count += 1
            show()

        def show() -> None:
            self.update(text + (f" {min(count + 1, total)}/{total}" if total else ""))

        show()
        yield done


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
