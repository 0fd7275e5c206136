"""Shows what a command is at: a spinner on a terminal; elsewhere a line, once a phase has lasted."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from fedrecon.sites.errors import tell, visible
from fedrecon.sites.phases import Step

PATIENCE = 1.5
"""The seconds after which a phase is worth a line where there is no terminal. Nothing is silent for two."""

LONGEST = 10.0
"""The longest time in seconds between two lines of a phase that counts; the first one comes after :data:`PATIENCE`."""


@contextmanager
def show(text: str, total: int = 0) -> Iterator[Step]:
    """Shows a phase on stderr; see :data:`fedrecon.sites.phases.Shown`."""
    phase = _Phase(text, total)
    with _spinner(phase) if sys.stderr.isatty() else _lines(phase):
        yield phase.done


class _Phase:
    """A phase and its count."""

    def __init__(self, text: str, total: int) -> None:
        self.text, self.total, self.count, self.begun = text, total, 0, time.monotonic()

    def done(self) -> None:
        self.count += 1

    def __str__(self) -> str:
        count = f" {min(self.count + 1, self.total)}/{self.total}" if self.total else ""
        return f"{visible(self.text)}{count}"


_TURNING: list[_Phase] = []
"""The phases that run on a terminal, an outer one before those within it."""

_LIVE: list[Any] = []
"""rich's live display while a phase runs; a terminal has room for one."""


class _Screen:
    """The text beside the spinner, anew each time that it is drawn: the counts, and what the last phase does."""

    def __rich__(self) -> str:
        from rich.markup import escape

        if not (running := _TURNING[:]):
            return ""
        shown = " · ".join(map(str, [*(one for one in running[:-1] if one.total), running[-1]]))
        seconds = time.monotonic() - running[-1].begun
        return f"[dim]{escape(shown)}" + (f"  {seconds:.0f} s" if seconds >= 2 else "")


@contextmanager
def _spinner(phase: _Phase) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    _TURNING.append(phase)
    if not _LIVE:
        turning: Any = Spinner("dots", cast(Any, _Screen()))
        # stdout is for results: it is not drawn through this console
        _LIVE.append(Live(turning, console=Console(stderr=True), transient=True, redirect_stdout=False))
        _LIVE[0].start()
    try:
        yield
    finally:
        _TURNING.remove(phase)
        if not _TURNING:
            _LIVE.pop().stop()


@contextmanager
def _lines(phase: _Phase) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=_write, args=(phase, ended), name="phase", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write(phase: _Phase, ended: threading.Event) -> None:
    """Writes the phase once it has lasted, and its count again and again, less and less often."""
    wait, last = PATIENCE, ""
    while not ended.wait(wait):
        if str(phase) != last:
            last = str(phase)
            tell(f"{last} ...")
        wait = min(2 * wait, LONGEST)
