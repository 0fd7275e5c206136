"""SIGTERM ends a command as Ctrl-C does: its run ends as KILLED, its processes end, and the same command goes on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from fedrecon.sites.errors import tell

TERMINATED = 143
"""The exit code of a command that SIGTERM ended."""

SAYS = "interrupted; the same command goes on from the last committed round"

LOST_AFTER = 15.0
"""Time in seconds that a terminated command has to end by itself when its Ray has ended before it."""

last_wills: list[Callable[[], None]] = []
"""What is done before a command is ended that waits for a Ray that has ended. Who adds one removes it again."""


@dataclass
class Termination:
    """Whether SIGTERM was received in the body of :func:`terminable`."""

    received: bool = False


@contextmanager
def terminable() -> Iterator[Termination]:
    """In the body SIGTERM does what SIGINT does at that moment. Ray Tune has its own handler for SIGINT, for instance.

    A service manager sends SIGTERM to all processes at once, and Ray's own then end before the driver, which Ray lets
    wait for them for a minute. So that wait is cut short (:data:`LOST_AFTER`).

    Only the main thread can handle signals; in another one the body runs as it is.
    """
    termination, over = Termination(), threading.Event()

    def interrupt(_: int, frame: FrameType | None) -> None:
        if not termination.received:
            termination.received = True
            _change_last_word()
            threading.Thread(target=_end_if_lost, args=(over,), daemon=True, name="fedrecon-termination").start()
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # a shell starts a job in the background with SIGINT ignored
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield termination
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)


def _end_if_lost(over: threading.Event, poll: float = 0.5) -> None:
    while not _ray_has_ended():
        if over.wait(poll):
            return
    if over.wait(LOST_AFTER):
        return
    for will in list(last_wills):
        try:
            will()
        except Exception as error:  # noqa: BLE001 - nothing may keep the process
            tell(f"warning: {type(error).__name__}: {error}")
    from fedrecon.platform.execution import last_word

    last_word.goodbye()
    tell(SAYS)
    os._exit(TERMINATED)


def _change_last_word() -> None:
    """If Ray ends this process before it has ended by itself, its user reads the true reason."""
    if "ray" in sys.modules:
        from fedrecon.platform.execution import last_word

        last_word.change(SAYS)


def _ray_has_ended() -> bool:
    if "ray" not in sys.modules:
        return False
    from fedrecon.platform.execution.lost_ray import ended

    return ended() is not None
