"""SIGTERM ends a command as Ctrl-C does: its run ends as KILLED, its processes end, and the same command goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Termination:
    """Whether SIGTERM was received in the body of :func:`terminable`."""

    received: bool = False


@contextmanager
def terminable() -> Iterator[Termination]:
    """In the body SIGTERM does what SIGINT does at that moment. Ray Tune has its own handler for SIGINT, for instance.

    Only the main thread can handle signals; in another one the body runs as it is.
    """
    termination = Termination()

    def interrupt(_: int, frame: FrameType | None) -> None:
        termination.received = True
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
        signal.signal(signal.SIGTERM, before)
